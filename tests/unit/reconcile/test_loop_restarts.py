"""A daemon that dies at any point: its next life finds out, and does nothing twice."""

from __future__ import annotations

import asyncio

import pytest

VERBS = ["build", "stage", "restore", "remove"]


async def begin(fleet, verb):
    """Bring a fleet to where the next action is of that verb."""
    if verb == "remove":
        fleet.control.scale("hello", replicas=2, actor="test")
        await fleet.settle()
        return fleet.control.scale("hello", replicas=1, actor="test")
    return fleet.control.scale("hello", replicas=2, actor="test")


@pytest.mark.parametrize("verb", VERBS)
async def test_killed_while_an_action_runs_the_next_life_joins_it(fleet, verb):
    """The same id is asked again, the deed is done once, the change settles."""
    change = await begin(fleet, verb)
    for host in fleet.hosts.values():
        host.hold[verb] = asyncio.Event()
    await fleet.until(lambda: any(i.request.verb == verb for i in fleet.store.intents()))
    before = {(verb, i.action) for i in fleet.store.intents() if i.request.verb == verb}
    await fleet.restart()
    for host in fleet.hosts.values():
        host.hold.pop(verb).set()
    await fleet.settle()
    assert fleet.change(change).state == "settled"
    assert len(fleet.did(verb)) == len(set(fleet.did(verb)))
    assert all(sum(h.asked.count(b) for h in fleet.hosts.values()) >= 2 for b in before)
    assert fleet.store.intents() == ()


@pytest.mark.parametrize("verb", VERBS)
async def test_killed_after_the_deed_and_before_the_answer_nothing_is_repeated(fleet, verb):
    """The deed was done, nobody heard: its outcome is looked up by id, not done again."""
    change = await begin(fleet, verb)
    for host in fleet.hosts.values():
        host.lose[verb] = 10**6
    await fleet.until(lambda: fleet.did(verb) != [])
    for host in fleet.hosts.values():
        host.lose.clear()
    await fleet.restart()
    await fleet.settle()
    assert fleet.change(change).state == "settled"
    assert len(fleet.did(verb)) == len(set(fleet.did(verb)))
    assert fleet.did("build") == ["hello"]


@pytest.mark.parametrize("verb", VERBS)
async def test_killed_before_the_request_was_sent_it_is_sent_by_the_next_life(fleet, verb):
    """An intent without a request is completed, not forgotten."""
    change = await begin(fleet, verb)
    for _ in range(60):
        await fleet.look()
        decided = await fleet.loop.cycle("hello")
        if any(i.request.verb == verb for i in fleet.store.intents()):
            break
        if not decided.actions:
            async with asyncio.timeout(5):
                await fleet.loop.drain()
    await fleet.restart()
    await fleet.settle()
    assert fleet.change(change).state == "settled"
    assert len(fleet.did(verb)) == len(set(fleet.did(verb)))


@pytest.mark.parametrize("cycles", range(1, 12))
async def test_killed_after_any_cycle_it_settles_without_doing_anything_twice(fleet, cycles):
    """Swept: whatever the store holds then, the wish is fulfilled, each replica restored once."""
    change = fleet.control.scale("hello", replicas=3, actor="test")
    for _ in range(cycles):
        await fleet.look()
        await fleet.loop.cycle("hello")
    await fleet.restart()
    await fleet.settle()
    assert fleet.change(change).state == "settled"
    assert sorted(fleet.did("restore")) == ["hello1", "hello2", "hello3"]
    assert fleet.did("build") == ["hello"]


async def test_an_orderly_restart_does_nothing_to_running_replicas(fleet):
    """Promise 8: started again, it finds them and does nothing."""
    fleet.control.scale("hello", replicas=3, actor="test")
    await fleet.settle()
    deeds = [list(host.did) for host in fleet.hosts.values()]
    containers = [dict(host.containers) for host in fleet.hosts.values()]
    await fleet.restart()
    decided = await fleet.loop.cycle("hello")
    assert decided.actions == (), "nothing is decided before the hosts were listed"
    assert {r.state for r in decided.replicas} == {"unknown"}
    await fleet.settle()
    assert [host.did for host in fleet.hosts.values()] == deeds
    assert [host.containers for host in fleet.hosts.values()] == containers
    assert fleet.replica("hello2").seconds == 0.1, "how it came up is remembered"


async def test_a_host_that_rebooted_while_the_daemon_was_dead_is_looked_at_anew(fleet):
    """An open intent of an earlier boot is not asked again: the listing decides."""
    change = fleet.control.scale("hello", replicas=1, actor="test")
    fleet["a"].hold["restore"] = asyncio.Event()
    await fleet.until(lambda: any(i.request.verb == "restore" for i in fleet.store.intents()))
    (intent,) = fleet.store.intents()
    await fleet.end()
    await fleet["a"].close()
    fleet["a"].reboot()
    fleet["a"].hold.clear()
    asked = fleet["a"].asked.count(("restore", intent.action))
    fleet.begin()
    await fleet.settle()
    assert fleet.change(change).state == "settled"
    assert fleet["a"].asked.count(("restore", intent.action)) == asked
    assert fleet.where() == {"hello1": "a"}


async def test_a_lost_reply_is_looked_up_when_the_host_is_back(fleet):
    """The host goes away with the answer: the name stays its, and nothing starts elsewhere."""
    change = fleet.control.scale("hello", replicas=1, actor="test")
    fleet["a"].hold["restore"] = asyncio.Event()
    await fleet.until(lambda: any(i.request.verb == "restore" for i in fleet.store.intents()))
    fleet["a"].up = False
    fleet["a"].hold.pop("restore").set()
    for _ in range(3):
        await fleet.step()
        fleet.now += 1000
    assert fleet.replica("hello1").state == "unknown"
    fleet["a"].up = True
    await fleet.settle()
    assert fleet.change(change).state == "settled"
    assert fleet.did("restore") == ["hello1"]


async def test_a_wish_that_was_accepted_survives_a_kill(fleet):
    """Promise 5, for every kind of wish."""
    first = fleet.control.scale("hello", replicas=1, actor="test")
    second = fleet.control.restore("hello", name="hello5", actor="test")
    third = fleet.control.checkpoint("hello", actor="test")
    await fleet.restart()
    await fleet.settle()
    assert fleet.ready() == ["hello1", "hello5"]
    assert {fleet.change(c).state for c in (first, second, third)} == {"settled"}


async def test_two_containers_of_one_name_end_as_one(fleet):
    """Whatever put it there: the one that is not assigned goes."""
    fleet.control.scale("hello", replicas=1, actor="test")
    await fleet.settle()
    fleet["b"].run_by_hand("hello1", ours=True, ready=False)
    await fleet.settle()
    await fleet.step()
    assert list(fleet["b"].containers) == []
    assert fleet.where() == {"hello1": "a"}


async def test_a_full_disk_of_the_daemon_delays_outcomes_and_loses_none(fleet):
    """What cannot be written down stays open, and is folded when there is room again."""
    change = fleet.control.scale("hello", replicas=1, actor="test")
    fleet["a"].hold["restore"] = asyncio.Event()
    await fleet.until(lambda: any(i.request.verb == "restore" for i in fleet.store.intents()))
    connection = fleet.store._database._connection
    connection.execute("PRAGMA query_only = ON")
    fleet["a"].hold.pop("restore").set()
    for _ in range(5):
        await fleet.look()
        await asyncio.sleep(0.01)
    assert fleet.did("restore") == ["hello1"]
    assert len(fleet.store.intents()) == 1
    connection.execute("PRAGMA query_only = OFF")
    await fleet.settle()
    assert fleet.change(change).state == "settled"
    assert fleet.did("restore") == ["hello1"]
