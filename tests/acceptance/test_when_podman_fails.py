"""Podman hangs, waits for its locks, or half of what is wished fails; CRIU fails at its own points.

One fleet for all of it, with so few ports that five replicas are all that fit.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

pytestmark = [pytest.mark.lab, pytest.mark.slow]

_FOLDER = "/var/lib/poold-podman"
_PORTS = {"a": "20000-20002", "b": "20000-20001"}
_CRIU = "/usr/local/sbin/criu"  # before /usr/sbin on everybody's PATH
_FAULT = "/run/criu-fault"
_SHIM = f"""cat > {_CRIU} <<"E"
#!/bin/sh
[ -s {_FAULT} ] && export CRIU_FAULT=$(cat {_FAULT})
exec /usr/sbin/criu "$@"
E
chmod 755 {_CRIU}"""


@pytest.fixture(scope="module")
def one(faults_lab, make_for_all):
    """Make the fleet; its hosts' CRIU takes its faults from a file."""
    make = make_for_all
    for host in _PORTS:
        faults_lab.exec(host, "sh", "-c", _SHIM)
    tables = [
        make.host(name, agent_dir=_FOLDER, publish_ports=ports) for name, ports in _PORTS.items()
    ]
    tables.append(make.pool("app", command=make.application(ballast_mib=8), keep_generations=1,
                            engine="podman"))  # fmt: skip
    tables.append("timeout_seconds = 6\n")  # of the dump
    fleet = make.fleet("podman", tables, agent_dir=_FOLDER)
    fleet.scaled("app", 2)
    fleet.rest()
    yield fleet
    for host in _PORTS:
        faults_lab.exec(host, "rm", _CRIU)


@pytest.fixture
def fleet(one, lend):
    """Lend the fleet at rest."""
    with lend(one):
        yield one


@pytest.fixture
def criu_fails(fleet):
    """Return what arms CRIU's fault of a number on a host, 0 none."""

    def arm(number, *hosts):
        for host in hosts or _PORTS:
            fleet.on(host, "sh", "-c", f"echo {number} > {_FAULT}" if number else f"rm -f {_FAULT}")

    yield arm
    arm(0)


# -- podman ---------------------------------------------------------------------------------------


def _stopped(fleet, host, doing):
    """Stop the podman that does this on a host, in the middle of it; None: there is none."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "comm").read_text() != "podman\n":
                continue
            cgroup = (process / "cgroup").read_text()
            words = (process / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if f"/poold-lab-{fleet.lab.name}/{host}" in cgroup and doing in words:
            os.kill(int(process.name), signal.SIGSTOP)
            return int(process.name)
    return None


def _is_there(fleet, name):
    return [
        one for one in fleet.client.replicas("app") if one.name == name and one.state == "ready"
    ]


@pytest.mark.fault(
    "podman hangs while restoring",
    how="SIGSTOP of the process at work; later SIGCONT, or kill -9",
    ends="the other host works on; the replica comes up, once",
)
@pytest.mark.parametrize("then", [signal.SIGCONT, signal.SIGKILL], ids=["continued", "killed"])
def test_podman_hangs_while_restoring(fleet, then):
    """Who hangs holds up nobody else, and what became of it is found out."""
    change = fleet.client.restore("app", name="app7", host="b")
    podman = fleet.until("podman is stopped", lambda: _stopped(fleet, "b", "restore"))
    fleet.injected()
    fleet.client.restore("app", name="app8", host="a")
    fleet.until("the other host works on", lambda: _is_there(fleet, "app8"))
    os.kill(podman, then)
    fleet.settled(change)
    fleet.ready("app", 2)
    fleet.converged()


@pytest.mark.fault(
    "podman hangs while freezing",
    how="SIGSTOP of the process at work, for ever",
    ends="ended at the deadline with all that it started; the change says why or is done again",
)
def test_podman_hangs_while_freezing(fleet):
    """The deadline of the dump is kept, and nothing of it is left."""
    change = fleet.client.checkpoint("app")
    fleet.until("podman is stopped", lambda: _stopped(fleet, "a", "checkpoint"))
    fleet.injected()
    problem = fleet.failed(change)
    assert "6 s" in problem["message"], problem
    fleet.converged()
    fleet.settled(fleet.client.checkpoint("app"))


@pytest.mark.fault(
    "podman's locks are held",
    how="another process holds every lock file of its storage on a host",
    ends="that host waits, the other one works on; all is there when the locks are free",
)
def test_podmans_locks_are_held(fleet):
    """What waits for a lock is neither given up nor done twice."""
    hold = (
        "import fcntl, glob, time\n"
        "files = [open(path, 'r+') for path in glob.glob('/var/lib/containers/storage/**/*.lock',"
        " recursive=True)]\n"
        "for file in files: fcntl.lockf(file, fcntl.LOCK_EX)\n"
        "time.sleep(600)"
    )
    fleet.on("b", "systemd-run", "--unit", "lock-holder", "python3", "-c", hold)
    asks = "timeout 2 podman ps >/dev/null && echo answers || true"
    fleet.until("podman waits", lambda: "answers" not in fleet.on("b", "sh", "-c", asks))
    fleet.injected()
    change = fleet.client.restore("app", name="app7", host="b")
    fleet.client.restore("app", name="app8", host="a")
    fleet.until("the other host works on", lambda: _is_there(fleet, "app8"))
    assert not _is_there(fleet, "app7")
    fleet.on("b", "systemctl", "stop", "lock-holder")
    fleet.settled(change)
    fleet.ready("app", 2)
    fleet.converged()


# -- three of five --------------------------------------------------------------------------------


@pytest.mark.fault(
    "three of five come up",
    how="strangers listen on two of the five ports that the pool may use",
    ends="three run, the others say what keeps them; all five when the ports are free",
)
def test_three_of_five(fleet):
    """A part that fails takes nothing from the part that succeeds."""
    listen = "import socket,time; s=socket.create_server(('', {})); time.sleep(600)"
    taken = {"a": 20002, "b": 20001}
    for host, port in taken.items():
        fleet.on(host, "systemd-run", "--unit", "taken-port", "python3", "-c", listen.format(port))
        wait = f"sport = :{port}"
        fleet.until("it listens", lambda h=host, w=wait: fleet.on(h, "ss", "-Hltn", w))
    fleet.injected()
    change = fleet.client.scale("app", replicas=5)

    def are_three():
        known = fleet.client.replicas("app")
        why = [one.reason for one in known if one.state != "ready"]
        return len(why) == 2 and all("no free port" in reason for reason in why)

    fleet.until("three are ready, and two say why not", are_three)
    first = {one.name: one.container_id for one in fleet.client.replicas("app") if one.container_id}
    fleet.keeps_promises(change)
    for host in taken:
        fleet.on(host, "systemctl", "stop", "taken-port")
    fleet.ended(change)
    found = fleet.ready("app", 5)
    fleet.converged()
    after = {one.name: one.container_id for one in found}
    assert first.items() <= after.items()


# -- CRIU's own faults ----------------------------------------------------------------------------


@pytest.mark.fault(
    "CRIU fails while freezing",
    how="CRIU_FAULT 1, 3 and 5: it ends early, the pages fail, the parasite cannot connect",
    ends="the checkpoint fails with the reason; made when CRIU works",
)
@pytest.mark.parametrize("number", [1, 3, 5])
def test_criu_fails_while_freezing(fleet, criu_fails, number):
    """The old generation serves on, and the next checkpoint is made."""
    criu_fails(number, "a")
    fleet.injected()
    fleet.failed(fleet.client.checkpoint("app"))
    (replica,) = fleet.scaled("app", 1)
    assert replica.method == "restore"
    criu_fails(0)
    fleet.settled(fleet.client.checkpoint("app"))
    fleet.converged()


@pytest.mark.fault(
    "CRIU fails while freezing for a move",
    how="CRIU_FAULT 1 and 5; with 5 the frozen process dies",
    ends="the move fails with the reason; the replica runs where it was, or is restored",
)
@pytest.mark.parametrize("number", [1, 5])
def test_criu_fails_to_freeze_for_a_move(fleet, criu_fails, number):
    """There is one replica afterwards, and the change says why it did not move."""
    (replica,) = fleet.scaled("app", 1)
    seen = fleet.count(replica)
    criu_fails(number, replica.host)
    fleet.injected()
    fleet.failed(fleet.client.move(replica.name, to="b" if replica.host == "a" else "a"))
    criu_fails(0)
    (after,) = fleet.ready("app", 1)
    fleet.converged()
    if number == 1:
        assert after.container_id == replica.container_id
        assert fleet.count(after) == seen + 1


@pytest.mark.fault(
    "CRIU fails while restoring",
    how="CRIU_FAULT 6 on both hosts: it fails when everything is restored",
    ends="the replica starts cold and says why; the next generation is restored from",
)
def test_criu_fails_while_restoring(fleet, criu_fails):
    """Who asked for a replica gets one."""
    criu_fails(6)
    fleet.injected()
    (replica,) = fleet.scaled("app", 1)
    assert replica.method == "cold", replica
    assert replica.reason, replica
    criu_fails(0)
    fleet.settled(fleet.client.checkpoint("app"))
    fleet.settled(fleet.client.restore("app", name="app7"))
    found = {one.name: one.method for one in fleet.ready("app", 2)}
    fleet.converged()
    assert found["app7"] == "restore"
