"""Commands against a real API: what they print and with which code they end."""

from __future__ import annotations

import json
import re

import pytest

from poold.cli.app import COMMANDS
from poold.cli.session import Session
from poold.errors import Permanent


def test_scale_without_wait_says_how_to_come_back(poold):
    """A wish is accepted, numbered, and not waited for."""
    ran = poold("scale", "hello", "2")
    assert ran.code == 0
    assert ran.out == "accepted as change 1; poold changes 1 --wait\n"


def test_scale_with_wait_shows_progress_and_replicas(poold, daemon):
    """Progress goes to standard error while it happens, the result to standard output."""
    daemon.fleet.pace_seconds = 0.5  # news that nobody fetches in time are not shown
    ran = poold("scale", "hello", "2", "--wait", "--reason", "noon")
    assert ran.code == 0
    assert re.search(r"^ *\d+\.\d\d s  (restoring|probing)$", ran.err, re.MULTILINE)
    assert "settled after" in ran.out
    assert "restore 0.21 s, probe 0.04 s" in ran.out
    assert re.search(
        r"^hello2 +hello +ready +b +b:20000 +restore \(oci\) +1 +0.34 s", ran.out, re.MULTILINE
    )


@pytest.mark.parametrize(("count", "wished"), [("3", 3), ("+1", 3), ("-1", 1), ("0", 0)])
def test_scale_takes_numbers_and_differences(poold, count, wished):
    """N is a number, +N and -N are differences; a minus is no option."""
    poold("scale", "hello", "2", "--wait")
    ran = poold("scale", "hello", count, "--json")
    assert json.loads(ran.out)["wish"] == {"replicas": wished}


def test_restore_by_name_on_a_host(poold):
    """A replica comes up under the wished name on the wished host."""
    ran = poold("restore", "hello", "--name", "hello7", "--host", "b", "--wait")
    assert ran.code == 0
    (replica,) = json.loads(poold("ps", "hello", "--json").out)["replicas"]
    assert (replica["name"], replica["host"]) == ("hello7", "b")


def test_move_and_rm(poold):
    """A replica goes to another host and then away."""
    poold("scale", "hello", "1", "--wait")
    assert poold("move", "hello1", "--to", "b", "--wait").code == 0
    assert json.loads(poold("ps", "--json").out)["replicas"][0]["host"] == "b"
    assert poold("rm", "hello1", "--wait").code == 0
    assert poold("ps").out == "no replicas\n"


def test_generations_say_which_hosts_cannot_take_them(daemon, poold):
    """And why; nothing where all can."""
    poold("checkpoint", "hello", "--wait")
    assert "x86_64, runc, criu 4.2, linux 6.18" in poold("generations", "hello").out
    assert "NOT FOR" not in poold("generations", "hello").out
    daemon.fleet.facts["b"] = {"runtime": "crun 1.28", "kernel": "6.1.2"}
    out = poold("generations", "hello").out
    assert "b: it was made with runc, the host has crun" in out
    assert "Linux 6.18, the host has the older 6.1" in out
    (unfit,) = json.loads(poold("generations", "hello", "--json").out)["unfit"].values()
    assert list(unfit) == ["b"]


def test_generations_say_that_the_image_changed_under_its_name(daemon, poold):
    """Below the table, with the way out; nothing where it did not."""
    poold("checkpoint", "hello", "--wait")
    before = poold("generations", "hello").out
    daemon.fleet.image_note = "hello:1 means another image now: poold checkpoint hello"
    assert poold("generations", "hello").out == f"{before}\n{daemon.fleet.image_note}\n"
    told = json.loads(poold("generations", "hello", "--json").out)
    assert told["image_note"] == daemon.fleet.image_note


def test_checkpoint_and_generations(poold):
    """A checkpoint becomes a generation with its cold start and sizes."""
    assert "poold checkpoint hello makes one" in poold("generations", "hello").out
    assert poold("checkpoint", "hello", "--wait").code == 0
    ran = poold("generations", "hello")
    assert re.search(r"^ *1 +current +60 s +6\.20 s +310 MB +75 MB +a ", ran.out, re.MULTILINE)


def test_a_failed_change_says_why_and_the_way_out(poold, daemon):
    """A change that fails ends with 1, its problem, the hint and the evidence."""
    daemon.fleet.misbehaviour = "fail"
    ran = poold("restore", "hello", "--wait")
    assert ran.code == 1
    assert "cannot restore hello1: the checkpoint holds a live connection\n" in ran.err
    assert "  make the application close it in before_checkpoint\n" in ran.err
    assert "  | Error (criu/sk-inet.c:1): Connected TCP socket\n" in ran.err
    shown = poold("changes", "1")
    assert shown.code == 0
    assert re.search(r"^state +failed$", shown.out, re.MULTILINE)
    assert "make the application close it" in shown.out


def test_a_failed_change_as_json(poold, daemon):
    """With --json the change is on standard output and the problem on standard error."""
    daemon.fleet.misbehaviour = "fail"
    ran = poold("restore", "hello", "--wait", "--json")
    assert ran.code == 1
    assert json.loads(ran.out)["state"] == "failed"
    assert json.loads(ran.err.splitlines()[-1])["problem"]["code"] == "criu.live-connection"


def test_a_wait_that_times_out_ends_with_4(poold, daemon):
    """The change goes on after --timeout, and that is said."""
    daemon.fleet.misbehaviour = "hang"
    ran = poold("scale", "hello", "1", "--wait", "--timeout", "0.1")
    assert ran.code == 4
    assert "change 1 goes on; poold changes 1 --wait" in ran.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("scale", "hello", "99"), "cannot scale hello to 99"),
        (("scale", "other", "1"), "cannot find pool other"),
        (("ps", "other"), "cannot find pool other"),
        (("rm", "hello9"), "cannot find replica hello9"),
        (("changes", "9"), "cannot find change 9"),
        (("logs", "hello9"), "cannot find replica hello9"),
        (("restore", "hello", "--name", "a b"), "cannot use the body"),
        (("scale", "hello", "three"), "no number"),
        (("scale", "hello", "--wiat"), "--wiat"),
        (("scale", "hello"), "Missing argument"),
        (("scael",), "Did you mean 'scale'?"),
        (("changes", "--wait"), "--wait needs a change's number"),
        (("move", "hello1"), "Missing option '--to'"),
        (("ps", "--nonsense"), "No such option"),
        (("ps", "a/../../b?x#"), "cannot "),
    ],
)
def test_refusals_and_wrong_usage_end_with_2(poold, daemon, arguments, says):
    """What is refused or misspelt ends with 2 and a sentence, and nothing was wished."""
    ran = poold(*arguments)
    assert ran.code == 2
    assert says in ran.err
    assert "Traceback" not in ran.err
    assert daemon.do(daemon.fleet.changes) == ()


def test_a_daemon_that_is_away_ends_with_3(poold, tmp_path):
    """Nobody at the socket: a sentence, the way out, exit code 3."""
    ran = poold("--socket", str(tmp_path / "nobody"), "ps")
    assert ran.code == 3
    assert ran.err.startswith(f"cannot reach the daemon at {tmp_path}/nobody: no such file")
    assert "systemctl status poold" in ran.err


def test_a_problem_is_json_where_json_was_asked_for(poold, tmp_path):
    """With --json a failure is one JSON object on standard error."""
    ran = poold("ps", "--json", "--socket", str(tmp_path / "nobody"))
    assert ran.code == 3
    assert json.loads(ran.err)["problem"]["code"] == "daemon.unreachable"


def test_a_bug_of_the_daemon_ends_with_1_and_no_traceback(poold, daemon):
    """An internal error is a problem like others."""
    daemon.fleet.misbehaviour = "broken"
    ran = poold("status")
    assert ran.code == 1
    assert "the daemon has a bug" in ran.err
    assert "Traceback" not in ran.err


def test_status_shows_pools_hosts_and_what_goes_on(poold, daemon):
    """Pools with ready and wished, hosts up, and each change under way."""
    daemon.fleet.misbehaviour = "hang"
    poold("scale", "hello", "1", "--wait", "--timeout", "0.1")
    ran = poold("status")
    assert re.search(r"^hello +0/1 ", ran.out, re.MULTILINE)
    assert "2 of 2 hosts up" in ran.out
    assert "change 1: scale to 1: probing" in ran.out


def test_ps_says_which_engine_restored(poold):
    """How a replica came up has the engine beside it."""
    poold("scale", "hello", "1", "--wait")
    assert re.search(r"^hello1 +hello +ready .* restore \(oci\) +1 ", poold("ps").out, re.MULTILINE)


def test_ps_shows_memory_where_asked(poold):
    """All, private, its share of what is shared, and what the kernel merged."""
    poold("scale", "hello", "1", "--wait")
    assert re.search(r" 105 MB +21 MB +63 MB +73 MB", poold("ps", "--wide").out)
    assert "MB" not in poold("ps").out


def test_hosts_and_changes_and_logs(poold):
    """The remaining tables have their rows."""
    poold("scale", "hello", "1", "--wait", "--reason", "noon")
    assert re.search(
        r"^a +up +0 s +42.9 GB +8.6 GB +podman 5.8.6", poold("hosts").out, re.MULTILINE
    )
    assert re.search(r"^ +1 .* scale to 1 +settled .* noon", poold("changes").out, re.MULTILINE)
    assert poold("logs", "hello1", "--tail", "1").out == "hello1 line 3\n"


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        (("status",), {"health", "pools", "hosts", "changes"}),
        (("ps",), {"replicas"}),
        (("hosts",), {"hosts"}),
        (("generations", "hello"), {"generations"}),
        (("changes",), {"changes"}),
        (("logs", "hello1"), {"lines"}),
        (("doctor",), {"hosts"}),
        (("changes", "1"), {"id", "state", "wish"}),
        (("changes", "1", "--wait"), {"id", "state", "wish"}),
        (("restore", "hello"), {"id", "state", "wish"}),
        (("checkpoint", "hello"), {"id", "state", "wish"}),
        (("import", "hello.tar"), {"id", "state", "wish"}),
        (("rm", "hello1"), {"id", "state", "wish"}),
        (("move", "hello1", "--to", "b"), {"id", "state", "wish"}),
    ],
)
def test_json_is_what_the_api_answers(poold, arguments, keys):
    """Every command has --json, and its answer is one object with the API's keys."""
    poold("scale", "hello", "1", "--wait")
    ran = poold(*arguments, "--json")
    assert ran.code == 0
    assert keys <= set(json.loads(ran.out))


def test_tcp_with_a_token(poold, daemon, tmp_path):
    """The same commands work over TCP with the token from a file, and not without."""
    token = tmp_path / "token"
    token.write_text("sesame\n")
    url = f"http://127.0.0.1:{daemon.tcp_port}"
    assert poold("--url", url, "--token-file", str(token), "scale", "hello", "1").code == 0
    assert daemon.do(daemon.fleet.changes)[0].actor == "token"
    ran = poold("--url", url, "ps")
    assert ran.code == 2
    assert "cannot answer this without the right token" in ran.err
    ran = poold("--url", url, "--token-file", str(tmp_path / "none"), "ps")
    assert (ran.code, "cannot read the token file" in ran.err) == (2, True)
    ran = poold("--url", "ftp://x", "ps")
    assert (ran.code, "cannot use the URL 'ftp://x'" in ran.err) == (2, True)


def test_the_socket_can_come_from_a_configuration(poold, daemon, tmp_path, monkeypatch):
    """--config takes the socket from the file, before or behind the command."""
    monkeypatch.delenv("POOLD_SOCKET")
    file = tmp_path / "poold.toml"
    file.write_text(f'[daemon]\nsocket = "{daemon.socket}"\n')
    assert poold("--config", str(file), "ps").code == 0
    assert poold("ps", "--config", str(file)).code == 0
    file.write_text("[daemon\n")
    ran = poold("ps", "--config", str(file))
    assert (ran.code, "cannot read the configuration" in ran.err) == (2, True)


@pytest.mark.parametrize("words", [("--config", "{}", "serve"), ("serve", "--config", "{}")])
def test_a_typed_configuration_is_the_one_served(poold, tmp_path, monkeypatch, words):
    """Before or behind `serve`: not the packaged one, and not that of POOLD_CONFIG."""
    monkeypatch.setenv("POOLD_CONFIG", str(tmp_path / "inherited.toml"))
    ran = poold(*(word.format(tmp_path / "none.toml") for word in words))
    assert ran.code == 2
    assert f"cannot read the configuration {tmp_path}/none.toml" in ran.err
    ran = poold("serve")
    assert f"cannot read the configuration {tmp_path}/inherited.toml" in ran.err


def test_without_a_word_the_packaged_configuration_is_served(poold, tmp_path):
    """`poold serve` reads /etc/poold/poold.toml."""
    ran = poold("serve", session=Session(default_config=str(tmp_path / "packaged.toml")))
    assert f"cannot read the configuration {tmp_path}/packaged.toml" in ran.err
    assert "/etc/poold/poold.toml" in poold("serve", "--help").out


def test_what_is_typed_goes_before_the_environment(poold, daemon, monkeypatch):
    """An explicit socket wins over POOLD_URL."""
    monkeypatch.setenv("POOLD_URL", "http://127.0.0.1:1")
    assert poold("ps").code == 3
    assert poold("--socket", str(daemon.socket), "ps").code == 0


def test_a_host_that_is_away_ends_with_1(poold, daemon):
    """A problem of the fleet, not of the daemon, is exit code 1."""
    poold("scale", "hello", "1", "--wait")
    daemon.fleet.misbehaviour = "unreachable"
    ran = poold("logs", "hello1")
    assert (ran.code, ran.err) == (1, "cannot reach the host of hello1\n")


def test_roll_and_rollback(poold):
    """Replicas become those of a generation, the newest one or the one before."""
    poold("scale", "hello", "1", "--wait")
    for _ in range(2):
        poold("checkpoint", "hello", "--wait")
    ran = poold("roll", "hello", "--surge", "0", "--unavailable", "2", "--json")
    assert json.loads(ran.out)["wish"] == {"surge": 0, "unavailable": 2}
    assert poold("rollback", "hello", "--wait").code == 0
    (replica,) = json.loads(poold("ps", "--json").out)["replicas"]
    assert replica["generation"] == 1
    assert "rollback to 1" in poold("changes").out
    ran = poold("roll", "hello", "--to", "7")
    assert (ran.code, ran.err.splitlines()[0]) == (2, "cannot find generation 7 of hello")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(poold, name):
    """Each line of the table leads to a command that explains itself."""
    ran = poold(name, "--help")
    assert ran.code == 0
    assert ran.out.startswith(f"Usage: poold {name}")


def test_help_documents_exit_codes_and_examples(poold):
    """`poold --help` names every command, the exit codes and examples; so do commands."""
    ran = poold("--help")
    assert ran.code == 0
    for text in ("checkpoint", "lab", "Exit codes:", "3    the daemon cannot be reached"):
        assert text in ran.out
    assert "poold move hello1 --to b --wait" in poold("move", "--help").out


def test_status_says_what_concerns_the_daemon_itself(poold, daemon):
    """A configuration that was not taken is shown until one is; mostly there is nothing."""
    before = poold("status").out
    daemon.fleet.noted = "not reloaded: cannot use the configuration x.toml: 1 problem"
    assert daemon.fleet.noted in poold("status").out
    assert json.loads(poold("status", "--json").out)["health"]["note"] == daemon.fleet.noted
    daemon.fleet.noted = ""
    assert poold("status").out == before


def test_control_characters_do_not_reach_the_terminal(poold, daemon):
    """Text that came from elsewhere cannot colour or move the terminal's cursor."""
    daemon.fleet.pace_seconds = None
    poold("scale", "hello", "1")
    daemon.do(daemon.fleet.tell, 1, "red \x1b[31m light")
    assert "red ?[31m light" in poold("status").out
    problem = Permanent("x.y", "cannot \x1b[31m do", detail="a\x07b")
    daemon.do(daemon.fleet.fail, 1, problem)
    for ran in (poold("changes"), poold("changes", "1"), poold("changes", "1", "--wait")):
        assert "\x1b" not in ran.out + ran.err
        assert "\x07" not in ran.out + ran.err
        assert "cannot ?[31m do" in ran.out + ran.err
