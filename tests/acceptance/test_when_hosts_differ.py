"""Hosts that cannot take each other's checkpoints: b runs its containers by crun, a by runc."""

from __future__ import annotations

import pytest

from poold.errors import Refused

pytestmark = [pytest.mark.lab, pytest.mark.slow]

_DROP_IN = "/etc/containers/containers.conf.d/runtime.conf"


@pytest.fixture
def crun_on_b(faults_lab):
    """Let podman on host b use crun."""
    text = r'[engine]\nruntime = "crun"\n'
    write = f"mkdir -p $(dirname {_DROP_IN}) && printf '{text}' > {_DROP_IN}"
    faults_lab.exec("b", "sh", "-c", write)
    yield
    faults_lab.exec("b", "rm", _DROP_IN)


@pytest.fixture
def differing(faults_lab, make, crun_on_b):
    """Two hosts of two classes with agents of their own, as they ask for the runtime once."""
    agent_dir = "/var/lib/poold-differing"
    tables = [make.host(name, agent_dir=agent_dir) for name in ("a", "b")]
    tables.append(make.pool("mixed", command=make.application()))
    return make.fleet("mixed", tables, agent_dir=agent_dir)


@pytest.mark.fault(
    "hosts that cannot take each other's checkpoints",
    how="podman runs containers by crun on one host, by runc on the other",
    ends="each is sent what it can restore; the other one's generation is built beside",
)
def test_each_class_of_hosts_is_restored_from_its_own_generation(differing):
    """Two builds, one a runtime; every replica is restored and goes on counting."""
    fleet = differing
    fleet.deadline_seconds = 90.0
    fleet.injected()
    change = fleet.settled(fleet.client.checkpoint("mixed"))
    assert "generation 1 is proven and distributed, generation 2 on b" in change.progress
    found = {g.number: g for g in fleet.client.generations("mixed")}
    assert {n: (g.builder, g.manifest.runtime.split()[0]) for n, g in found.items()} == {
        1: ("a", "runc"),
        2: ("b", "crun"),
    }
    unfit = fleet.client.unfit("mixed")
    assert set(unfit[found[1].digest]) == {"b"}
    assert set(unfit[found[2].digest]) == {"a"}
    replicas = fleet.scaled("mixed", 4)
    fleet.converged()
    assert sorted((r.host, r.method, r.generation) for r in replicas) == [
        ("a", "restore", 1),
        ("a", "restore", 1),
        ("b", "restore", 2),
        ("b", "restore", 2),
    ]
    assert {fleet.count(replica) for replica in replicas} == {2}, "two requests warmed each"
    on_a = next(replica.name for replica in replicas if replica.host == "a")
    with pytest.raises(Refused, match="made with runc, the host has crun"):
        fleet.client.move(on_a, to="b")
    fleet.scaled("mixed", 0)
