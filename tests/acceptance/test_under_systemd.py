"""poold as an operator runs it: installed on a host, started by systemd, left alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest
from onlooker import look_at

from poold.errors import Problem
from poold.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.slow]

_DEADLINE_SECONDS = 120.0
_FOLDERS = ("/var/lib/poold-agent", "/run/poold-agent")
_POOLD = "/opt/poold/bin/poold"
_ALL_READY = 'Status: "hello 3/3"'
_CONFIGURATION = """
[hosts.a]
kind = "local"
publish_address = "{a}"

[hosts.b]
kind = "ssh"
address = "{b}"
key_file = "/etc/poold/id_ed25519"
known_hosts_file = "/etc/poold/known_hosts"

[pools.hello]
image = "localhost/poold-lab/tomcat:latest"
port = 8080
replicas = 3
hosts = ["a", "b"]
builder = "a"

[pools.hello.readiness]
kind = "http"
path = "/hello/ready"

[[pools.hello.warmup]]
path = "/hello/"
repeat = 2
"""


class Machine:
    """Host a of the lab, by what an operator types there."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def run(self, *argv: str) -> str:
        """Return what a command prints; one that fails is a Problem."""
        return self.lab.exec("a", *argv)

    def says(self, *argv: str) -> str:
        """Return what a command prints, whether it succeeds or not: for waiting and for logs."""
        try:
            return self.run(*argv)
        except Problem as problem:
            return problem.detail

    def wait(self, what: str, *argv: str) -> str:
        """Run a command until it prints `what`."""
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while True:
            said = self.says(*argv)
            if what in said:
                return said
            if time.monotonic() > deadline:
                log = self.says("journalctl", "-u", "poold", "--no-pager", "-n", "60")
                pytest.fail(f"{argv} never said {what!r} but {said!r}\n{log}")
            time.sleep(0.2)

    def daemon(self) -> str:
        """Return the daemon's process id, "0" while none runs."""
        return self.run("systemctl", "show", "poold", "-p", "MainPID", "--value").strip()

    def wait_for_another_daemon(self, than: str) -> str:
        """Wait until systemd runs a new daemon that has found its replicas."""
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while (pid := self.daemon()) in (than, "0"):
            assert time.monotonic() < deadline, f"no daemon after {than}"
            time.sleep(0.1)
        self.wait(_ALL_READY, "systemctl", "status", "poold", "--no-pager")
        return pid

    def replicas(self) -> set[str]:
        """Return the ids of the containers that run on both hosts."""
        seen = [look_at(self.lab, host, *_FOLDERS) for host in ("a", "b")]
        return {f"{one.id} {one.name}" for host in seen for one in host.containers if one.running}

    def changes(self) -> list[dict[str, object]]:
        """Return every change that the daemon has on record."""
        listed: list[dict[str, object]] = json.loads(self.run(_POOLD, "changes", "--json"))[
            "changes"
        ]
        return listed

    def restarts(self) -> int:
        """Return how often systemd started the unit again by itself."""
        shown = self.run("systemctl", "show", "poold", "-p", "NRestarts", "--value")
        return int(shown)


@pytest.fixture(scope="module")
def machine(lab: Lab) -> Machine:
    """Host a."""
    return Machine(lab)


@pytest.fixture
def running(machine: Machine, lab: Lab, install: Callable[[str, str], None]) -> Iterator[Machine]:
    """Install poold on a and enabled, three replicas on two hosts."""
    if machine.daemon() == "0":
        install("a", _CONFIGURATION.format(a=lab.address("a"), b=lab.address("b")))
        machine.run("systemctl", "enable", "--now", "poold")
    machine.wait(_ALL_READY, "systemctl", "status", "poold", "--no-pager")
    yield machine
    log = machine.says("journalctl", "-u", "poold", "--no-pager", "-n", "200")
    assert "Traceback" not in log, log


def test_status_shows_the_pool(running: Machine) -> None:
    """`systemctl status` says hello 3/3, and the unit is of type notify and enabled."""
    shown = running.run("systemctl", "status", "poold", "--no-pager")
    assert _ALL_READY in shown
    assert "active (running)" in shown
    assert "enabled" in shown
    assert len(running.replicas()) == 3


def test_a_restart_leaves_the_replicas_alone(running: Machine) -> None:
    """After `systemctl restart` the very same containers run and nothing was done to them."""
    before, old, changes = running.replicas(), running.daemon(), running.changes()
    assert len(before) == 3
    running.run("systemctl", "restart", "poold")
    running.wait_for_another_daemon(old)
    assert running.replicas() == before
    assert running.changes() == changes


def test_stopping_leaves_the_replicas_running(running: Machine) -> None:
    """`systemctl stop` ends the daemon alone; the replicas still answer."""
    before = running.replicas()
    shown = json.loads(running.run(_POOLD, "ps", "--json"))["replicas"]
    address = next(one["address"] for one in shown if one["host"] == "a")
    running.run("systemctl", "stop", "poold")
    try:
        assert running.daemon() == "0"
        assert running.replicas() == before
        body = running.lab.run("curl", "-sf", f"http://{address}/hello/")
        assert body.strip().isdigit()
    finally:
        running.run("systemctl", "start", "poold")
    running.wait(_ALL_READY, "systemctl", "status", "poold", "--no-pager")
    assert running.replicas() == before


def test_reload(running: Machine) -> None:
    """A good file is taken, a bad one is said to be bad, and replicas run on."""
    file, before, old = "/etc/poold/poold.toml", running.replicas(), running.daemon()
    running.run("cp", file, "/etc/poold/good.toml")
    running.run("sed", "-i", "s/^repeat = 2/repeat = two/", file)
    running.run("systemctl", "reload", "poold")
    running.wait("not reloaded: cannot use", "systemctl", "status", "poold", "--no-pager", "-l")
    assert f"{file}:" in running.says("journalctl", "-u", "poold", "--no-pager", "-n", "20")
    running.run("cp", "/etc/poold/good.toml", file)
    running.run("systemctl", "reload", "poold")
    running.wait(_ALL_READY, "systemctl", "status", "poold", "--no-pager")
    assert "nothing changed" in running.run(_POOLD, "changes")
    assert (running.replicas(), running.daemon()) == (before, old)


def test_kill_is_recovered_from(running: Machine) -> None:
    """After kill -9 systemd starts it again and it finds its replicas."""
    before, old, restarts = running.replicas(), running.daemon(), running.restarts()
    running.run("kill", "-9", old)
    running.wait_for_another_daemon(old)
    assert running.replicas() == before
    assert running.restarts() > restarts


def test_a_stuck_daemon_is_restarted_by_the_watchdog(running: Machine) -> None:
    """A daemon that is alive but does nothing any more is ended and replaced by systemd."""
    before, old = running.replicas(), running.daemon()
    running.run("kill", "-STOP", old)
    running.wait_for_another_daemon(old)
    assert running.replicas() == before
    log = running.says("journalctl", "-u", "poold", "--no-pager", "-n", "100")
    assert "Watchdog timeout" in log


def test_the_command_line_on_the_host(running: Machine) -> None:
    """The operator scales, looks, and has the hosts examined, on the machine itself."""
    assert "hello 3/3" in running.run(_POOLD, "status")
    doctor = running.says(_POOLD, "doctor", "--config", "/etc/poold/poold.toml")
    assert "errors: 0, warnings: 0" in doctor, doctor
    running.run(_POOLD, "scale", "hello", "2", "--wait")
    assert len(running.replicas()) == 2
    running.run(_POOLD, "scale", "hello", "3", "--wait")
    assert len(running.replicas()) == 3
