"""Spares by the loop over hosts in memory: made, claimed, lost, and through the daemon's death."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from poold.errors import Permanent, Temporary


def spares(fleet):
    """Return the names of the spares that hosts have, by host."""
    return {
        host.name: sorted(c.name for c in host.containers.values() if c.role == "spare")
        for host in fleet.hosts.values()
    }


def counts(fleet):
    return {name: len(found) for name, found in spares(fleet).items()}


@pytest.fixture
async def ready(fleet):
    """Have a pool of one replica with a spare on each of two hosts."""
    fleet.change_pool(spares=1)
    fleet.control.scale("hello", replicas=1, actor="test")
    await fleet.settle()
    await fleet.until(lambda: counts(fleet) == {"a": 1, "b": 1})
    await fleet.step()
    return fleet


async def test_spares_come_after_the_wish_and_then_there_is_rest(ready):
    """One on each host, none before the replica, and nothing more is asked."""
    order = [what for host in ready.hosts.values() for what, _ in host.did]
    assert order.index("restore") < order.index("spare")
    before = [list(host.did) for host in ready.hosts.values()]
    for _ in range(5):
        assert (await ready.step()).actions == ()
    assert [host.did for host in ready.hosts.values()] == before
    assert ready.world.sentence() == "hello 1/1"
    assert [replica.name for replica in ready.world.replicas()] == ["hello1"]


async def test_a_wish_claims_a_spare_and_another_one_is_made(ready):
    """The replica is the container that waited; the change says how; the host gets a new one."""
    (waited,) = spares(ready)["b"]
    container_id = ready["b"].containers[waited].container_id
    change = ready.control.scale("hello", replicas=2, actor="test")
    await ready.settle()
    replica = ready.replica("hello2")
    assert (replica.host, replica.method, replica.container_id) == ("b", "spare", container_id)
    assert (replica.generation, replica.reason) == (1, "")
    assert ready.change(change).state == "settled"
    assert replica.phases == {"thaw": 0.02}
    assert ("started", "spare", "success") in ready.events.told
    assert ready.did("restore") == ["hello1"]
    await ready.until(lambda: counts(ready) == {"a": 1, "b": 1})
    assert waited not in spares(ready)["b"]


async def test_a_burst_claims_what_there_is_and_restores_the_rest(ready):
    """Each spare becomes one replica; nothing is there twice."""
    ready.control.scale("hello", replicas=5, actor="test")
    await ready.settle()
    assert len(ready.did("claim")) == 2
    assert sorted([*ready.did("claim"), *ready.did("restore")]) == [
        f"hello{number}" for number in range(1, 6)
    ]
    await ready.until(lambda: counts(ready) == {"a": 1, "b": 1})


async def test_a_spare_that_is_gone_costs_nothing_but_time(ready):
    """The agent restores in the same action; the step down is counted, the listing looks again."""
    for host in ready.hosts.values():
        for name in spares(ready)[host.name]:
            host.containers[name] = replace(host.containers[name], digest="sha256:other")
            ready.world._hosts[host.name].touched.clear()
    ready["a"].hold["observe"] = asyncio.Event()
    ready.control.restore("hello", host="b", actor="test")
    await ready.loop.cycle("hello")
    await ready.loop.drain()
    assert ready.did("restore")[-1] == "hello2"
    assert ("fell back", "restore") in ready.events.told
    del ready["a"].hold["observe"]
    await ready.settle()
    assert ready.replica("hello2").method == "restore"
    await ready.until(lambda: counts(ready) == {"a": 1, "b": 1})


async def test_a_dead_replica_comes_up_from_the_spare_of_its_host(ready):
    """Healing is a claim as well."""
    ready["a"].kill("hello1")
    await ready.settle()
    await ready.until(lambda: ready.ready() == ["hello1"])
    assert ready.did("claim") == ["hello1"]
    assert ready.where()["hello1"] == "a"


async def test_a_dead_spare_is_replaced(ready):
    """It is removed, and another one is made."""
    (name,) = spares(ready)["a"]
    ready["a"].kill(name)
    await ready.until(lambda: name not in ready["a"].containers)
    await ready.until(lambda: counts(ready) == {"a": 1, "b": 1})
    assert ready.ready() == ["hello1"]


async def test_a_lost_answer_claims_once(ready):
    """The reply got lost after the deed: asked again under the same id, one replica is there."""
    ready["b"].lose["restore"] = 2
    ready.control.scale("hello", replicas=2, actor="test")
    await ready.settle()
    assert ready.did("claim") == ["hello2"]
    assert ready.replica("hello2").method == "spare"


async def test_a_daemon_that_died_in_a_claim_finds_the_replica(ready):
    """Whatever the agent did meanwhile, the name lives once and the spare is not claimed twice."""
    ready["b"].hold["restore"] = asyncio.Event()
    ready.control.scale("hello", replicas=3, actor="test")
    await ready.loop.cycle("hello")
    await asyncio.sleep(0)
    await ready.restart()
    ready["b"].hold.pop("restore").set()
    await ready.settle()
    assert sorted(ready.did("claim")) == ["hello2", "hello3"]
    await ready.until(lambda: counts(ready) == {"a": 1, "b": 1})


async def test_a_restarted_daemon_keeps_the_spares(ready):
    """They are listed with their generation; no other ones are made."""
    before = spares(ready)
    await ready.restart()
    await ready.settle()
    assert spares(ready) == before


async def test_a_lost_store_keeps_no_name_of_a_spare(make_fleet):
    """What a spare is called is nobody's wish: it is not introduced as a replica."""
    fleet = make_fleet()
    fleet.change_pool(spares=1)
    fleet.control.scale("hello", replicas=1, actor="test")
    await fleet.settle()
    await fleet.until(lambda: counts(fleet) == {"a": 1, "b": 1})
    other = make_fleet()
    other.hosts.update(fleet.hosts)
    other.change_pool(spares=1)
    await other.step()
    await other.step()
    assert [wish.name for wish in other.store.wishes()] == ["hello1"]


async def test_a_spare_that_cannot_be_made_leaves_replicas_alone(ready):
    """It waits and tries again; CRIU's failure is remembered like that of any restore."""
    (name,) = spares(ready)["a"]
    ready["a"].fail["prepare-spare"] = [
        Temporary("host.memory-low", "cannot prepare a spare: memory"),
        Permanent("criu.restore-failed", "cannot restore: CRIU"),
    ]
    ready["a"].kill(name)
    await ready.until(lambda: not ready["a"].fail["prepare-spare"])
    assert ready.ready() == ["hello1"]
    assert [entry.host for entry in ready.store.quarantine.all("hello")] == ["a"]
    assert counts(ready)["b"] == 1


async def test_without_a_wish_for_spares_they_go(ready):
    """Said in the configuration: they are removed, replicas stay."""
    ready.change_pool(spares=0)
    await ready.until(lambda: counts(ready) == {"a": 0, "b": 0})
    assert ready.ready() == ["hello1"]


async def test_spares_of_a_pool_that_left_the_configuration_go(ready):
    """Replicas are left running, what waited for a wish is not."""
    ready.config = replace(ready.config, pools={})
    await ready.until(lambda: counts(ready) == {"a": 0, "b": 0})
    assert "hello1" in ready["a"].containers


async def test_a_cordoned_host_gives_its_spares_up(ready):
    """Nothing new comes there, so nothing waits there."""
    ready.cordon.cordon("b", actor="test", reason="")
    await ready.until(lambda: counts(ready) == {"a": 1, "b": 0})
    ready.cordon.uncordon("b", actor="test")
    await ready.until(lambda: counts(ready) == {"a": 1, "b": 1})


async def test_a_roll_brings_spares_of_the_new_generation(ready):
    """The old ones go, the new ones come when the replicas are through."""
    ready.control.checkpoint("hello", actor="test")
    await ready.settle()
    ready.rollout.roll("hello", actor="test")
    await ready.settle()
    await ready.until(lambda: counts(ready) == {"a": 1, "b": 1})
    current = ready.store.generations("hello")[0].digest
    found = {c.digest for h in ready.hosts.values() for c in h.containers.values()}
    assert found == {current}
    assert ready.ready() == ["hello1"]
