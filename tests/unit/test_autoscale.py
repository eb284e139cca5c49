"""The number of replicas follows the load: fast up, slowly down, and not at all without figures."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings, strategies as st

from poold.autoscale import Memory, advise
from poold.autoscaler import Autoscaler
from poold.errors import Refused
from poold.model.application import Application
from poold.model.balancing import BalancerName, BalancerStatus, ListedServer
from poold.model.fleet import Change, ChangeId, HostName, Pool, PoolName, PoolStatus
from poold.model.scaling import Autoscale, Scaling

RULES = Autoscale(target=20, window_seconds=60, panic_seconds=6)


class Driver:
    """Follows every advice at once; a replica is ready after `delay` seconds."""

    def __init__(self, wished=1, delay=2):
        self.memory = Memory()
        self.now = 0
        self.delay = delay
        self.counts = [wished]
        self.wished = wished

    def second(self, load):
        ready = min(self.counts[-self.delay :])
        self.memory, advice = advise(
            RULES, self.memory, now=self.now, concurrency=load, ready=ready, wished=self.wished
        )
        self.wished = advice.count
        self.counts.append(advice.count)
        self.now += 1
        return advice

    def run(self, seconds, load):
        for _ in range(seconds):
            self.second(load)
        return self


def test_a_step_from_ten_to_a_hundred_is_followed_in_seconds():
    """The count is there before the second panic window ends, and stays for ten minutes."""
    driver = Driver().run(120, 10)
    assert driver.wished == 1
    driver.run(12, 100)
    assert driver.wished == 5
    driver.run(600, 100)
    assert set(driver.counts[-600:]) == {5}


def test_the_way_down_takes_a_window_and_half_a_step():
    """Not before the most that was asked for in a whole window is less."""
    driver = Driver().run(120, 100)
    assert driver.run(50, 1).wished == 5
    driver.run(400, 1)
    assert driver.wished == 1
    downs = [(a, b) for a, b in zip(driver.counts, driver.counts[1:], strict=False) if b < a]
    assert all(b >= math.ceil(a / 2) for a, b in downs)


def test_a_gap_in_the_figures_holds_and_begins_a_window_anew():
    """Nobody is taken away for what was not seen."""
    driver = Driver().run(120, 100)
    advice = driver.run(300, None).second(None)
    assert (advice.count, advice.known) == (5, False)
    assert driver.run(55, 1).wished == 5
    assert driver.run(300, 1).wished == 1


def test_a_short_burst_is_not_given_up_at_once():
    """While it panics nothing goes down, and for a window after."""
    driver = Driver().run(60, 5).run(8, 400)
    high = driver.wished
    assert high >= 10
    assert driver.run(50, 5).wished == high


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 90), st.none() | st.floats(0, 2000)), max_size=6),
    st.integers(1, 8),
)
def test_whatever_the_load_does(phases, delay):
    """Never below one, never beyond what the highest load asks for, and memory is bounded."""
    driver, most = Driver(delay=delay), 1
    for seconds, load in phases:
        most = max(most, math.ceil((load or 0) / RULES.target))
        driver.run(seconds, load)
        assert 1 <= driver.wished <= most
        assert len(driver.memory.samples) <= 61
        assert len(driver.memory.wanted) <= 61


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 2000), st.integers(1, 60))
def test_a_load_that_stays_leads_to_its_number(load, first):
    """From wherever it begins, and then it stays there."""
    driver = Driver(wished=first).run(600, load)
    assert set(driver.counts[-60:]) == {max(1, math.ceil(load / RULES.target - 1e-9))}


# -- the task -------------------------------------------------------------------------------------

POOL = Pool(
    PoolName("hello"), Application(image="i", port=1), (HostName("a"),), HostName("a"), "hello{n}",
    min=0, max=4, autoscale=RULES, scaling=Scaling(),
)  # fmt: skip


class Fleet:
    """What the task asks and tells."""

    def __init__(self):
        self.pool = POOL
        self.wished = 1
        self.load: int | None = 10
        self.now = 1000.0
        self.said = []
        self.shown = None
        self.refuses = False
        self.task = Autoscaler(
            control=self,
            store=self,
            world=self,
            pools=lambda: {POOL.name: self.pool},
            clock=lambda: self.now,
        )

    def count(self, _pool):
        return self.wished

    def scale(self, pool, *, replicas, actor, reason):
        if self.refuses:
            raise Refused("replica.moving", "cannot remove 1 replicas of hello: 1 are moving")
        self.wished = replicas
        self.said.append((actor, reason))
        return Change(ChangeId(1), pool, "scale", {}, actor, self.now)

    def changes(self, *, pool=None, limit=50):
        return ()

    def pools(self):
        servers = (ListedServer("hello1", "10.0.0.1", 1, "up", sessions=self.load, queue=0),)
        behind = BalancerStatus(BalancerName("front"), servers, queue=0, read_at=self.now)
        if self.load is None:
            behind = replace(behind, problem="cannot ask front: it is gone")
        return (PoolStatus(POOL.name, self.wished, self.wished, None, "", balancer=behind),)

    def recommend(self, _pool, recommended):
        self.shown = recommended

    def run(self, seconds):
        for _ in range(seconds):
            self.now += 1
            self.task.look()


@pytest.fixture
def fleet():
    return Fleet()


def test_it_wishes_within_the_pool_s_limits(fleet):
    """The reason has the figures and the limit."""
    fleet.run(10)
    assert fleet.said == []
    fleet.load = 200
    fleet.run(20)
    assert fleet.wished == 4
    assert {actor for actor, _ in fleet.said} == {"autoscaler"}
    assert "at once in 6 s ask for" in fleet.said[0][1]
    assert fleet.said[-1][1].endswith("to 4")


def test_without_figures_it_holds(fleet):
    """A balancer that cannot be read, or was not lately, is no idle one."""
    fleet.wished, fleet.load = 3, None
    fleet.run(600)
    assert (fleet.wished, fleet.said) == (3, [])
    assert fleet.shown.text == "no figures: it stays at 3"


def test_a_dry_run_only_says_it(fleet):
    """The count and the reason are shown."""
    fleet.pool = replace(POOL, autoscale=replace(RULES, dry_run=True))
    fleet.load = 200
    fleet.run(20)
    assert (fleet.wished, fleet.said) == (1, [])
    assert (fleet.shown.count, fleet.shown.followed) == (10, False)
    fleet.pool = replace(POOL, autoscale=None)
    fleet.run(1)
    assert fleet.shown is None


def test_what_is_refused_is_tried_again(fleet):
    """And a pool that an operator scaled to none is left there."""
    fleet.load, fleet.refuses = 200, True
    fleet.run(10)
    fleet.refuses = False
    fleet.run(1)
    assert fleet.wished > 1
    fleet.wished = 0
    fleet.run(100)
    assert fleet.wished == 0
