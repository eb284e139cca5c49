"""A balancer lists whoever is ready, and nobody is stopped that it still lists (promise 4)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from poold.balancers.base import Server
from poold.errors import Temporary
from poold.model.balancing import BalancerName, Behind

BEHIND = Behind(BalancerName("front"), drain_seconds=30)


@pytest.fixture
def fleet(make_fleet):
    """Return a fleet whose pool is behind a balancer; stopping what it lists is a failure."""
    fleet = make_fleet()
    fleet.change_pool(balancer=BEHIND)
    fleet.broken = []

    def stopping(fact):
        if fact.running and fact.ready and fleet.front.lists(fact):
            fleet.broken.append(fact.name)

    for host in fleet.hosts.values():
        host.stopping = stopping
    yield fleet
    assert fleet.broken == []


async def scaled(fleet, count):
    fleet.control.scale("hello", replicas=count, actor="test")
    await fleet.settle()
    await fleet.step()
    assert len(fleet.front.entries) == count


def listed(fleet):
    return sorted(fleet.front.entries)


def places(fleet):
    """Return where containers are, as the balancer would say it."""
    hosts = fleet.hosts.values()
    return {name: fact.address for h in hosts for name, fact in h.containers.items()}


async def test_the_ready_ones_are_listed_where_they_are(fleet):
    """Names and addresses are the containers' own."""
    await scaled(fleet, 3)
    assert {n: f"{e.address}:{e.port}" for n, e in fleet.front.entries.items()} == places(fleet)


async def test_a_replica_leaves_before_it_stops(fleet):
    """It drains as long as it has sessions, and that is what is said of it."""
    await scaled(fleet, 3)
    fleet.front.sessions["hello3"] = 2
    change = fleet.control.scale("hello", replicas=2, actor="test")
    for _ in range(5):
        await fleet.step()
    assert "remove" not in {verb for h in fleet.hosts.values() for verb, _ in h.did}
    going = fleet.replica("hello3")
    assert (going.state, going.reason) == ("removing", "draining, 2 sessions")
    assert fleet.change(change).state == "pending"
    fleet.front.sessions["hello3"] = 0
    fleet.front.cut["hello3"] = 2
    await fleet.settle()
    assert fleet.did("remove") == ["hello3"]
    assert ("drained", 2) in fleet.events.told
    assert fleet.change(change).state == "settled"


async def test_a_wish_that_comes_back_ends_the_draining(fleet):
    """Nothing was stopped yet: the same container takes traffic again."""
    await scaled(fleet, 2)
    before = places(fleet)
    fleet.front.sessions["hello2"] = 1
    fleet.control.scale("hello", replicas=1, actor="test")
    await fleet.step()
    await fleet.step()
    assert fleet.front.published[-1] == ("hello1",)
    fleet.control.scale("hello", replicas=2, actor="test")
    await fleet.settle()
    await fleet.step()
    assert fleet.front.published[-1] == ("hello1", "hello2")
    assert places(fleet) == before


async def test_what_is_dead_is_not_waited_for(fleet):
    """A replica that ended is brought up again at once, and listed where it is then."""
    await scaled(fleet, 1)
    fleet.front.sessions["hello1"] = 1  # the balancer has not noticed yet
    before = places(fleet)
    host = next(h for h in fleet.hosts.values() if "hello1" in h.containers)
    host.kill("hello1")
    await fleet.until(lambda: "hello1" in fleet.ready() and places(fleet) != before)
    fleet.front.sessions["hello1"] = 0
    await fleet.step()
    await fleet.step()
    entry = fleet.front.entries["hello1"]
    assert f"{entry.address}:{entry.port}" == places(fleet)["hello1"]


async def test_a_move_drains_before_the_capture(fleet):
    """It is captured when nothing is under way on it, and listed at its new place."""
    fleet.control.restore("hello", name="hello1", host="a", actor="test")
    await fleet.settle()
    await fleet.step()
    fleet.front.sessions["hello1"] = 1
    fleet.control.move("hello1", to="b", actor="test")
    for _ in range(6):
        await fleet.step()
    assert fleet.did("capture") == []
    fleet.front.sessions["hello1"] = 0
    await fleet.settle()
    await fleet.step()
    assert fleet.where() == {"hello1": "b"}
    entry = fleet.front.entries["hello1"]
    assert f"{entry.address}:{entry.port}" == places(fleet)["hello1"]


async def test_a_roll_drains_each_before_it_is_replaced(fleet):
    """Sessions hold the roll up, and only that."""
    await scaled(fleet, 2)
    fleet.front.sessions["hello1"] = 1
    application = replace(fleet.pool.application, env={"VERSION": "2"})
    fleet.change_pool(application=application)
    change = fleet.rollout.roll("hello", actor="test", reason="")
    await fleet.until(lambda: fleet.replica("hello1").reason == "draining, 1 session")
    assert "hello1" not in fleet.did("remove")
    fleet.front.sessions["hello1"] = 0
    await fleet.until(lambda: fleet.change(change).state == "settled", rounds=300)
    await fleet.step()
    await fleet.step()
    assert listed(fleet) == ["hello1", "hello2"]


async def test_a_balancer_that_is_gone_holds_nothing_up_for_longer_than_a_drain(fleet):
    """Until then it is said; then the replica goes without it, and comes back with the set."""
    await scaled(fleet, 2)
    fleet.front.up = False
    fleet.control.scale("hello", replicas=1, actor="test")
    for _ in range(4):
        await fleet.step()
    assert fleet.did("remove") == []
    assert "cannot ask front: it is gone" in fleet.world.sentence()
    fleet.now += 31
    for host in fleet.hosts.values():
        host.stopping = lambda _: None  # what it lists is not known, that is the point
    await fleet.settle()
    assert fleet.did("remove") == ["hello2"]
    fleet.front.up = True
    await fleet.step()
    await fleet.step()
    assert listed(fleet) == ["hello1"]
    assert "cannot ask" not in fleet.world.sentence()


async def test_a_daemon_that_starts_anew_keeps_the_set(fleet):
    """Before it heard of any host it publishes what it knows: nothing leaves the balancer."""
    await scaled(fleet, 3)
    await fleet.restart()
    for host in fleet.hosts.values():
        host.up = False
    await fleet.loop.cycle("hello")
    await fleet.loop.publish("hello")
    assert fleet.front.published[-1] == ("hello1", "hello2", "hello3")
    for host in fleet.hosts.values():
        host.up = True
    await fleet.settle()
    assert fleet.front.published[-1] == ("hello1", "hello2", "hello3")


async def test_a_host_that_is_not_in_reach_keeps_its_replicas_listed(fleet):
    """The daemon's way to a host says nothing about the balancer's; a fenced one is dead."""
    await scaled(fleet, 2)
    fleet["a"].up = False
    fleet.world.lost("a")
    await fleet.step()
    await fleet.step()
    assert fleet.front.published[-1] == ("hello1", "hello2")
    assert {entry.address for entry in fleet.front.entries.values()} == {"a", "b"}
    fleet.cordon.fence("a", confirmed=True, actor="test")
    decided = await fleet.loop.cycle("hello")
    assert {server.address for server in decided.servers} == {"b"}
    await fleet.settle()
    await fleet.step()
    assert {entry.address for entry in fleet.front.entries.values()} == {"b"}
    assert listed(fleet) == ["hello1", "hello2"]


async def test_a_publish_under_way_counts_as_told(fleet):
    """What is being told while a plan is made cannot be stopped by that plan."""
    await scaled(fleet, 1)
    traffic = fleet.loop._publishing

    class Hanging(Temporary):
        """Raised once the plan was looked at."""

    seen = []

    async def publish(_pool, servers):
        seen.append(traffic.known("hello").asked)
        raise Hanging("balancer.timeout", "cannot ask front: no answer")

    fleet.front.publish = publish
    traffic.want("hello", ())
    await fleet.loop.publish("hello")
    places_then = {(e.address, e.port) for e in fleet.front.entries.values()}
    assert seen == [frozenset(places_then)]
    assert traffic.known("hello").asked == places_then


async def test_another_backend_is_told_before_the_old_one_is_left(fleet):
    """What a pool was told of elsewhere goes there; until then nobody is stopped there."""
    await scaled(fleet, 2)
    publishing, calls, old = fleet.loop._publishing, [], dict(fleet.front.entries)

    async def publish(pool, servers):
        calls.append((pool.balancer.backend, len(servers)))
        known = publishing.known("hello")
        if pool.balancer.backend == "":
            assert known.asked >= {(e.address, e.port) for e in old.values()}
        return replace(await type(fleet.front).publish(fleet.front, pool, servers), servers=())

    fleet.front.publish = publish
    fleet.change_pool(balancer=replace(BEHIND, backend="new"))
    await fleet.loop.publish("hello")
    assert calls == [("new", 2), ("", 0)]
    await fleet.loop.publish("hello")
    assert calls[2:] == [("new", 2)]


async def test_another_way_to_the_same_balancer_drains_nobody(fleet):
    """Another time-out, or a backend that is spelt out: the entries are the wanted ones."""
    await scaled(fleet, 2)
    other = type(fleet.front)()
    other.entries = fleet.front.entries
    fleet.balancers[fleet.front.name] = other
    fleet.front.published.clear()
    fleet.change_pool(balancer=replace(BEHIND, backend="hello"))
    for _ in range(3):
        await fleet.step()
    assert fleet.front.published == []
    assert other.published[-1] == ("hello1", "hello2")


async def test_another_balancer_is_put_in_place_of_the_old_one(fleet):
    """Another process is left as soon as the new one has the set."""
    await scaled(fleet, 2)
    other = type(fleet.front)()
    other.process = "2"
    fleet.balancers[fleet.front.name] = other
    for _ in range(3):
        await fleet.step()
    assert fleet.front.published[-1] == ()
    assert len(other.entries) == 2


async def test_a_balancer_that_takes_no_command_is_not_waited_for_endlessly(fleet):
    """Its own drain deadline and some more: then the replica goes, and that is said."""
    await scaled(fleet, 2)
    fleet.front.sessions["hello2"] = 1  # for ever
    fleet.control.scale("hello", replicas=1, actor="test")
    for _ in range(3):
        await fleet.step()
    fleet.now += BEHIND.drain_seconds + 9
    await fleet.step()
    assert fleet.did("remove") == []
    fleet.now += 1.5
    for host in fleet.hosts.values():
        host.stopping = lambda _: None
    decided = await fleet.loop.cycle("hello")
    assert decided.forced == (
        "hello2 goes though its balancer did not let go of it: draining, 1 session",
    )
    await fleet.settle()
    assert fleet.did("remove") == ["hello2"]


async def test_a_removal_that_failed_does_not_wait_for_its_balancer_anew(fleet):
    """How long a replica had is forgotten only when it is back in the set."""
    await scaled(fleet, 2)
    publishing, place = fleet.loop._publishing, ("a", 1)
    publishing.want("hello", (), (place,))
    since = publishing.known("hello").leaving_since[place]
    fleet.now += 5
    publishing.want("hello", ())
    publishing.want("hello", (), (place,))
    assert publishing.known("hello").leaving_since[place] == since
    publishing.want("hello", (Server(name="hello1", address="a", port=1),))
    assert publishing.known("hello").leaving_since == {}


async def test_readers_see_who_is_behind_the_balancer(fleet):
    """Sessions are those of the last reading, without a plan in between."""
    await scaled(fleet, 2)
    fleet.front.sessions["hello1"] = 3
    await fleet.loop.publish("hello")
    (pool,) = fleet.world.pools()
    assert pool.balancer.name == "front"
    assert [(s.name, s.state, s.sessions) for s in pool.balancer.servers] == [
        ("hello1", "up", 3),
        ("hello2", "up", 0),
    ]
    fleet.front.up = False
    await fleet.loop.publish("hello")
    assert "it is gone" in fleet.world.pools()[0].balancer.problem
    said = {b.subject: b.text for b in fleet.loop.explain("hello").because if b.topic == "balancer"}
    place = places(fleet)["hello1"]
    assert said["hello1"] == f"hello1 at {place} is up with 3 sessions"
    assert "it is gone" in said["front"]


async def test_a_pool_that_is_taken_from_its_balancer_leaves_it_first(fleet):
    """Nobody is stopped whom the balancer of before still lists, though the table names none."""
    await scaled(fleet, 2)
    fleet.front.sessions["hello2"] = 1
    fleet.change_pool(balancer=None)
    fleet.control.scale("hello", replicas=1, actor="test")
    for _ in range(4):
        await fleet.step()
    assert fleet.did("remove") == []
    assert fleet.front.published[-1] == ()
    fleet.front.sessions["hello2"] = 0
    await fleet.settle()
    assert fleet.did("remove") == ["hello2"]
    assert listed(fleet) == []
