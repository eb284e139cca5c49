"""Replicas that die: the tracker by itself, and the loop that goes by it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from poold.agent.messages import ContainerFact, Event, Started
from poold.model.application import Application, Liveness
from poold.model.fleet import Pool
from poold.reconcile.actions import TakeDown
from poold.reconcile.deaths import Deaths
from poold.reconcile.plan import plan
from poold.reconcile.snapshot import HostView, Snapshot
from poold.store import Assignment, Roll, Wish

POOL = Pool(
    name="hello", application=Application(image="hello:1", port=8080), hosts=("a",), builder="a",
    replica_name="hello{n}",
)  # fmt: skip


def snapshot(container_id, *, alive=True, words="", started_at=0.0, **fields):
    fact = ContainerFact(
        name="hello1", container_id=container_id, ours=True, pool="hello", role="replica",
        running=alive, status="running" if alive else "exited", ready=alive, last_words=words,
    )  # fmt: skip
    host = HostView(name="a", state="up", containers=(fact,))
    defaults = {
        "name": "hello", "pool": POOL, "wishes": (Wish(name="hello1", pool="hello"),),
        "assignments": (
            Assignment(
                name="hello1", pool="hello", host="a", since=0.0,
                started=Started("hello1", container_id, "a:1", "restore", 0.1, {}, started_at),
            ),
        ),
        "hosts": {"a": host},
    }  # fmt: skip
    return Snapshot(**{**defaults, **fields})


class Lives:
    """Plays lives of a replica, one after the other, with a clock of its own."""

    def __init__(self):
        self.deaths = Deaths()
        self.now = 1000.0
        self.number = 0
        self.deaths.look(snapshot("none", wishes=(), assignments=()), self.now)

    def live(self, seconds, words=""):
        """Return the death after so long a life, and the wait before the next."""
        self.number += 1
        name = f"c{self.number}"
        assert self.deaths.look(snapshot(name), self.now) == ()
        self.now += seconds
        assert self.deaths.look(snapshot(name), self.now) == ()
        (death,) = self.deaths.look(snapshot(name, alive=False, words=words), self.now)
        assert self.deaths.look(snapshot(name, alive=False), self.now) == (), "told twice"
        wait = max([0.0, *(r.at - self.now for r in self.deaths.waits("hello").values())])
        self.now += wait
        return death, wait


def test_the_wait_doubles_from_nothing_to_a_minute():
    """The first early death costs nothing, then 1, 2, 4 … 60 s."""
    lives = Lives()
    waits = [lives.live(3.0)[1] for _ in range(10)]
    assert waits == [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_the_reason_says_how_often_when_next_and_the_last_words():
    """An operator sees the whole story in one sentence, in one line."""
    lives = Lives()
    for _ in range(2):
        lives.live(0.5)
    death, wait = lives.live(0.5, words="boom:\x1b[31m no\theap")
    assert (death.early, wait) == (3, 2.0)
    (retry,) = lives.deaths.waits("hello").values()
    assert retry.message == (
        "died 3 times within 10 s of becoming ready; next try in 2 s;"
        " last words: boom: [31m no heap"
    )
    assert str(death) == (
        "hello1 on a died after 0.5 s (exited), the last of 3 early deaths;"
        " last words: boom: [31m no heap"
    )


def test_a_long_life_starts_the_count_anew_and_a_middling_one_keeps_it():
    """Dying after a minute is no loop; dying after half of one does not wait."""
    lives = Lives()
    for _ in range(3):
        lives.live(1.0)
    assert lives.live(30.0)[1] == 0
    assert lives.live(1.0)[1] == 4
    assert lives.live(60.0)[1] == 0
    assert [lives.live(1.0)[1] for _ in range(2)] == [0, 1]


@pytest.mark.parametrize(
    "fields",
    [
        {"busy": {"replica:hello1": "removing"}},
        {"wishes": ()},
        {"hosts": {"a": HostView(name="a", state="unknown")}},
        {"hosts": {"a": HostView(name="a", state="up", unsure=frozenset({"hello1"}))}},
        {"hosts": {}},
    ],
    ids=["busy", "not wished", "unknown host", "unsure", "no host"],
)
def test_what_cannot_be_known_is_no_death(fields):
    """Only what an up host's listing shows of a wished replica counts."""
    deaths = Deaths()
    deaths.look(snapshot("c1"), 0.0)
    assert deaths.look(snapshot("c1", alive=False, **fields), 1.0) == ()


def test_what_is_removed_on_purpose_is_no_death():
    """The loop's own removal of a healthy replica counts for nothing."""
    deaths = Deaths()
    deaths.look(snapshot("c1"), 0.0)
    deaths.begun("hello", TakeDown("hello1", "a", "c1", "not wished any more"))
    assert deaths.look(snapshot("c1", alive=False), 1.0) == ()


def test_what_a_roll_replaces_is_no_death():
    """Also one that an earlier life of the daemon began to remove; another container of it is."""
    for meant, dies in (("c1", 0), ("other", 1)):
        deaths = Deaths()
        roll = Roll(pool="hello", change=1, surge=1, unavailable=0, replacing={"hello1": meant})
        deaths.look(snapshot("c1", roll=roll), 1000.0)
        found = deaths.look(snapshot("c1", alive=False, roll=roll), 1001.0)
        assert len(found) == dies


def test_one_that_died_before_the_daemon_began_lived_by_its_host_s_clock():
    """A replica of last week, found dead, did not die early."""
    deaths = Deaths()
    (death,) = deaths.look(snapshot("c1", alive=False, started_at=100.0), 5000.0)
    assert (death.lived_seconds, death.early) == (4900.0, 0)


def test_a_changed_application_begins_without_a_past():
    """Who repairs the image does not wait for the broken one's minute."""
    lives = Lives()
    for _ in range(5):
        lives.live(1.0)
    fixed = replace(POOL, application=Application(image="hello:2", port=8080))
    lives.deaths.look(snapshot("c9", pool=fixed), lives.now)
    assert lives.deaths.waits("hello") == {}


def test_hanging_replicas_are_replaced_one_at_a_time():
    """What makes all of them hang, an overloaded host for example, must not end all of them."""
    names = ("hello1", "hello2", "hello3")
    facts = tuple(
        ContainerFact(
            name=name, container_id=name, ours=True, pool="hello", role="replica", running=True,
            status="not answering, 3 times in a row", method="restore", ready=name == "hello3",
        )
        for name in names
    )  # fmt: skip
    hanging = snapshot(
        "c1",
        wishes=tuple(Wish(name=name, pool="hello") for name in names),
        assignments=tuple(
            Assignment(name=name, pool="hello", host="a", since=0.0) for name in names
        ),
        hosts={"a": HostView(name="a", state="up", containers=facts)},
        introduced=frozenset({"a"}),
    )
    gone = [action for action in plan(hanging, 0.0).actions if isinstance(action, TakeDown)]
    assert [action.name for action in gone] == ["hello1"]
    mending = replace(hanging, busy={"replica:hello1": "restoring"})
    assert not [a for a in plan(mending, 0.0).actions if isinstance(a, TakeDown)]


# -- the loop -------------------------------------------------------------------------------------


async def test_a_crash_loop_backs_off_and_says_so(fleet):
    """Dying at once is answered at once, then later and later; living on ends it."""
    fleet.control.scale("hello", replicas=1, actor="test")
    await fleet.settle()
    fleet["a"].kill("hello1")
    await fleet.until(lambda: fleet.ready() == [])
    await fleet.until(lambda: fleet.ready() == ["hello1"])
    assert fleet.now == 1000.0, "the first death had to wait"
    fleet["a"].kill("hello1")
    await fleet.until(lambda: fleet.replica("hello1").reason.startswith("died"))
    assert fleet.replica("hello1").state == "waiting"
    text = "died 2 times within 10 s of becoming ready; next try in 1 s"
    assert fleet.replica("hello1").reason == text
    assert text in fleet.world.sentence()
    before = fleet.did("restore")
    for _ in range(3):
        await fleet.step()
    assert fleet.did("restore") == before, "it was tried before its time"
    fleet.now += 1.0
    await fleet.until(lambda: fleet.ready() == ["hello1"])
    fleet.now += 60.0
    await fleet.step()
    fleet["a"].kill("hello1")
    await fleet.until(lambda: fleet.ready() == [])
    await fleet.until(lambda: fleet.ready() == ["hello1"])
    assert fleet.replica("hello1").host == "a"


async def test_an_event_is_answered_without_waiting_for_the_listing(fleet):
    """A listing an hour away does not matter: the host is listed at once, and the worker wakes."""
    daemon = replace(fleet.config.daemon, reconcile_seconds=3600.0)
    fleet.config = replace(fleet.config, daemon=daemon)
    fleet.control.scale("hello", replicas=1, actor="test")
    running = asyncio.create_task(fleet.loop.run())
    try:
        async with asyncio.timeout(10):
            while fleet.ready() != ["hello1"]:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            dead = fleet["a"].containers["hello1"].container_id
            listings = [verb for verb, _ in fleet["a"].asked].count("observe")
            for _ in range(20):
                await asyncio.sleep(0.005)
            assert [verb for verb, _ in fleet["a"].asked].count("observe") == listings
            fleet["a"].kill("hello1")
            fleet["a"].tell(Event("ended", "hello1", dead, 1.0, "its first process ended"))
            while fleet["a"].containers.get("hello1") is None or (  # noqa: ASYNC110
                fleet["a"].containers["hello1"].container_id == dead
            ):
                await asyncio.sleep(0.005)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_an_event_that_overtakes_its_outcome_is_not_lost(fleet):
    """The host said that it ended before the answer said that it came up: it is listed again."""
    fleet.control.scale("hello", replicas=1, actor="test")
    await fleet.settle()
    known = fleet["a"].containers["hello1"]
    fleet.loop.heard("a", Event("ended", "hello1", known.container_id, 1.0))
    late = Started("hello1", known.container_id, known.address, "restore", 0.1, {}, 1.0)
    fleet.world.started("a", "hello", late, "")
    assert fleet.world.hosts_unsure() == ("a",)


async def test_the_listing_carries_the_liveness_checks_of_pools_that_have_one(fleet):
    """Agents ask by themselves what the configuration says; nothing where it says nothing."""
    assert fleet.loop._watch.liveness() == {}
    fleet.change_pool(liveness=Liveness(kind="http", path="/alive"))
    (check,) = fleet.loop._watch.liveness().values()
    assert (check.probe.path, check.failures, check.any_answer) == ("/alive", 3, False)
    fleet.change_pool(liveness=Liveness())
    assert fleet.loop._watch.liveness()["hello"].any_answer
