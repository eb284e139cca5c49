"""Cordoned, fenced, removed, flapping hosts: what the loop makes of them, whatever the order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import Counter
from dataclasses import replace

import pytest

from poold.errors import Refused

A, B, C = "a", "b", "c"


async def three(make_fleet, replicas=2, hosts=(A, B)):
    fleet = make_fleet(hosts=hosts, replicas=replicas)
    await fleet.settle()
    return fleet


async def test_a_cordoned_host_keeps_what_it_has_and_gets_nothing_new(make_fleet):
    """Four replicas on two hosts: the two new ones go to the other host, nothing is removed."""
    fleet = await three(make_fleet)
    there = fleet.where()
    change = fleet.cordon.cordon("b", actor="t", reason="new kernel")
    assert (change.state, change.pool) == ("settled", "")
    assert fleet.world.host("b").mark == "cordoned"
    assert fleet.world.host("b").closed == "b is cordoned by t: new kernel"
    fleet.control.scale("hello", replicas=4, actor="t")
    await fleet.settle()
    assert {n: h for n, h in fleet.where().items() if n in there} == there
    assert sorted(fleet.where().values()) == ["a", "a", "a", "b"]
    await fleet.restart()
    assert fleet.world.host("b").mark == "cordoned", "durable"


async def test_a_replica_that_dies_on_a_cordoned_host_comes_up_elsewhere(make_fleet):
    """It is not restored in place; with no host left it waits and says why."""
    fleet = await three(make_fleet)
    (name,) = (n for n, h in fleet.where().items() if h == "b")
    fleet.cordon.cordon("b", actor="t")
    fleet["b"].kill(name)
    await fleet.until(lambda: fleet.where().get(name) == "a")
    fleet.cordon.cordon("a", actor="t")
    fleet["a"].kill(name)
    await fleet.until(lambda: "a is cordoned" in fleet.replica(name).reason)
    assert "b is cordoned" in fleet.replica(name).reason
    fleet.cordon.uncordon("b", actor="t")
    await fleet.settle()
    assert fleet.where()[name] == "b"


async def test_nothing_is_pinned_or_moved_to_a_cordoned_host(make_fleet):
    """Refused with who cordoned it and the way out."""
    fleet = await three(make_fleet)
    fleet.cordon.cordon("b", actor="t")
    (name,) = (n for n, h in fleet.where().items() if h == "a")
    for wish in (
        lambda: fleet.control.restore("hello", host="b", actor="t"),
        lambda: fleet.control.move(name, to="b", actor="t"),
    ):
        with pytest.raises(Refused) as refused:
            wish()
        assert refused.value.code == "host.cordoned"
        assert "uncordon" in refused.value.hint


async def test_who_is_in_reach_or_not_sure_cannot_be_fenced(make_fleet):
    """A host that is up, or of which nobody says that it is off, keeps its names."""
    fleet = await three(make_fleet)
    for up, confirmed, code in (
        (True, True, "host.up"),
        (False, False, "host.unconfirmed"),
    ):
        fleet["b"].up = up
        with pytest.raises(Refused) as refused:
            fleet.cordon.fence("b", confirmed=confirmed, actor="t")
        assert refused.value.code == code
    fleet["b"].up = True
    fleet["b"].reached.clear()
    with pytest.raises(Refused) as refused:
        fleet.cordon.fence("b", confirmed=True, actor="t")
    assert refused.value.code == "host.not-ready"
    assert len(fleet.store.hosts.names("b")) == 1


async def test_a_dead_host_s_replicas_come_up_elsewhere_once_it_is_fenced(make_fleet):
    """Before the fence the name is reserved; after it the name lives on the other host."""
    fleet = await three(make_fleet)
    (name,) = (n for n, h in fleet.where().items() if h == "b")
    fleet["b"].up = False
    fleet["b"].reboot()
    for _ in range(5):
        await fleet.step()
    assert fleet.replica(name).state == "unknown"
    change = fleet.cordon.fence("b", confirmed=True, actor="t")
    assert change.wish["freed"] == [name]
    await fleet.settle()
    assert fleet.where()[name] == "a"
    fleet["b"].up = True
    await fleet.settle()
    assert fleet["b"].containers == {}, "nothing is placed there before uncordon"
    fleet.cordon.uncordon("b", actor="t")
    fleet.control.scale("hello", replicas=4, actor="t")
    await fleet.settle()
    assert sorted(fleet.where().values()) == ["a", "a", "b", "b"]


async def test_an_action_under_way_at_a_fenced_host_never_arrives(make_fleet):
    """A restore that waits for its host is dropped, in this life of the daemon and the next."""
    fleet = await three(make_fleet, replicas=1)
    fleet["b"].hold["restore"] = asyncio.Event()
    fleet.control.scale("hello", replicas=2, actor="t")
    await fleet.until(lambda: "restore" in str(fleet.store.intents()))
    (intent,) = fleet.store.intents()
    assert intent.host == "b"
    fleet["b"].up = False
    await fleet.step()
    await fleet.restart()
    await fleet.step()
    assert [i.action for i in fleet.store.intents()] == [intent.action], "asked again"
    fleet.cordon.fence("b", confirmed=True, actor="t")
    await fleet.settle()
    assert set(fleet.where().values()) == {"a"}
    asked = len(fleet["b"].asked)
    fleet["b"].up = True
    await fleet.settle()
    assert {verb for verb, _ in fleet["b"].asked[asked:]} <= {"observe", "remove"}


async def test_what_a_fenced_host_brings_back_is_removed_though_its_name_is_busy(make_fleet):
    """It returns while the replacement is being restored elsewhere: it does not wait for that."""
    fleet = await three(make_fleet)
    (name,) = (n for n, h in fleet.where().items() if h == "b")
    fleet["b"].up = False
    await fleet.step()
    fleet["a"].hold["restore"] = asyncio.Event()
    fleet.cordon.fence("b", confirmed=True, actor="t")
    await fleet.until(lambda: any(i.host == "a" for i in fleet.store.intents()))
    fleet["b"].up = True
    await fleet.until(lambda: name not in fleet["b"].containers)
    assert name not in fleet["a"].containers
    with pytest.raises(AssertionError):
        assert fleet.ready() == [name]
    fleet["a"].hold["restore"].set()
    await fleet.settle()
    assert fleet.where()[name] == "a"


async def test_what_returns_before_anything_replaced_it_is_kept(make_fleet):
    """There was no room elsewhere: the replica that runs after all is adopted where it is."""
    fleet = await three(make_fleet)
    (name,) = (n for n, h in fleet.where().items() if h == "b")
    fleet["b"].up = False
    await fleet.step()
    fleet.cordon.cordon("a", actor="t")
    container = fleet["b"].containers[name]
    fleet.cordon.fence("b", confirmed=True, actor="t")
    await fleet.step()
    assert fleet.replica(name).state == "waiting"
    assert "b is fenced" in fleet.replica(name).reason
    fleet["b"].up = True
    await fleet.settle()
    assert fleet["b"].containers[name] == container
    fleet.cordon.uncordon("b", actor="t")


async def test_a_fenced_host_is_uncordoned_only_when_it_is_back_and_clean(make_fleet):
    """Away or with strays it is refused."""
    fleet = await three(make_fleet)
    fleet["b"].up = False
    await fleet.step()
    fleet.cordon.fence("b", confirmed=True, actor="t")
    with pytest.raises(Refused, match="not looked through"):
        fleet.cordon.uncordon("b", actor="t")
    await fleet.settle()
    fleet["b"].up = True
    await fleet.look()
    with pytest.raises(Refused, match="must go from there first"):
        fleet.cordon.uncordon("b", actor="t")
    await fleet.settle()
    fleet.cordon.uncordon("b", actor="t")
    assert fleet.world.host("b").mark == ""


@pytest.mark.parametrize("verb", ["capture", "restore", "write-blob", "remove"])
@pytest.mark.parametrize("dead", ["source", "target"])
async def test_a_move_ends_when_one_of_its_hosts_is_fenced(make_fleet, verb, dead):
    """Whichever step it was in, the replica is ready on exactly one living host afterwards."""
    fleet = await three(make_fleet, replicas=1, hosts=(A, B, C))
    ((name, source),) = fleet.where().items()
    target = next(h for h in (B, C) if h != source)
    victim = source if dead == "source" else target
    fleet[source].lose[verb] = fleet[target].lose[verb] = 1
    change = fleet.control.move(name, to=target, actor="t")
    await fleet.step()
    fleet[victim].up = False
    await fleet.step()
    fleet.cordon.fence(victim, confirmed=True, actor="t")
    await fleet.settle()
    assert fleet.change(change).state in ("settled", "failed")
    assert fleet.where()[name] != victim or fleet[victim].up is False
    alive = {h.name for h in fleet.hosts.values() if name in h.containers and h.up}
    assert len(alive) == 1
    fleet[victim].up = True
    await fleet.settle()
    await fleet.until(lambda: name not in fleet[victim].containers)
    assert len(fleet.where()) == 1


@pytest.mark.parametrize("builder", ["a", "b"])
async def test_a_checkpoint_ends_beside_a_fenced_host_or_says_what_it_waits_for(
    make_fleet, builder
):
    """A fenced host that is back gets nothing and holds up nothing; a fenced builder is named."""
    fleet = await three(make_fleet)
    fleet["b"].up = False
    await fleet.step()
    fleet.cordon.fence("b", confirmed=True, actor="op", reason="smoke")
    await fleet.settle()
    fleet["b"].up = True
    fleet.change_pool(builder=builder)
    fleet.now += 1
    change = fleet.control.checkpoint("hello", actor="t")
    if builder == "a":
        await fleet.settle()
        assert fleet.change(change).progress == (
            "generation 2 is proven and distributed, but not on b (fenced)"
        )
        return
    for _ in range(5):
        decided = await fleet.step()
    assert fleet.change(change).state == "pending"
    waits = "the checkpoint waits for its builder: b is fenced by op: smoke"
    assert waits in decided.sentence
    assert waits in fleet.change(change).progress
    found = fleet.loop.explain("hello")
    assert any("nothing new is placed there: b is fenced" in one.text for one in found.because)
    fleet.cordon.uncordon("b", actor="t")
    await fleet.settle()


async def test_a_host_that_left_the_configuration_is_forgotten_when_somebody_is_sure(make_fleet):
    """Configured, unknown or unconfirmed it is refused; then its names come up elsewhere."""
    fleet = await three(make_fleet)
    (name,) = (n for n, h in fleet.where().items() if h == "b")
    with pytest.raises(Refused) as refused:
        fleet.cordon.remove("b", confirmed=True, actor="t")
    assert refused.value.code == "host.configured"
    with pytest.raises(Refused) as refused:
        fleet.cordon.remove("nowhere", confirmed=True, actor="t")
    assert refused.value.code == "host.unknown"
    gone = fleet.hosts.pop("b")
    fleet.config = replace(fleet.config, hosts={"a": fleet.config.hosts["a"]})
    fleet.change_pool(hosts=("a",))
    fleet.loop.reconfigured()
    await fleet.step()
    assert "poold host remove b" in fleet.replica(name).reason
    with pytest.raises(Refused) as refused:
        fleet.cordon.remove("b", confirmed=False, actor="t")
    assert refused.value.code == "host.unconfirmed"
    fleet.cordon.remove("b", confirmed=True, actor="t")
    await fleet.settle()
    assert fleet.where()[name] == "a"
    assert "b" not in fleet.store.hosts.known()
    await gone.close()


async def test_a_host_that_flaps_gets_nothing_until_its_time_is_over(make_fleet):
    """A new replica waits for it with the reason, and goes there when the wait is over."""
    fleet = await three(make_fleet, replicas=1)
    fleet.change_pool(hosts=("a", "b"))
    fleet.cordon.cordon("a", actor="t")
    for _ in range(3):
        fleet.world.lost("b")
    fleet.control.scale("hello", replicas=2, actor="t")
    await fleet.step()
    assert "b is flapping: it was lost 3 times" in fleet.world.host("b").closed
    assert "b is flapping" in fleet.replica("hello2").reason
    began = fleet.now
    await fleet.settle()
    assert fleet.where()["hello2"] == "b"
    assert fleet.now >= began + 30


async def seen(happened):
    async with asyncio.timeout(5):
        while not happened():  # noqa: ASYNC110 - links and worlds have no events
            await asyncio.sleep(0.005)


async def test_losing_a_host_is_noticed_by_its_watch(make_fleet):
    """A link that goes away and a boot that changes both count."""
    fleet = await three(make_fleet)
    asked = len(fleet["b"].asked)
    running = asyncio.create_task(fleet.loop.run())
    try:
        await seen(lambda: len(fleet["b"].asked) > asked)
        for count in (1, 2):
            fleet["b"].up = False
            await seen(lambda n=count: len(fleet.world._hosts["b"].steadiness.losses) == n)
            fleet["b"].up = True
            await seen(lambda: fleet.world.host("b").state == "up")
        assert fleet.world.host("b").closed == ""
        fleet["b"].boot += 1
        await seen(lambda: fleet.world.host("b").closed)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert "flapping" in fleet.world.host("b").closed


@pytest.mark.parametrize("seed", range(6))
async def test_in_any_order_of_events_one_replica_per_name_is_left(make_fleet, seed):
    """Cuts, deaths, fences, returns and uncordons: names are never started twice by us.

    A host is fenced only when it really is dead, as the operator asserts; it may come back at any
    moment, with or without what it had.
    """
    fleet = make_fleet(hosts=(A, B, C), replicas=3)
    await fleet.settle()
    dice = random.Random(seed)
    for _ in range(80):
        await strike(fleet, dice)
        await fleet.step()
        live = Counter(
            c.name for h in fleet.hosts.values() for c in h.containers.values() if c.running
        )
        assert all(count == 1 for count in live.values()), live
    for host in fleet.hosts.values():
        host.up = True
    await fleet.step()
    for name in (A, B, C):
        fleet.cordon.uncordon(name, actor="t")
    await fleet.settle()
    assert set(fleet.where()) == {w.name for w in fleet.store.wishes()}


async def strike(fleet, dice):
    host = fleet[dice.choice([A, B, C])]
    names = [w.name for w in fleet.store.wishes()] or ["hello1"]
    with contextlib.suppress(Refused):
        match dice.choice(
            ["die", "return", "fence", "cordon", "uncordon", "kill", "scale", "move"]
        ):
            case "die":
                host.up = False
                await host.close()
                host.reboot()
            case "return":
                host.up = True
            case "kill":
                await fleet.restart()
            case "scale":
                fleet.control.scale("hello", replicas=dice.randint(0, 5), actor="t")
            case "fence":
                fleet.cordon.fence(host.name, confirmed=True, actor="t")
            case "cordon":
                fleet.cordon.cordon(host.name, actor="t")
            case "uncordon":
                fleet.cordon.uncordon(host.name, actor="t")
            case "move":
                fleet.control.move(dice.choice(names), to=host.name, actor="t")


async def test_what_is_said_of_a_host_and_undone_is_not_acted_on(make_fleet, caplog):
    """A caller whose transaction fails after the fence: nothing is cancelled, logged or told."""
    fleet = await three(make_fleet)
    fleet["b"].up = False
    heard = []
    fleet.store.listen(heard.append)
    caplog.set_level(logging.INFO, "poold.cordon")
    with pytest.raises(ZeroDivisionError), fleet.store.transaction():  # noqa: PT012
        fleet.cordon.fence("b", confirmed=True, actor="t")
        1 / 0  # noqa: B018
    assert (heard, caplog.text) == ([], "")
    assert fleet.loop._fenced == frozenset()
