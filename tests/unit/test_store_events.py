"""The durable log of events, the trail of calls and the revision of a wish."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from poold.store import Store, Wish
from poold.store.calls import KEY_SECONDS, Calls, Remembered
from poold.store.changes import Changes
from poold.store.events import KEEP_SECONDS, Events


@pytest.fixture
def clock():
    """Give a clock that only the test moves."""
    return [1_000_000.0]


@pytest.fixture
def store(tmp_path, clock):
    opened = Store(tmp_path, clock=lambda: clock[0])
    yield opened
    opened.close()


def call(calls, key=None, *, change=1, fingerprint="f", actor="uid:0", body=""):
    calls.add(
        actor=actor, origin="unix pid:1", operation="put_scale", path="/v1/pools/hello/scale",
        request={"replicas": 3}, pool="hello", reason="noon", key=key,
        answer=Remembered(fingerprint=fingerprint, change=change, status=202, body=body),
    )  # fmt: skip


def test_events_survive_a_restart(tmp_path, store, clock):
    """What was recorded is there in the next life, and ids go on."""
    store.events.add("host.up", "a is up", host="a", data={"n": 1})
    before = store.events.newest(limit=10)
    store.close()
    again = Store(tmp_path, clock=lambda: clock[0])
    again.events.add("host.lost", "a is lost", host="a")
    assert again.events.newest(limit=10)[0] == before[0]
    assert [event.id for event in again.events.newest(limit=10)] == [1, 2]
    again.close()


def test_an_event_is_undone_with_its_transaction(store):
    """What did not happen is not told, and its id is given to what does happen."""
    with contextlib.suppress(KeyError), store.transaction():
        store.events.add("host.up", "never")
        raise KeyError
    assert (store.events.newest(limit=10), store.events.bounds()) == ((), (0, 0))
    store.events.add("host.up", "yes")
    assert [event.id for event in store.events.after(0, limit=10)] == [1]


def test_events_are_read_in_order_and_by_pool(store):
    """A reader goes on after an id, oldest first, in one pool where it is asked for."""
    for number in range(6):
        store.events.add("host.up", str(number), pool="even" if number % 2 == 0 else "odd")
    assert [event.text for event in store.events.after(2, limit=2)] == ["2", "3"]
    assert [event.text for event in store.events.after(0, pool="odd", limit=9)] == ["1", "3", "5"]
    assert [event.text for event in store.events.newest(pool="even", limit=2)] == ["2", "4"]


def test_the_log_is_bounded_by_count(tmp_path, store, clock):
    """Of a thousand events with a bound of ten, about ten are left, and ids are not reused."""
    events = Events(store._database, lambda: clock[0], keep=10)
    for number in range(1024):
        events.add("host.up", str(number))
    assert events.bounds() == (1015, 1024)
    assert len(events.after(0, limit=5000)) == 10


def test_the_log_is_bounded_by_age(tmp_path, store, clock):
    """What is too old is gone after a restart; the last id is remembered nevertheless."""
    store.events.add("host.up", "old")
    clock[0] += KEEP_SECONDS + 1
    store.close()
    again = Store(tmp_path, clock=lambda: clock[0])
    assert again.events.bounds() == (0, 1)
    again.close()


async def test_a_waiter_is_woken_by_the_next_event(store):
    """Waiting ends with an event above the id, and at once where there is one already."""
    waiting = asyncio.create_task(store.events.wait(0))
    await asyncio.sleep(0)
    assert not waiting.done()
    store.events.add("host.up", "a")
    await asyncio.wait_for(waiting, 5)
    await asyncio.wait_for(store.events.wait(0), 5)


def test_accepted_and_ended_changes_are_events(store):
    """A change's acceptance and its end are told once each, in the order in which they were."""
    change = store.accept(pool="hello", kind="checkpoint", wish={}, actor="uid:0", reason="noon")
    for _ in range(2):
        store.end_change(
            change.id, "failed", progress="no", problem={"message": "cannot", "detail": "long"}
        )
    told = store.events.after(0, pool="hello", limit=10)
    assert [(e.kind, e.change) for e in told] == [
        ("change.accepted", change.id), ("change.failed", change.id),
    ]  # fmt: skip
    assert told[1].data["problem"] == {"message": "cannot"}


def test_a_change_of_no_pool_is_told_with_what_it_is_about(store):
    """A cordon names its host, a reload its file."""
    for kind, wish in (("cordon", {"host": "b"}), ("reload", {"file": "/etc/p.toml"})):
        store.accept(pool="", kind=kind, wish=wish, actor="uid:0", reason="")
    texts = [event.text for event in store.events.newest(limit=2)]
    assert texts[0].startswith("cordon of b is accepted")
    assert texts[1].startswith("reload of /etc/p.toml is accepted")


def test_a_key_is_found_for_a_day_across_restarts(tmp_path, store, clock):
    """A key of this actor is known a day long, also in the daemon's next life, then free again."""
    call(store.calls, "k", change=7)
    store.close()
    clock[0] += KEY_SECONDS - 1
    again = Store(tmp_path, clock=lambda: clock[0])
    assert again.calls.find("uid:0", "k").change == 7
    assert again.calls.find("uid:1", "k") is None
    clock[0] += 2
    assert again.calls.find("uid:0", "k") is None
    call(again.calls, "k", change=8)
    assert again.calls.find("uid:0", "k").change == 8
    assert [found.change for found in again.calls.newest(limit=9)] == [8, 7]
    again.close()


def test_the_trail_is_bounded(store, clock):
    """The oldest calls go, and their keys with them."""
    calls = Calls(store._database, lambda: clock[0], keep=3)
    for number in range(5):
        call(calls, f"k{number}", change=number)
    assert [found.change for found in calls.newest(limit=9)] == [4, 3, 2]
    assert calls.find("uid:0", "k1") is None


def test_the_trail_says_who_what_when_whence_and_why(store, clock):
    """Everything of an accepted call is there for who reads it later."""
    call(store.calls, "k")
    (found,) = store.calls.newest(pool="hello", limit=9)
    assert (found.actor, found.origin, found.at) == ("uid:0", "unix pid:1", clock[0])
    assert (found.operation, found.path) == ("put_scale", "/v1/pools/hello/scale")
    assert (found.request, found.reason, found.change) == ({"replicas": 3}, "noon", 1)
    assert store.calls.newest(pool="other", limit=9) == ()


def test_the_revision_rises_with_every_wish(store):
    """Whoever writes wishes, the loop's own books included, makes the revision rise."""
    seen = [store.calls.revision("hello")]

    def rises():
        seen.append(store.calls.revision("hello"))
        return seen[-1] > seen[-2]

    store.put_wish(Wish(name="hello1", pool="hello"))
    assert rises()
    store.put_wish(Wish(name="hello1", pool="hello", host="a"))
    assert rises()
    store.put_wish(Wish(name="hello1", pool="hello", host="a"))
    assert not rises()
    store.drop_wish("hello1")
    assert rises()
    store.accept(pool="hello", kind="checkpoint", wish={}, actor="x", reason="")
    assert rises()
    store.accept(pool="hello", kind="scale", wish={}, actor="x", reason="", done=True)
    assert not rises()
    assert store.calls.revision("other") == 0


def test_ended_changes_are_bounded_and_pending_ones_stay(store, clock):
    """The oldest ended changes are forgotten; a wish that is not done never is."""
    changes = Changes(store._database, lambda: clock[0], keep=3)

    def add(*, done):
        return changes.add(pool="hello", kind="scale", wish={}, actor="x", reason="", done=done).id

    pending = add(done=None)
    ended = [add(done="nothing to do") for _ in range(6)]
    kept = [change.id for change in changes.newest(None, 99)]
    assert kept == [*reversed(ended[-3:]), pending]
