"""The lab's promises, on real hosts: each is a machine, labs are apart, and nothing stays."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator

import pytest

from poold.errors import Problem
from poold.lab import Lab

pytestmark = pytest.mark.lab

TOMCAT = "localhost/poold-lab/tomcat:latest"
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
    began = time.monotonic()
    lab.up(hosts=2, image_names=("tomcat",), images_on=("a",))
    assert time.monotonic() - began < 10
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


def test_exec_passes_status_and_streams_on(lab: Lab) -> None:
    """`poold lab exec` behaves like the command itself."""
    done = subprocess.run(
        [sys.executable, "-m", "poold", "lab", "exec", "a", "--", "sh", "-c", "cat; exit 7"],
        check=False,
        input="from the machine",
        capture_output=True,
        text=True,
        env={**os.environ, "POOLD_LAB": lab.name},
    )
    assert (done.stdout, done.returncode) == ("from the machine", 7)


def test_nothing_of_the_lab_is_in_the_machines_network(lab: Lab) -> None:
    """The machine sees neither bridge nor links, and cannot reach a host."""
    links = subprocess.run(["ip", "-o", "link"], check=True, capture_output=True, text=True).stdout
    assert "host-a" not in links
    assert "host-a" in lab.run("ip", "-o", "link")


def test_a_killed_host_is_gone_at_once_and_boots_again(lab: Lab) -> None:
    """Its processes die, its disk stays, and it comes back as another boot."""
    before = boot_id(lab, "b")
    lab.exec("b", "sh", "-c", "echo kept > /root/note; echo lost > /run/note")
    began = time.monotonic()
    lab.kill("b")
    assert time.monotonic() - began < 5
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


def test_labs_stand_side_by_side_and_go_without_a_trace(
    lab: Lab, traces: Callable[[Lab], list[str]]
) -> None:
    """Two labs use the same addresses and do not meet; `down` removes one, not the other."""
    other = Lab(f"{lab.name}-other")
    try:
        other.up(hosts=1, image_names=(), images_on=())
        assert other.address("a") == lab.address("a")
        assert ssh(other, "a", "cat /etc/machine-id") != ssh(lab, "a", "cat /etc/machine-id")
        assert {lab.name, other.name} <= set(Lab.names())
        running = subprocess.Popen(other.run_argv(["sleep", "60"]))
        assert traces(other) != []
    finally:
        other.down()
    assert running.wait() == -9
    assert traces(other) == []
    assert [host.running for host in lab.status()] == [True, True]
    other.down()


@pytest.mark.usefixtures("no_containers")
def test_a_published_port_is_reached_from_everywhere(lab: Lab) -> None:
    """From the lab's network, from the other host and from the host itself."""
    lab.exec("a", "podman", "run", "--detach", "--publish", "20500:8080", TOMCAT)
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
    lab.exec("a", *run, *publish, TOMCAT)
    url = f"http://{lab.address('a')}:20501/hello/"
    assert eventually(lambda: get(lab, urllib.parse.urljoin(url, "ready"))) == "ok"
    assert [get(lab, url), get(lab, url)] == ["0", "1"]
    export = ("--compress", "none", "--export", "/var/tmp/warm.tar")
    eventually(lambda: _checkpoint(lab, "hello", *export))
    _send(lab, ("cat", "/var/tmp/warm.tar"), ("sh", "-c", "cat > /var/tmp/warm.tar"))
    _send(lab, ("podman", "save", TOMCAT), ("podman", "load", "--quiet"))
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
    if any(line.split()[3] != "0A" for line in sockets):
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
