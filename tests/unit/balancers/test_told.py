"""Balancers that only listen: whoever leaves has a drain's time from when they were told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from poold.balancers.base import Server
from poold.balancers.told import ToldBalancer
from poold.errors import Temporary
from poold.model.application import Application
from poold.model.balancing import BalancerName, Behind
from poold.model.fleet import HostName, Pool, PoolName

EDGE = BalancerName("edge")
POOL = Pool(
    PoolName("hello"),
    Application(image="i", port=8080),
    (HostName("a"),),
    HostName("a"),
    "hello{n}",
    balancer=Behind(EDGE, drain_seconds=30),
)
ONE, TWO, THREE = (Server(name=f"hello{n}", address="10.0.0.1", port=n) for n in (1, 2, 3))


class Listener:
    """A balancer that takes what it is told, or fails."""

    def __init__(self) -> None:
        self.told: list[tuple[str, ...]] = []
        self.fails = False
        self.is_news = True

    async def tell(self, _pool: Pool, servers: tuple[Server, ...], *, anew: bool) -> bool:
        if anew:
            self.told.append(tuple(each.name for each in servers))
        if self.fails:
            raise Temporary("balancer.timeout", "cannot tell edge: no answer")
        return anew and self.is_news


class Edge(ToldBalancer):
    """With a clock that a test moves."""

    def __init__(self, listener: Listener) -> None:
        self.now = 100.0
        super().__init__(EDGE, listener, identity="edge", clock=lambda: self.now)


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def edge(listener: Listener) -> Edge:
    return Edge(listener)


async def test_it_is_told_when_it_is_news(edge: Edge, listener: Listener) -> None:
    """The same set is told once, in whatever order it comes."""
    await edge.publish(POOL, [TWO, ONE])
    await edge.publish(POOL, [ONE, TWO])
    await edge.publish(POOL, [ONE])
    assert listener.told == [("hello1", "hello2"), ("hello1",)]


async def test_who_leaves_is_listed_for_a_drain(edge: Edge) -> None:
    """From the moment that it was told; then it has left, with nothing counted."""
    await edge.publish(POOL, [ONE, TWO])
    edge.now += 60
    shown = await edge.publish(POOL, [ONE])
    assert [(s.name, s.state, s.leaving) for s in shown.servers] == [
        ("hello1", "up", False),
        ("hello2", "draining", True),
    ]
    assert not shown.settling
    edge.now += 29.9
    assert (await edge.publish(POOL, [ONE])).lists("10.0.0.1", 2)
    edge.now += 0.1
    shown = await edge.publish(POOL, [ONE])
    assert [(left.name, left.seconds, left.sessions_cut) for left in shown.left] == [
        ("hello2", pytest.approx(30), 0)
    ]
    assert not shown.lists("10.0.0.1", 2)


async def test_who_comes_back_leaves_anew(edge: Edge) -> None:
    """Its time begins again with the next time that it leaves."""
    await edge.publish(POOL, [ONE, TWO])
    await edge.publish(POOL, [ONE])
    edge.now += 20
    await edge.publish(POOL, [ONE, TWO])
    await edge.publish(POOL, [ONE])
    edge.now += 20
    assert (await edge.publish(POOL, [ONE])).lists("10.0.0.1", 2)


async def test_what_failed_may_have_been_told(edge: Edge, listener: Listener) -> None:
    """A failure is told again, and counts neither as told nor as not."""
    await edge.publish(POOL, [ONE])
    listener.fails = True
    for _ in range(2):
        with pytest.raises(Temporary):
            await edge.publish(POOL, [ONE, THREE])
    listener.fails = False
    shown = await edge.publish(POOL, [ONE])
    assert listener.told == [("hello1",), *[("hello1", "hello3")] * 2, ("hello1",)]
    assert shown.lists("10.0.0.1", 3)


async def test_a_new_life_does_not_know_whom_it_had_told(edge: Edge, listener: Listener) -> None:
    """For a drain's time after the first call, unless that was no news to it."""
    assert (await edge.publish(POOL, [ONE])).settling
    edge.now += 30
    assert not (await edge.publish(POOL, [ONE])).settling
    listener.is_news = False
    other = Edge(listener)
    assert not (await other.publish(POOL, [ONE])).settling


async def test_pools_do_not_share_a_memory(edge: Edge) -> None:
    """Nor does a pool that is called otherwise there now."""
    await edge.publish(POOL, [ONE, TWO])
    behind = replace(POOL.balancer or Behind(EDGE), backend="other")
    assert len((await edge.publish(replace(POOL, balancer=behind), [ONE])).servers) == 1
