"""The disk guard on real hosts: refused before it fills, with figures, and nothing is changed."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.lab, pytest.mark.slow]

FOLDER = "/var/lib/poold-tight"


@pytest.fixture
def tight(faults_lab, make):
    """Lend a fleet whose agents have one and a half GiB, of which some stays in reserve."""
    for host in ("a", "b"):
        faults_lab.exec(host, "mkdir", "-p", FOLDER)
        faults_lab.exec(host, "mount", "-t", "tmpfs", "-o", "size=1536m,mode=0700", "tmpfs", FOLDER)
    tables = [
        *(make.host(host, agent_dir=FOLDER, disk_reserve="300m") for host in ("a", "b")),
        make.pool("tight", command=make.application(ballast_mib=24)),
    ]
    fleet = make.fleet("tight", tables, agent_dir=FOLDER)
    try:
        yield fleet
        fleet.rest()
    finally:
        fleet.stop()
        for host in ("a", "b"):
            faults_lab.exec(host, "umount", "--lazy", FOLDER)


def fill(fleet, host, *, leave_mib):
    """Let somebody else take so much of the agent's disk that only this is left."""
    free = int(fleet.on(host, "stat", "--file-system", "--format", "%a", FOLDER))
    page = int(fleet.on(host, "stat", "--file-system", "--format", "%S", FOLDER))
    taken = free * page - (leave_mib << 20)
    fleet.on(host, "install", "--mode=600", "/dev/null", f"{FOLDER}/somebody-elses")
    fleet.on(host, "fallocate", "--length", str(taken), f"{FOLDER}/somebody-elses")


def empty(fleet, host):
    fleet.on(host, "rm", f"{FOLDER}/somebody-elses")


def containers(fleet, host):
    return fleet.look(host).containers


@pytest.mark.fault(
    "a host's disk is down to its reserve",
    how="somebody else fills a small file system under the agents",
    ends="checkpoint, capture and receiving are refused and undo nothing; with room all goes on",
)
def test_a_disk_down_to_its_reserve_is_not_filled(tight):
    """Checkpoint, capture and receiving are refused and undo nothing; with room all goes on."""
    tight.settled(tight.client.checkpoint("tight"))
    (one,) = tight.scaled("tight", 1)
    source, target = one.host, {"a": "b", "b": "a"}[one.host]
    counted = tight.count(one)
    before = containers(tight, source)

    tight.injected()
    fill(tight, source, leave_mib=350)  # above its reserve still, but not by a checkpoint
    problem = tight.failed(tight.client.move(one.name, to=target))
    assert problem["code"] == "host.disk-full", problem
    assert f"cannot freeze {one.name}: about" in problem["message"], problem
    assert "beside a reserve of 300 MiB" in problem["message"], problem
    assert containers(tight, source) == before
    assert tight.count(one) == counted + 1

    empty(tight, source)
    fill(tight, target, leave_mib=200)  # below its reserve
    problem = tight.failed(tight.client.move(one.name, to=target))
    assert problem["code"] == "host.disk-full", problem
    assert "receive" in problem["message"], problem
    (same,) = tight.ready("tight", 1)
    assert (same.name, same.host) == (one.name, source)
    assert tight.count(same) == counted + 2
    tight.is_tidy()

    def says_so():
        low = next(host for host in tight.client.hosts() if host.name == target)
        return low.disk_free_bytes < low.disk_reserve_bytes

    tight.until("the host is known to be below its reserve", says_so)
    found = tight.client.doctor()["hosts"][target]
    assert [each["level"] for each in found if each["check"] == "disk"] == ["warning"]

    empty(tight, target)
    tight.settled(tight.client.move(one.name, to=target))
    (moved,) = tight.ready("tight", 1)
    assert moved.host == target
    assert tight.count(moved) == counted + 3
    tight.converged()
