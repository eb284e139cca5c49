"""Moving a replica: its counter goes with it, and whatever fails, it runs on one host."""

from __future__ import annotations

import asyncio

import pytest

from poold.errors import Permanent, Temporary


async def ready_on_a(fleet):
    """One replica on a, which has counted to 42."""
    fleet.control.restore("hello", name="hello1", host="a", actor="test")
    await fleet.settle()
    count(fleet, "a", 42)


def count(fleet, host, counter):
    fact = fleet[host].containers["hello1"]
    fleet[host].counters[fact.container_id] = counter


def counter(fleet, host):
    return fleet[host].counters[fleet[host].containers["hello1"].container_id]


async def test_a_move_takes_the_memory_along_and_leaves_nothing(fleet):
    """The replica runs on b with its counter; a has neither container nor capture."""
    await ready_on_a(fleet)
    change = fleet.control.move("hello1", to="b", actor="test")
    await fleet.settle()
    assert fleet.where() == {"hello1": "b"}
    assert counter(fleet, "b") == 42
    assert fleet.change(change).state == "settled"
    phases = fleet.change(change).phases
    assert [p for p in phases if p != "image"] == [
        "capture",
        "send",
        "stage",
        "restore",
        "downtime",
    ]
    assert fleet.replica("hello1").method == "move"
    await fleet.step()
    assert len(fleet["a"].staged) == len(fleet["b"].staged) == 1, "only the generation is left"
    assert fleet.store.wishes()[0].host == "b", "the pin goes along"
    assert ("moved", "success") in fleet.events.told


@pytest.mark.parametrize(
    ("host", "verb"),
    [("a", "capture"), ("b", "write-blob"), ("b", "stage"), ("b", "restore")],
)
async def test_a_move_that_fails_leaves_the_replica_running_where_it_was(fleet, host, verb):
    """Every step before the flip: thawed at the source, counter intact, the reason said."""
    await ready_on_a(fleet)
    fleet[host].fail[verb] = [Permanent("test.broken", f"cannot {verb}")]
    change = fleet.control.move("hello1", to="b", actor="test")
    await fleet.settle()
    assert fleet.where() == {"hello1": "a"}
    assert counter(fleet, "a") == 42
    assert fleet.change(change).state == "failed"
    assert fleet.change(change).problem["code"] == "test.broken"
    assert fleet.store.moves() == ()
    await fleet.step()
    assert len(fleet["a"].staged) == len(fleet["b"].staged) == 1


async def test_an_image_that_cannot_be_sent_stops_the_move_before_any_downtime(fleet):
    """The image goes first; failing there, the replica was never frozen."""
    await ready_on_a(fleet)
    fleet["b"].images.clear()
    fleet["b"].fail["import-image"] = [Permanent("image.broken", "cannot import")]
    change = fleet.control.move("hello1", to="b", actor="test")
    await fleet.settle()
    assert fleet.change(change).state == "failed"
    assert fleet.did("capture") == []
    assert fleet.where() == {"hello1": "a"}


async def test_a_move_waits_for_hosts_that_a_new_daemon_has_not_reached_yet(fleet):
    """Killed right after accepting, the next life does not take the first seconds for a fault."""
    await ready_on_a(fleet)
    change = fleet.control.move("hello1", to="b", actor="test")
    fleet["b"].reached.clear()
    await fleet.restart()
    for _ in range(3):
        await fleet.step()
    assert fleet.change(change).state == "pending"
    fleet["b"].reached.set()
    await fleet.settle()
    assert fleet.change(change).state == "settled"
    assert fleet.where() == {"hello1": "b"}


@pytest.mark.parametrize("verb", ["capture", "stage", "restore", "remove"])
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_daemon_killed_in_a_step_finishes_the_move(fleet, verb, moment):
    """Killed before or after the deed of each step: the next life goes on, each deed once."""
    await ready_on_a(fleet)
    fleet["b"].did.clear()
    change = fleet.control.move("hello1", to="b", actor="test")
    for host in fleet.hosts.values():
        if moment == "before":
            host.hold[verb] = asyncio.Event()
        else:
            host.lose[verb] = 10**6
    for _ in range(12):
        await fleet.step()
    await fleet.restart()
    for host in fleet.hosts.values():
        host.lose.clear()
        for event in host.hold.values():
            event.set()
    await fleet.settle()
    fleet.check()
    if fleet.change(change).state == "settled":
        assert fleet.where() == {"hello1": "b"}
        assert counter(fleet, "b") == 42
    else:  # a reply lost while frozen is not waited for: it is thawed
        assert verb == "stage"
        assert fleet.where() == {"hello1": "a"}
        assert counter(fleet, "a") == 42
    for deed in ("capture", "move"):
        assert len(fleet.did(deed)) <= 1


async def test_a_target_that_vanishes_after_the_restore_was_sent_keeps_the_name(fleet):
    """Nobody knows whether it runs there: the source stays frozen until the target says."""
    await ready_on_a(fleet)
    fleet["b"].hold["restore"] = asyncio.Event()
    change = fleet.control.move("hello1", to="b", actor="test")
    await fleet.until(lambda: any(verb == "restore" for verb, _ in fleet["b"].asked))
    fleet["b"].up = False
    fleet["b"].hold.pop("restore").set()
    for _ in range(5):
        await fleet.step()
        fleet.now += 100
    assert fleet.change(change).state == "pending"
    assert fleet.replica("hello1").state == "moving"
    assert fleet["a"].containers["hello1"].role == "captured"
    fleet["b"].up = True
    await fleet.settle()
    assert fleet.where() == {"hello1": "b"}
    assert counter(fleet, "b") == 42


async def test_an_undo_is_repeated_until_the_target_confirms(fleet):
    """The source is thawed only after the target has said that nothing is left there."""
    await ready_on_a(fleet)
    fleet["b"].fail["restore"] = [Permanent("criu.refused", "cannot restore")]
    fleet["b"].fail["remove"] = [Temporary("agent.busy", "cannot remove now")] * 3
    change = fleet.control.move("hello1", to="b", actor="test")
    await fleet.until(lambda: fleet["b"].fail["remove"] == [])
    assert fleet["a"].containers["hello1"].role == "captured"
    await fleet.settle()
    assert fleet.where() == {"hello1": "a"}
    assert fleet.change(change).problem["code"] == "criu.refused"


async def test_a_source_lost_after_the_flip_does_not_hold_up_the_move(fleet):
    """The replica runs on b; what the source still has is removed when it is back."""
    await ready_on_a(fleet)
    fleet["a"].hold["remove"] = asyncio.Event()
    change = fleet.control.move("hello1", to="b", actor="test")
    await fleet.until(lambda: any(verb == "remove" for verb, _ in fleet["a"].asked))
    fleet["a"].up = False
    fleet["a"].hold.pop("remove").set()
    await fleet.until(lambda: fleet.change(change).state == "settled")
    fleet["a"].up = True
    await fleet.settle()
    assert fleet.where() == {"hello1": "b"}
    assert list(fleet["a"].containers) == []


async def test_a_frozen_replica_that_cannot_be_thawed_is_restored_from_the_generation(fleet):
    """The last resort: its memory is lost, its name is served again, and the change says so."""
    await ready_on_a(fleet)
    fleet["b"].fail["restore"] = [Permanent("criu.refused", "cannot restore")]
    fleet["a"].fail["resume"] = [Permanent("criu.refused", "cannot thaw")] * 20
    change = fleet.control.move("hello1", to="b", actor="test")
    await fleet.settle()
    assert fleet.change(change).state == "failed"
    assert "could not be thawed" in fleet.change(change).problem["message"]
    assert fleet.where() == {"hello1": "a"}
    assert counter(fleet, "a") == 1


async def test_a_move_does_not_stop_the_rest_of_the_pool(fleet):
    """While hello1 is frozen and on its way, hello2 comes up."""
    await ready_on_a(fleet)
    fleet["b"].hold["stage"] = asyncio.Event()
    fleet.control.move("hello1", to="b", actor="test")
    fleet.control.restore("hello", name="hello2", host="a", actor="test")
    await fleet.until(lambda: fleet.where().get("hello2") == "a")
    fleet["b"].hold.pop("stage").set()
    await fleet.settle()
    assert fleet.where() == {"hello1": "b", "hello2": "a"}
