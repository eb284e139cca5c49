"""The lab's promises, on real hosts: each is a machine, labs are apart, and nothing stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from poold.errors import Problem
from poold.lab import Lab

pytestmark = pytest.mark.lab

COUNTER = "localhost/poold-lab/counter:latest"
CRIU_SETTINGS = "manage-cgroups ignore\nnetwork-lock skip\ntcp-close\n"


def eventually(question: Callable[[], str | None], *, seconds: float = 30) -> str:
    """Ask again and again until the answer is not None."""
    deadline = time.monotonic() + seconds
    while (answer := question()) is None:
        assert time.monotonic() < deadline, f"no answer within {seconds} s"
        time.sleep(0.05)
    return answer


def get(lab: Lab, url: str, *, host: str | None = None) -> str | None:
    """Fetch from within the lab's network, or from a host; None when that fails."""
    argv = ("curl", "--silent", "--fail", "--max-time", "2", url)
    try:
        return (lab.exec(host, *argv) if host else lab.run(*argv)).strip()
    except Problem:
        return None


def ssh(lab: Lab, name: str, *argv: str) -> str:
    options = ("-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={lab.known_hosts_path}")
    address = f"root@{lab.address(name)}"
    return lab.run("ssh", "-F", "none", "-i", str(lab.key_path), *options, address, *argv).strip()


def boot_id(lab: Lab, name: str) -> str:
    return lab.exec(name, "cat", "/proc/sys/kernel/random/boot_id")


@pytest.fixture
def no_containers(lab: Lab) -> Iterator[None]:
    """Remove what a test started on either host."""
    yield
    for host in ("a", "b"):
        lab.exec(host, "podman", "rm", "--force", "--all", "--time", "0")


def test_up_again_leaves_running_hosts_alone(lab: Lab) -> None:
    """A second `up` boots nothing and writes the same configuration."""
    before = lab.status(), lab.config_path.read_text(encoding="utf-8")
    lab.up(hosts=2, image_names=("counter",), images_on=("a",))
    assert (lab.status(), lab.config_path.read_text(encoding="utf-8")) == before
    assert [host.running for host in lab.status()] == [True, True]


def test_hosts_are_whole_machines(lab: Lab) -> None:
    """Each host has systemd, an identity and a name for itself, and no CRIU settings."""
    for name in ("a", "b"):
        assert lab.exec(name, "systemctl", "is-system-running").strip() == "running"
        assert lab.exec(name, "hostname").strip() == name
        assert lab.exec(name, "getent", "ahostsv4", "localhost").startswith("127.0.0.1")
        with pytest.raises(Problem, match="cannot run ls on host"):
            lab.exec(name, "ls", "/etc/criu")
    assert boot_id(lab, "a") != boot_id(lab, "b")
    machine_ids = {lab.exec(name, "cat", "/etc/machine-id") for name in ("a", "b")}
    assert len(machine_ids) == 2


def test_ssh_goes_by_the_written_key_and_pinned_host_keys(lab: Lab) -> None:
    """The key and the known_hosts of the configuration open a host, nothing is asked."""
    assert ssh(lab, "b", "hostname") == "b"
    assert lab.key_path.stat().st_mode & 0o777 == 0o600


def test_nothing_of_the_lab_is_in_the_machines_network(lab: Lab) -> None:
    """The machine sees neither bridge nor links, and cannot reach a host."""
    links = subprocess.run(["ip", "-o", "link"], check=True, capture_output=True, text=True).stdout
    assert "host-a" not in links
    assert "host-a" in lab.run("ip", "-o", "link")


def test_a_killed_host_is_gone_at_once_and_boots_again(lab: Lab) -> None:
    """Its processes die, its disk stays, and it comes back as another boot."""
    before = boot_id(lab, "b")
    lab.exec("b", "sh", "-c", "echo kept > /root/note; echo lost > /run/note")
    lab.kill("b")
    assert not lab.status()[1].running
    with pytest.raises(Problem, match="it is not running"):
        lab.exec("b", "true")
    lab.reboot("b")
    assert boot_id(lab, "b") != before
    assert lab.exec("b", "cat", "/root/note").strip() == "kept"
    with pytest.raises(Problem):
        lab.exec("b", "cat", "/run/note")
    assert ssh(lab, "b", "hostname") == "b"


def test_a_cut_host_runs_on_unreached_until_mended(lab: Lab) -> None:
    """A pulled cable stops traffic, not the host, and stays pulled through a reboot."""
    ping = ("bash", "-c", f"timeout 1 bash -c '</dev/tcp/{lab.address('b')}/22'")
    lab.run(*ping)
    lab.cut("b")
    try:
        for _ in range(2):
            assert lab.exec("b", "echo", "alive").strip() == "alive"
            with pytest.raises(Problem):
                lab.run(*ping)
            with pytest.raises(Problem):
                lab.exec("a", *ping)
            lab.reboot("b")
    finally:
        lab.mend("b")
    assert eventually(lambda: ssh(lab, "b", "hostname"), seconds=5) == "b"


class Program:
    """`poold lab`, as it is typed, for one lab."""

    def __init__(self, name: str) -> None:
        self._environment = {**os.environ, "POOLD_LAB": name}

    def ends(self, *argv: str, text_in: str = "") -> tuple[int, str, str]:
        """Return with which status it ended and what it said on either stream."""
        done = subprocess.run(
            [sys.executable, "-m", "poold", "lab", *argv],
            check=False,
            input=text_in,
            capture_output=True,
            text=True,
            env=self._environment,
        )
        return done.returncode, done.stdout, done.stderr

    def says(self, *argv: str) -> str:
        """Return what it prints; it succeeds and has nothing to complain about."""
        status, out, complaint = self.ends(*argv)
        assert (status, complaint) == (0, ""), (argv, out)
        return out

    def ls(self) -> dict[str, Any]:
        """Return what it lists."""
        listed: dict[str, Any] = json.loads(self.says("ls", "--json"))
        return listed

    def states(self) -> dict[str, tuple[bool, bool]]:
        """Return of each host whether it runs and whether its link is cut."""
        return {host["name"]: (host["running"], host["cut"]) for host in self.ls()["hosts"]}


@pytest.fixture
def other(lab: Lab) -> Iterator[Lab]:
    """Name a lab beside the first one; what a test leaves of it goes."""
    beside = Lab(f"{lab.name}-other")
    yield beside
    beside.down()


def test_labs_stand_side_by_side_and_go_without_a_trace(
    lab: Lab, other: Lab, traces: Callable[[Lab], list[str]]
) -> None:
    """Two labs use the same addresses and do not meet; `down` removes one, not the other."""
    poold = Program(other.name)
    printed = poold.says("up", "--hosts", "2", "--images", "counter")
    addresses = [lab.address("a"), lab.address("b")]
    assert printed.splitlines() == [
        f"a  {addresses[0]}", f"b  {addresses[1]}", f"configuration: {other.config_path}",
    ]  # fmt: skip
    listed = poold.ls()
    assert [host.pop("process") > 0 for host in listed["hosts"]] == [True, True]
    assert listed == {
        "name": other.name,
        "config": str(other.config_path),
        "key": str(other.key_path),
        "known_hosts": str(other.known_hosts_path),
        "netns": str(other.netns_path),
        "hosts": [
            {"name": name, "address": address, "running": True, "cut": False}
            for name, address in zip("ab", addresses, strict=True)
        ],
    }
    assert poold.says("ls") == f"a  {addresses[0]}  running\nb  {addresses[1]}  running\n"
    images = ("podman", "images", "--noheading", "--format", "{{.Repository}}:{{.Tag}}")
    assert COUNTER in poold.says("exec", "a", *images).split()
    assert COUNTER not in poold.says("exec", "b", *images).split()
    assert ssh(other, "a", "cat /etc/machine-id") != ssh(lab, "a", "cat /etc/machine-id")
    assert {lab.name, other.name} <= set(Lab.names())
    running = subprocess.Popen(other.run_argv(["sleep", "600"]))
    assert traces(other) != []
    assert poold.says("down") == ""
    assert running.wait() == -9
    assert traces(other) == []
    assert [host.running for host in lab.status()] == [True, True]
    assert poold.says("down") == ""
    assert "is not up" in poold.says("ls")
    assert poold.ls()["hosts"] == []


def test_the_program_lets_hosts_go_wrong(lab: Lab) -> None:
    """Cut, mend, kill and reboot are seen in the listing, and on the wire; the other host stays."""
    poold = Program(lab.name)
    fine, address = (True, False), lab.address("b")
    reach = ("run", "timeout", "2", "bash", "-c", f"</dev/tcp/{address}/22")
    try:
        assert poold.states() == {"a": fine, "b": fine}
        assert poold.says(*reach) == ""
        assert poold.says("cut", "b") == ""
        assert poold.states() == {"a": fine, "b": (True, True)}
        assert f"b  {address}  running  cut" in poold.says("ls").splitlines()
        assert poold.ends(*reach)[0] != 0
        assert poold.says("exec", "b", "hostname") == "b\n"
        assert poold.says("mend", "b") == ""
        assert poold.states() == {"a": fine, "b": fine}
        assert poold.says(*reach) == ""

        boot = poold.says("exec", "b", "cat", "/proc/sys/kernel/random/boot_id")
        assert poold.says("kill", "b") == ""
        assert poold.states() == {"a": fine, "b": (False, False)}
        assert f"b  {address}  dead" in poold.says("ls").splitlines()
        status, out, complaint = poold.ends("exec", "b", "true")
        assert (status, out) == (1, "")
        assert "it is not running" in complaint
        assert poold.says("reboot", "b") == ""
        assert poold.states() == {"a": fine, "b": fine}
        assert poold.says("exec", "b", "cat", "/proc/sys/kernel/random/boot_id") != boot
    finally:
        lab.mend("b")
        lab.up(hosts=2, image_names=("counter",), images_on=("a",))


@pytest.mark.parametrize("words", [("exec", "a", "--"), ("exec", "a"), ("run",)])
def test_a_commands_own_status_and_streams_are_passed_on(lab: Lab, words: tuple[str, ...]) -> None:
    """What runs on a host, or in the lab's network, behaves as if it were called itself."""
    script = ("sh", "-c", "cat; echo to the error stream >&2; exit 7")
    ended = Program(lab.name).ends(*words, *script, text_in="from the machine")
    assert ended == (7, "from the machine", "to the error stream\n")


@pytest.mark.parametrize("verb", ["kill", "reboot", "cut", "mend", "exec"])
def test_the_program_refuses_a_wrong_host(lab: Lab, verb: str) -> None:
    """It ends with status 2 and names the hosts there are."""
    status, out, complaint = Program(lab.name).ends(verb, "z", *(["true"] * (verb == "exec")))
    assert (status, out) == (2, "")
    assert "cannot find host 'z'" in complaint
    assert "it has a, b" in complaint


@pytest.mark.usefixtures("no_containers")
def test_a_published_port_is_reached_from_everywhere(lab: Lab) -> None:
    """From the lab's network, from the other host and from the host itself."""
    lab.exec("a", "podman", "run", "--detach", "--publish", "20500:8080", COUNTER)
    url = f"http://{lab.address('a')}:20500/hello/"
    assert eventually(lambda: get(lab, urllib.parse.urljoin(url, "ready"))) == "ok"
    answers = [get(lab, url), get(lab, url, host="b"), get(lab, url, host="a")]
    assert answers == ["0", "1", "2"]


@pytest.mark.usefixtures("no_containers")
def test_a_checkpoint_of_one_host_counts_on_under_a_new_name_on_the_other(lab: Lab) -> None:
    """By hand what poold stands on: CRIU's settings by annotation, image and archive sent."""
    for host in ("a", "b"):
        lab.exec(host, "sh", "-c", f"printf '{CRIU_SETTINGS}' > /root/criu.conf")
    annotation = "org.criu.config=/root/criu.conf"
    publish = ("--publish", "20501:8080")
    run = ("podman", "run", "--detach", "--name", "hello", "--annotation", annotation)
    lab.exec("a", *run, *publish, COUNTER)
    url = f"http://{lab.address('a')}:20501/hello/"
    assert eventually(lambda: get(lab, urllib.parse.urljoin(url, "ready"))) == "ok"
    assert [get(lab, url), get(lab, url)] == ["0", "1"]
    export = ("--compress", "none", "--export", "/var/tmp/warm.tar")
    eventually(lambda: _checkpoint(lab, "hello", *export))
    _send(lab, ("cat", "/var/tmp/warm.tar"), ("sh", "-c", "cat > /var/tmp/warm.tar"))
    _send(lab, ("podman", "save", COUNTER), ("podman", "load", "--quiet"))
    restore = ("podman", "container", "restore", "--import", "/var/tmp/warm.tar")
    lab.exec("b", *restore, "--name", "hello1", "--publish", "20502:8080")
    lab.exec("a", *restore, "--name", "hello2", "--publish", "20503:8080")
    there = f"http://{lab.address('b')}:20502/hello/"
    here = f"http://{lab.address('a')}:20503/hello/"
    assert [get(lab, there), get(lab, there), get(lab, here)] == ["2", "3", "2"]
    assert lab.exec("b", "podman", "ps", "--format", "{{.Names}}").split() == ["hello1"]


def _checkpoint(lab: Lab, name: str, *options: str) -> str | None:
    """Take one once the last probe's connection is gone; None while it is not."""
    sockets = lab.exec("a", "podman", "exec", name, "cat", "/proc/net/tcp").splitlines()[1:]
    # One that listens, or that only the kernel remembers, is not in the way.
    if any(line.split()[3] not in ("0A", "06") for line in sockets):
        return None
    return lab.exec("a", "podman", "container", "checkpoint", name, *options)


def _send(lab: Lab, source: tuple[str, ...], target: tuple[str, ...]) -> None:
    """Pipe a command's output on host a into a command on host b."""
    sender, receiver = lab.host("a"), lab.host("b")
    with subprocess.Popen(
        sender.exec_argv(source), stdout=subprocess.PIPE, env=sender.environment()
    ) as sending:
        subprocess.run(
            receiver.exec_argv(target),
            check=True,
            stdin=sending.stdout,
            stdout=subprocess.DEVNULL,
            env=receiver.environment(),
        )
    assert sending.returncode == 0


def test_a_wrong_host_is_refused_with_those_there_are(lab: Lab) -> None:
    """The error names the lab's hosts."""
    with pytest.raises(Problem, match=r"cannot find host 'z'.*it has a, b"):
        lab.kill("z")
