"""Pools whose hosts differ: each class of hosts is restored from generations that fit it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from poold.errors import Permanent, Refused

RUNC, CRUN = {"runtime": "runc 1.3.6"}, {"runtime": "crun 1.28"}


async def mixed(make_fleet, b=CRUN, c=None, **options):
    """Two hosts (three with `c`), b of another class than the builder a."""
    hosts = ("a", "b") if c is None else ("a", "b", "c")
    fleet = make_fleet(hosts=hosts, **options)
    fleet["a"].facts = RUNC
    fleet["b"].facts = b
    if c is not None:
        fleet["c"].facts = c
    return fleet


def restored_from(fleet):
    return {r.name: (r.host, r.generation) for r in fleet.world.replicas() if r.method == "restore"}


async def test_each_class_gets_a_generation_of_its_own(make_fleet):
    """Built on a host of the class, numbered on; never restored where it does not fit."""
    fleet = await mixed(make_fleet)
    change = fleet.control.checkpoint("hello", actor="t")
    await fleet.settle()
    assert fleet.change(change).state == "settled"
    assert "generation 1 is proven and distributed, generation 2 on b" in (
        fleet.change(change).progress
    )
    assert [(g.number, g.builder) for g in fleet.store.generations("hello")] == [(2, "b"), (1, "a")]
    fleet.control.scale("hello", replicas=4, actor="t")
    await fleet.settle()
    assert sorted(restored_from(fleet).values()) == [("a", 1), ("a", 1), ("b", 2), ("b", 2)]
    (status,) = fleet.world.pools()
    assert status.generation == 1, "the builder's class is the pool's"
    assert len(fleet["a"].staged) == len(fleet["b"].staged) == 1


async def test_until_it_is_built_a_replica_starts_cold_and_says_why(make_fleet):
    """And is restored from its class's generation at its next start."""
    fleet = await mixed(make_fleet)
    fleet["b"].fail["build"] = [Permanent("x", "cannot build")] * 3
    fleet.control.scale("hello", replicas=2, actor="t")
    await fleet.settle()
    cold = fleet.replica("hello2")
    assert (cold.host, cold.method) == ("b", "cold")
    assert "generation 1 does not fit b (it was made with runc, the host has crun)" in cold.reason
    explained = {b.state: b.text for b in fleet.loop.explain("hello").because}
    assert "building one there failed: cannot build" in explained["none"]
    await fleet.until(lambda: len(fleet.store.generations("hello")) == 2, rounds=400)
    fleet["b"].kill("hello2")
    await fleet.settle()
    assert fleet.replica("hello2").method == "restore"
    explained = {b.state: b.text for b in fleet.loop.explain("hello").because}
    assert "b takes generation 2 instead: it was made with runc" in explained["apart"]


async def test_hosts_of_one_class_share_its_generation(make_fleet):
    """Two more hosts, one more build; the third host is sent what the second made."""
    fleet = await mixed(make_fleet, c=CRUN)
    fleet.control.scale("hello", replicas=3, actor="t")
    await fleet.settle()
    await fleet.until(lambda: len(fleet["c"].staged) == 1)
    assert [(g.number, g.builder) for g in fleet.store.generations("hello")] == [(2, "b"), (1, "a")]
    assert fleet["b"].staged == fleet["c"].staged != fleet["a"].staged


async def test_what_an_older_host_makes_serves_all(make_fleet):
    """A generation made with fewer instruction sets fits the others: it becomes the current one."""
    fleet = await mixed(make_fleet, b={"cpu_flags": "fpu sse2"})
    fleet["a"].facts = {"cpu_flags": "fpu sse2 avx2"}
    fleet.control.checkpoint("hello", actor="t")
    await fleet.settle()
    assert [(g.number, g.builder) for g in fleet.store.generations("hello")] == [(2, "b"), (1, "a")]
    fleet.control.scale("hello", replicas=2, actor="t")
    await fleet.settle()
    assert set(restored_from(fleet).values()) == {("a", 2), ("b", 2)}
    assert len(fleet.did("build")) == 2


async def test_a_checkpoint_is_made_for_every_class_anew(make_fleet):
    """And as many are kept of each class."""
    fleet = await mixed(make_fleet)
    fleet.change_pool(keep_generations=1)
    for _ in range(3):
        fleet.now += 1.0
        fleet.control.checkpoint("hello", actor="t")
        await fleet.settle()
    assert [(g.number, g.builder) for g in fleet.store.generations("hello")] == [(6, "b"), (5, "a")]


async def test_equal_hosts_build_once(make_fleet):
    """Nothing changes for a fleet of one class, nor while nothing is known of a host."""
    fleet = await mixed(make_fleet, b=RUNC)
    fleet.control.scale("hello", replicas=4, actor="t")
    await fleet.settle()
    assert len(fleet.did("build")) == 1
    assert len(fleet.store.generations("hello")) == 1


async def test_a_cordoned_host_builds_nothing(make_fleet):
    """The change says who is left out."""
    fleet = await mixed(make_fleet)
    await fleet.look()
    fleet.cordon.cordon("b", actor="t")
    change = fleet.control.checkpoint("hello", actor="t")
    await fleet.settle()
    assert "not on b (it needs one of its own" in fleet.change(change).progress
    assert len(fleet.did("build")) == 1


async def test_a_failing_build_of_a_class_fails_the_checkpoint_with_its_reason(make_fleet):
    """The pool's generation stays in service."""
    fleet = await mixed(make_fleet)
    fleet["b"].fail["build"] = [Permanent("criu.x", "cannot build on b")]
    change = fleet.control.checkpoint("hello", actor="t")
    await fleet.until(lambda: fleet.change(change).state != "pending")
    assert fleet.change(change).state == "failed"
    assert fleet.change(change).problem["message"] == "cannot build on b"
    assert [g.number for g in fleet.store.generations("hello")] == [1]


async def test_a_move_to_another_class_is_refused(make_fleet):
    """Before anything is frozen, with the reason."""
    fleet = await mixed(make_fleet)
    fleet.control.restore("hello", host="a", actor="t")
    await fleet.settle()
    with pytest.raises(Refused) as refused:
        fleet.control.move("hello1", to="b", actor="t")
    assert refused.value.code == "host.incompatible"
    assert "made with runc, the host has crun" in refused.value.message


async def test_a_daemon_that_restarts_knows_the_classes_by_the_first_listing(make_fleet):
    """Nothing is built or rolled because a host is not listed yet."""
    fleet = await mixed(make_fleet)
    fleet.control.scale("hello", replicas=2, actor="t")
    await fleet.settle()
    await fleet.until(lambda: len(fleet.store.generations("hello")) == 2)
    await fleet.settle()
    before = fleet.where()
    await fleet.restart()
    await fleet.settle()
    assert fleet.where() == before
    assert len(fleet.did("build")) == 2


async def test_a_roll_gives_each_class_its_own_new_generation(make_fleet):
    """It waits for the one that is built apart, replaces all, and finishes."""
    fleet = await mixed(make_fleet, replicas=4)
    await fleet.settle()
    await fleet.until(lambda: len(fleet.store.generations("hello")) == 2)
    application = replace(fleet.pool.application, env={"NEW": "1"})
    fleet.change_pool(application=application, keep_generations=2)
    fleet.now += 1.0
    change = fleet.rollout.roll("hello", actor="t")
    await fleet.settle(rounds=600)
    assert fleet.change(change).state == "settled", fleet.change(change)
    assert sorted(restored_from(fleet).values()) == [("a", 3), ("a", 3), ("b", 4), ("b", 4)]


async def test_a_rollback_goes_to_what_the_builder_made(make_fleet):
    """Not to the other class's generation of the same checkpoint; the other class goes back too."""
    fleet = await mixed(make_fleet, replicas=2)
    fleet.change_pool(keep_generations=3)
    await fleet.settle()
    await fleet.until(lambda: len(fleet.store.generations("hello")) == 2)
    for _ in range(2):
        fleet.now += 1.0
        fleet.control.checkpoint("hello", actor="t")
        await fleet.settle()
    change = fleet.rollout.rollback("hello", actor="t")
    await fleet.settle(rounds=600)
    assert fleet.change(change).state == "settled", fleet.change(change)
    assert fleet.change(change).wish["to"] == 3
    assert sorted(restored_from(fleet).values()) == [("a", 3), ("b", 4)]
    assert len(fleet.store.generations("hello")) == 6, "nothing is built while it is held"
