"""Spares on the lab: prepared on each host, claimed within milliseconds, never left over."""

from __future__ import annotations

import signal
import time

import pytest

pytestmark = [pytest.mark.lab, pytest.mark.slow]

CLAIMS = 6


@pytest.fixture(params=["oci", "podman"])
def spared(make, request):
    """Have one replica, and a spare on each host; wish for no spares at the end."""
    pool = make.pool(
        "quick", command=make.application(ballast_mib=24), engine=request.param, spares=1
    )
    folder = f"/var/lib/poold-spares-{request.param}"
    tables = [make.host("a", agent_dir=folder), make.host("b", agent_dir=folder), pool]
    fleet = make.fleet(f"spares-{request.param}", tables, agent_dir=folder)
    fleet.engine = request.param
    fleet.scaled("quick", 1)
    waiting(fleet)
    yield fleet
    fleet.ensure()
    fleet.config.write_text(fleet.config.read_text().replace("spares = 1", "spares = 0"))
    fleet.tell(signal.SIGHUP)
    fleet.until("no spares are left", lambda: not fleet.client.spares())
    fleet.scaled("quick", 0)
    fleet.is_tidy()


def waiting(fleet):
    """Wait for a ready spare on each host and return them by host."""

    def found():
        spares = fleet.client.spares("quick")
        fine = sorted(one.host for one in spares if one.state == "ready") == ["a", "b"]
        return {one.host: one for one in spares} if fine and len(spares) == 2 else None

    return fleet.until("a spare waits on each host", found)


def score(fleet, host, container_id):
    """Return how soon the kernel ends a container's first process when memory runs out."""
    if fleet.engine == "podman":
        pid = fleet.on(host, "podman", "inspect", "--format", "{{.State.Pid}}", container_id)
    else:
        pid = fleet.on(host, "cat", f"/var/lib/containers/poold/containers/{container_id}/pidfile")
    return int(fleet.on(host, "cat", f"/proc/{pid.strip()}/oom_score_adj"))


def test_a_wish_gets_a_spare_and_a_spare_gets_made(spared, capsys):
    """Thawed where it waited, with the memory of its checkpoint; call to first answer is timed."""
    took = []
    for number in range(2, 2 + CLAIMS):
        spares = waiting(spared)
        assert {score(spared, host, one.container_id) for host, one in spares.items()} == {1000}
        began = time.monotonic()
        change = spared.client.restore("quick")
        settled = spared.settled(change)
        took.append(time.monotonic() - began)
        (replica,) = (one for one in spared.client.replicas("quick") if one.method == "spare")
        assert settled.phases.keys() == {"thaw", "ready"}
        spare = spares[replica.host]
        assert (replica.container_id, replica.address) == (spare.container_id, spare.address)
        assert spared.count(replica) == 2, "it went on from the checkpoint"
        assert score(spared, replica.host, replica.container_id) == 0
        spared.settled(spared.client.remove(replica.name))
        with capsys.disabled():
            print(f"\n{spared.engine} {number}: {took[-1] * 1000:.0f} ms, {replica.phases}")
    waiting(spared)
    spared.is_tidy()


def test_spares_outlive_the_daemon_and_its_agents(spared):
    """Killed with everything it is told by; the same spares are there, and can be claimed."""
    before = {host: spare.container_id for host, spare in waiting(spared).items()}
    spared.kill_with_agents()
    spared.start()
    after = {host: spare.container_id for host, spare in waiting(spared).items()}
    assert after == before
    spared.scaled("quick", 3)
    methods = {one.name: one.method for one in spared.client.replicas("quick")}
    assert list(methods.values()).count("spare") == 2
    waiting(spared)
    spared.is_tidy()


def test_a_spare_that_was_killed_is_replaced_and_nobody_waits(spared):
    """Whoever claims it meanwhile is restored; another one is made."""
    spare = waiting(spared)["a"]
    if spared.engine == "podman":
        spared.on("a", "podman", "kill", "--signal", "KILL", spare.container_id)
    else:
        spared.on("a", "runc", "kill", spare.container_id, "KILL")
    spared.settled(spared.client.restore("quick", host="a"))
    spared.until("another one waits", lambda: waiting(spared)["a"].name != spare.name)
    spared.is_tidy()


def test_a_new_generation_gets_spares_of_its_own(spared):
    """Those of the old one go when the new one is there."""
    spared.settled(spared.client.checkpoint("quick"))

    def are_new():
        return {spare.generation for spare in waiting(spared).values()} == {2}

    spared.until("spares are of generation 2", are_new)
    spared.is_tidy()
