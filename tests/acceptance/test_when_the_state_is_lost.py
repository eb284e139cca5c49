"""The daemon's state is gone, its key is not: replicas run on, and no checkpoint is made anew."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.lab, pytest.mark.slow]


@pytest.mark.fault(
    "the daemon's state is lost",
    how="its database deleted while it is stopped; its key is there still",
    ends="the same containers and the same generation under its number; nothing is built anew",
)
def test_a_lost_state_costs_nothing_but_what_was_wished(make):
    """Same containers, same generation under its number, no build; and restoring works from it."""
    agent_dir = "/var/lib/poold-lost"
    tables = [make.host(name, agent_dir=agent_dir) for name in ("a", "b")]
    tables.append(make.pool("kept", command=make.application(), replicas=2))
    fleet = make.fleet("lost", tables, agent_dir=agent_dir)
    fleet.deadline_seconds = 90.0
    fleet.settled(fleet.client.checkpoint("kept"))
    fleet.settled(fleet.client.checkpoint("kept"))
    before = {replica.name: replica.container_id for replica in fleet.ready("kept", 2)}
    generations = fleet.client.generations("kept")

    current = generations[0].digest.removeprefix("sha256:")
    path = f"{agent_dir}/generations/{current}/seal.json"
    fleet.until(
        "the current generation is sealed on both hosts",
        lambda: all(fleet.on(h, "sh", "-c", f"test -e {path} && echo yes || true") for h in "ab"),
    )
    fleet.is_tidy()
    fleet.injected()
    fleet.onlooker.daemon_dies()
    fleet.stop()
    state = fleet.folder / "state"
    for file in state.iterdir():
        if file.name != "seal.key":
            file.unlink()
    fleet.onlooker.lost()
    fleet.start()
    after = {replica.name: replica.container_id for replica in fleet.ready("kept", 2)}
    assert after == before
    fleet.converged()
    found = fleet.client.generations("kept")
    assert found[0] == generations[0]
    events, _ = fleet.client.events(limit=500)
    kinds = {event.kind for event in events}
    assert "generation.adopted" in kinds
    assert "generation.proven" not in kinds
    for replica in before:
        fleet.settled(fleet.client.remove(replica))
    restored = fleet.scaled("kept", 2)
    assert {(r.method, r.generation) for r in restored} == {("restore", generations[0].number)}
    fleet.scaled("kept", 0)
