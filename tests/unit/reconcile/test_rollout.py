"""Rolling over a fleet in memory: to a new generation, paused at a failure, back, by itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from poold.agent.space import read_reserve
from poold.errors import Permanent, Refused
from poold.model.fleet import HostName, RollSettings

A, B = HostName("a"), HostName("b")
BROKEN = Permanent("criu.failed", "cannot restore it: the image does not come to life")


def change_application(fleet, value="2"):
    """Configure another application, as a reload would."""
    application = replace(fleet.pool.application, env={"VERSION": value})
    fleet.change_pool(application=application)


def generations(fleet):
    """Return which generation each ready replica came up from, None for cold starts."""
    return {r.name: r.generation for r in fleet.world.replicas() if r.state == "ready"}


def containers(fleet):
    """Return the id of each container, by name."""
    hosts = fleet.hosts.values()
    return {name: each.container_id for h in hosts for name, each in h.containers.items()}


async def scaled(fleet, count=3):
    fleet.control.scale("hello", replicas=count, actor="test")
    await fleet.settle()
    assert set(generations(fleet).values()) == {1}


async def ended(fleet, change):
    """Go on until a change has ended."""
    await fleet.until(lambda: fleet.change(change).state != "pending", rounds=300)
    return fleet.change(change)


async def test_every_replica_is_replaced_where_it_is(fleet):
    """Same names, same hosts, the new generation; the extra replica came and went."""
    await scaled(fleet)
    before = fleet.where()
    change_application(fleet)
    change = fleet.rollout.roll("hello", actor="test", reason="new version")
    assert change.wish == {"to": None, "surge": 1, "unavailable": 0}
    done = await ended(fleet, change)
    assert done.state == "settled", done
    assert done.progress == "hello 3/3, all of generation 2"
    assert generations(fleet) == dict.fromkeys(before, 2)
    assert fleet.where() == before
    assert "hello4" in fleet.did("restore")
    assert fleet.did("remove").count("hello4") == 1
    assert fleet.store.rolls.get("hello") is None
    assert fleet.control.scale("hello", replicas=3, actor="test").state == "settled"


async def test_nothing_is_to_do_where_all_are_of_the_newest(fleet):
    """The change is settled as it is accepted."""
    await scaled(fleet)
    assert fleet.rollout.roll("hello", actor="test").state == "settled"
    with pytest.raises(Refused, match="nothing older than generation 1"):
        fleet.rollout.rollback("hello", actor="test")
    with pytest.raises(Refused, match="no replica could be replaced"):
        fleet.rollout.roll("hello", surge=0, actor="test")
    with pytest.raises(Refused, match="cannot find generation 7"):
        fleet.rollout.roll("hello", to=7, actor="test")


async def test_the_sentence_says_how_far_it_is(fleet):
    """How many are of the new generation, in the sentence, in the explanation and for readers."""
    await scaled(fleet)
    change_application(fleet)
    await fleet.until(lambda: len(fleet.store.generations("hello")) == 2)
    fleet.rollout.roll("hello", actor="test")
    await fleet.until(lambda: "rolling to generation 2: 1 of 3" in fleet.world.sentence())
    (status,) = fleet.world.pools()
    assert (status.roll.state, status.roll.generation) == ("running", 2)
    assert (status.ready, status.desired) == (3, 3)
    texts = [one.text for one in fleet.loop.explain("hello").because if one.topic == "roll"]
    assert "to generation 2" in texts[0]


async def test_the_first_failure_pauses_it(fleet):
    """One fails and comes up by the ladder; the others stay; said again, the roll goes on."""
    await scaled(fleet)
    change_application(fleet)
    await fleet.until(lambda: len(fleet.store.generations("hello")) == 2)
    await fleet.settle()
    for host in fleet.hosts.values():
        host.fail["restore"] = [BROKEN] * 3
    failed = await ended(fleet, fleet.rollout.roll("hello", surge=0, unavailable=1, actor="test"))
    assert failed.state == "failed"
    assert failed.problem["code"] == "roll.paused"
    assert "hello1 did not come up" in failed.problem["message"]
    assert "poold rollback hello" in failed.problem["hint"]
    for host in fleet.hosts.values():
        host.fail.clear()
    await fleet.settle()
    assert generations(fleet) == {"hello1": None, "hello2": 1, "hello3": 1}
    assert "is paused" in fleet.world.sentence()
    assert "roll.paused" in {event.kind for event in fleet.store.events.newest(limit=50)}
    again = await ended(fleet, fleet.rollout.roll("hello", actor="test"))
    assert again.state == "settled", again
    assert set(generations(fleet).values()) == {2}


async def test_an_extra_replica_that_fails_pauses_it_before_anything_is_touched(fleet):
    """With a surge nothing that runs is taken down for a generation that does not come up."""
    await scaled(fleet)
    before = containers(fleet)
    change_application(fleet)
    await fleet.until(lambda: len(fleet.store.generations("hello")) == 2)
    await fleet.settle()
    for host in fleet.hosts.values():
        host.fail["restore"] = [BROKEN]
    failed = await ended(fleet, fleet.rollout.roll("hello", actor="test"))
    assert failed.problem["code"] == "roll.paused"
    for host in fleet.hosts.values():
        host.fail.clear()
    await fleet.settle()
    assert containers(fleet) == before


async def test_back_to_the_generation_before(fleet):
    """The pool is held there with its application, until it is rolled on."""
    await scaled(fleet)
    old = fleet.pool.application
    change_application(fleet)
    assert (await ended(fleet, fleet.rollout.roll("hello", actor="test"))).state == "settled"
    back = fleet.rollout.rollback("hello", actor="test")
    assert back.wish["to"] == 1
    assert (await ended(fleet, back)).state == "settled"
    assert set(generations(fleet).values()) == {1}
    (status,) = fleet.world.pools()
    assert (status.generation, status.held) == (1, 1)
    with pytest.raises(Refused, match="held at generation 1"):
        fleet.control.checkpoint("hello", actor="test")
    for host in fleet.hosts.values():
        host.fail["restore"] = [BROKEN] * 8
    fleet.control.scale("hello", replicas=4, actor="test")
    await fleet.settle()
    (cold,) = [app for h in fleet.hosts.values() for app in h.started_with.values()]
    assert cold == old
    for host in fleet.hosts.values():
        host.fail.clear()
    assert len(fleet.did("build")) == 2
    assert (await ended(fleet, fleet.rollout.roll("hello", actor="test"))).state == "settled"
    assert set(generations(fleet).values()) == {2}
    assert fleet.world.pools()[0].held is None


async def test_a_changed_configuration_ends_a_hold(fleet):
    """What is held is released once the configuration is not the one that it was held against."""
    await scaled(fleet)
    change_application(fleet)
    await ended(fleet, fleet.rollout.roll("hello", actor="test"))
    await ended(fleet, fleet.rollout.rollback("hello", actor="test"))
    await fleet.settle()
    assert fleet.world.pools()[0].held == 1
    change_application(fleet, "3")
    await fleet.until(lambda: fleet.world.pools()[0].generation == 3)
    assert fleet.world.pools()[0].held is None
    assert set(generations(fleet).values()) == {1}


async def test_a_generation_that_is_rolled_to_or_held_is_kept(fleet):
    """Neither count nor a newer one retires what serves."""
    fleet.change_pool(keep_generations=1)
    await scaled(fleet)
    change_application(fleet)
    await fleet.until(lambda: len(fleet.store.generations("hello")) == 2)
    await ended(fleet, fleet.rollout.rollback("hello", actor="test"))
    fleet.control.scale("hello", replicas=0, actor="test")
    await fleet.settle()
    assert 1 in {g.number for g in fleet.store.generations("hello")}


async def test_it_begins_by_itself_where_the_pool_says_so(fleet):
    """A changed application rolls once it has a generation, and the trail says who."""
    fleet.change_pool(roll=RollSettings(auto=True))
    await scaled(fleet)
    assert fleet.store.rolls.get("hello") is None
    change_application(fleet)
    await fleet.until(lambda: set(generations(fleet).values()) == {2}, rounds=300)
    await fleet.settle()
    (roll,) = [c for c in fleet.store.changes() if c.kind == "roll"]
    assert (roll.actor, roll.state) == ("auto", "settled")
    (call,) = fleet.store.calls.newest(limit=10)
    assert (call.actor, call.change) == ("auto", roll.id)
    fleet.control.checkpoint("hello", actor="test")
    await fleet.settle()
    assert set(generations(fleet).values()) == {2}  # another generation of the same application


async def test_it_begins_by_itself_though_the_disk_is_down_to_its_reserve(fleet):
    """What the pool says was accepted long ago, and nothing of the pool waits for room."""
    fleet.change_pool(roll=RollSettings(auto=True))
    await scaled(fleet)
    fleet.store.reserve = read_reserve("1000000t")
    change_application(fleet)
    await fleet.until(lambda: set(generations(fleet).values()) == {2}, rounds=300)
    assert len(generations(fleet)) == 3


async def test_holding_what_is_of_it_already_is_a_wish(fleet):
    """Where nothing is to be replaced a rollback holds the pool all the same: others see it."""
    await scaled(fleet, 1)
    revision = fleet.store.calls.revision("hello")
    held = fleet.rollout.rollback("hello", to=1, actor="test")
    assert (held.state, held.progress) == (
        "settled", "hello is held at generation 1, and all of it is of that",
    )  # fmt: skip
    assert fleet.store.calls.revision("hello") > revision
    revision = fleet.store.calls.revision("hello")
    free = fleet.rollout.roll("hello", actor="test")
    assert (free.state, free.progress) == ("settled", "all of hello is of generation 1")
    assert fleet.store.calls.revision("hello") > revision


async def test_without_auto_replicas_stay(fleet):
    """A changed application alone touches nothing that runs."""
    await scaled(fleet)
    change_application(fleet)
    await fleet.until(lambda: fleet.world.pools()[0].generation == 2)
    await fleet.settle()
    assert set(generations(fleet).values()) == {1}
    explained = fleet.loop.explain("hello")
    (due,) = [one.text for one in explained.because if one.topic == "roll"]
    assert due == (
        "hello1, hello2, hello3 did not come up from generation 2, which is current:"
        " poold roll hello replaces them"
    )
    assert explained.waits_for == ()


async def test_a_second_roll_takes_the_firsts_place(fleet):
    """The first change says so; the second one ends with all replicas where it goes."""
    await scaled(fleet)
    change_application(fleet)
    first = fleet.rollout.roll("hello", actor="test")
    await fleet.until(lambda: 2 in generations(fleet).values(), rounds=300)
    second = fleet.rollout.rollback("hello", actor="test")
    assert fleet.change(first).problem["code"] == "roll.superseded"
    assert (await ended(fleet, second)).state == "settled"
    assert generations(fleet) == {"hello1": 1, "hello2": 1, "hello3": 1}


async def test_a_wish_for_one_more_keeps_the_extra_replica(fleet):
    """Scaled out meanwhile, the extra one becomes a wished one and stays."""
    await scaled(fleet)
    change_application(fleet)
    change = fleet.rollout.roll("hello", actor="test")
    await fleet.until(lambda: generations(fleet).get("hello4") == 2, rounds=300)
    fleet.control.scale("hello", replicas=4, actor="test")
    assert (await ended(fleet, change)).state == "settled"
    await fleet.settle()
    assert generations(fleet) == dict.fromkeys(["hello1", "hello2", "hello3", "hello4"], 2)
    assert "hello4" not in fleet.did("remove")


async def test_without_room_for_an_extra_one_it_says_so_and_goes_on(fleet):
    """One at a time is missing then."""
    fleet.change_pool(max=3)
    await scaled(fleet)
    change_application(fleet)
    await fleet.until(lambda: len(fleet.store.generations("hello")) == 2)
    change = fleet.rollout.roll("hello", actor="test")
    await fleet.until(lambda: "no room for an extra replica (max = 3)" in fleet.world.sentence())
    assert (await ended(fleet, change)).state == "settled"
    assert "hello4" not in fleet.did("restore")


async def test_what_is_out_of_reach_is_waited_for(fleet):
    """A replica on a host that is cut off is replaced when it is back."""
    await scaled(fleet)
    change_application(fleet)
    await fleet.until(lambda: len(fleet.store.generations("hello")) == 2)
    await fleet.settle()
    fleet[B].up = False
    change = fleet.rollout.roll("hello", actor="test")
    for _ in range(20):
        await fleet.step()
    assert fleet.change(change).state == "pending"
    assert "waiting" in fleet.world.sentence()
    fleet[B].up = True
    assert (await ended(fleet, change)).state == "settled"


@pytest.mark.parametrize("every", [1, 2, 3])
async def test_a_daemon_that_dies_again_and_again_ends_it_all_the_same(fleet, every):
    """Killed between any two steps, each name is replaced once and nothing is left over."""
    await scaled(fleet)
    change_application(fleet)
    change = fleet.rollout.roll("hello", actor="test")
    for step in range(400):
        if fleet.change(change).state != "pending":
            break
        await fleet.step()
        if step % every == 0:
            await fleet.restart()
        fleet.now += 0.2
    assert fleet.change(change).state == "settled"
    await fleet.settle()
    assert generations(fleet) == {"hello1": 2, "hello2": 2, "hello3": 2}
    assert sorted(fleet.did("remove")) == ["hello1", "hello2", "hello3", "hello4"]
    assert fleet.store.rolls.get("hello") is None


async def test_generations_of_an_older_poold_are_explained_while_they_fit(fleet):
    """Rows without an application get it from the configuration, as long as it is the same one."""
    await scaled(fleet, 1)
    fleet.store._database._connection.execute("UPDATE generations SET application = NULL")
    await fleet.restart()
    await fleet.step()
    assert fleet.store.rolls.unexplained("hello") == frozenset()
    fleet.store._database._connection.execute("UPDATE generations SET application = NULL")
    change_application(fleet)
    await fleet.until(lambda: len(fleet.store.generations("hello")) == 2)
    with pytest.raises(Refused, match="did not write down"):
        fleet.rollout.rollback("hello", actor="test")


async def test_a_scale_settles_and_an_extra_replica_is_refused_meanwhile(fleet):
    """A wish for other replicas does not wait for the roll; what is the roll's is left to it."""
    await scaled(fleet)
    change_application(fleet)
    roll = fleet.rollout.roll("hello", actor="test")
    await fleet.until(lambda: generations(fleet).get("hello4") == 2, rounds=300)
    with pytest.raises(Refused) as refused:
        fleet.control.remove("hello4", actor="test")
    assert "extra one while hello rolls" in refused.value.hint
    wider = fleet.control.scale("hello", replicas=5, actor="test")
    narrower = fleet.control.scale("hello", replicas=2, actor="test")
    for change in (wider, narrower, roll):
        assert (await ended(fleet, change)).state == "settled"
    await fleet.settle()
    assert list(generations(fleet).values()) == [2, 2]


async def test_a_replica_of_an_old_generation_moves_as_what_it_is(fleet):
    """Its own application is captured, not the one that is configured by now."""
    await scaled(fleet, 1)
    old = fleet.pool.application
    change_application(fleet)
    await fleet.until(lambda: len(fleet.store.generations("hello")) == 2)
    await fleet.settle()
    there = fleet.where()["hello1"]
    fleet.control.move("hello1", to=B if there == A else A, actor="test")
    await fleet.settle()
    assert fleet[there].started_with == {"hello1": old}
    assert generations(fleet) == {"hello1": 1}
