"""The event log and the trail of calls: the store's and those in memory are used alike."""

from __future__ import annotations

import asyncio

import pytest

from poold.api.memory_logs import MemoryCalls, MemoryEvents
from poold.store import Store
from poold.store.calls import KEY_SECONDS, Calls, Remembered
from poold.store.events import Events


@pytest.fixture
def clock():
    """Give a clock that only the test moves."""
    return [1_000_000.0]


@pytest.fixture
def store(tmp_path, clock):
    opened = Store(tmp_path, clock=lambda: clock[0])
    yield opened
    opened.close()


@pytest.fixture(params=["store", "memory"])
def events(request, store, clock):
    """Give a log that keeps 256 events, give or take the store's laziness."""
    if request.param == "memory":
        return MemoryEvents(lambda: clock[0], keep=256)
    return Events(store._database, lambda: clock[0], keep=256)


@pytest.fixture(params=["store", "memory"])
def calls(request, store, clock):
    if request.param == "memory":
        return MemoryCalls(lambda replica: None, lambda: clock[0])
    return Calls(store._database, lambda: clock[0])


def test_what_is_added_is_read(events, clock):
    """All fields come back, with the time and the next id."""
    events.add(
        "replica.ready", "yes", pool="hello", replica="hello1", host="a", change=3, data={"n": 1}
    )
    (event,) = events.after(0, limit=9)
    assert (event.id, event.at, event.kind, event.text) == (1, clock[0], "replica.ready", "yes")
    assert (event.pool, event.replica, event.host) == ("hello", "hello1", "a")
    assert (event.change, event.data) == (3, {"n": 1})


def test_reading_is_in_order_by_pool_and_limited(events):
    """Oldest first, after an id or the newest, of one pool or of all."""
    assert (events.bounds(), events.newest(limit=9)) == ((0, 0), ())
    for number in range(1, 7):
        events.add("host.up", str(number), pool="even" if number % 2 == 0 else "odd")
    assert [event.id for event in events.after(2, limit=2)] == [3, 4]
    assert [event.id for event in events.newest(pool="odd", limit=2)] == [3, 5]
    assert events.bounds() == (1, 6)


def test_the_oldest_go(events):
    """The log is bounded, and an id is never given twice."""
    for number in range(1024):
        events.add("host.up", str(number))
    assert events.bounds() == (769, 1024)


async def test_waiting_is_for_a_higher_id(events):
    """It ends when there is one, and not before."""
    events.add("host.up", "1")
    waiting = asyncio.create_task(events.wait(1))
    await asyncio.sleep(0)
    assert not waiting.done()
    events.add("host.up", "2")
    await asyncio.wait_for(waiting, 5)


def test_a_key_is_its_actors_for_a_day(calls, clock):
    """A key is found by the actor that used it, until it is too old; without one nothing is."""
    answer = Remembered(fingerprint="f", change=7, status=202)
    for key in ("k", None, None):
        calls.add(
            actor="uid:0", origin="o", operation="put_scale", path="/p", request={"delta": 1},
            pool="hello", reason="why", key=key, answer=answer,
        )  # fmt: skip
    assert calls.find("uid:0", "k") == answer
    assert calls.find("uid:1", "k") is None
    clock[0] += KEY_SECONDS
    assert calls.find("uid:0", "k") is None
    assert [call.id for call in calls.newest(pool="hello", limit=2)] == [3, 2]
    assert calls.newest(pool="other", limit=2) == ()
