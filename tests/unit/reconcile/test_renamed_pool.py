"""A pool that was renamed and kept the names of its replicas: nothing runs twice, nothing ends."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

import pytest

from poold.model.fleet import PoolName
from poold.store import Assignment, Wish

HALLO = PoolName("hallo")
WAY_OUT = "put hello back into the configuration, scale it down, then rename it"


def rename(fleet, *, keep=False):
    pools = {HALLO: replace(fleet.pool, name=HALLO)}
    fleet.config = replace(fleet.config, pools={**fleet.config.pools, **pools} if keep else pools)
    fleet.loop.reconfigured()


async def rounds(fleet, count=15):
    decided = None
    for _ in range(count):
        await fleet.look()
        decided = await fleet.loop.cycle(HALLO)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await fleet.loop.drain()
        fleet.check()
        fleet.now += 40
    return decided


async def test_a_name_reserved_on_a_host_that_is_cut_off_is_not_used_by_the_new_pool(make_fleet):
    """Promise 1: the new pool says who has the name, and wishes once it is free."""
    fleet = make_fleet(replicas=2)
    await fleet.settle()
    away = fleet.where()["hello1"]
    fleet[away].up = False
    fleet.control.scale("hello", replicas=0, actor="t")
    for _ in range(5):
        await fleet.step()
    before = fleet.config
    rename(fleet)
    decided = await rounds(fleet)
    assert fleet.where() == {"hello1": away}
    assert "the pool hello has it" in decided.sentence
    assert WAY_OUT in decided.sentence
    assert decided.sentence in fleet.world.sentence()
    assert fleet.store.see_pool(HALLO).first_wish_at is None
    fleet[away].up = True
    fleet.config = before
    await fleet.until(lambda: not fleet.store.assignments("hello"))
    rename(fleet)
    await rounds(fleet)
    assert [wish.pool for wish in fleet.store.wishes()] == [HALLO, HALLO]
    assert fleet.ready() == ["hello1", "hello2"]


@pytest.mark.parametrize("runs", [True, False])
async def test_books_that_do_not_settle_hold_up_only_their_pool(make_fleet, runs):
    """Rows that an earlier version left: nothing is started, the other pools go on."""
    fleet = make_fleet(replicas=0)
    await fleet.settle()
    rename(fleet, keep=True)
    fleet.store.put_wish(Wish(name="hello1", pool=HALLO))
    fleet.store.put_assignment(Assignment(name="hello1", pool=HALLO, host="a", since=1.0))
    fleet.store._database._connection.execute("UPDATE assignments SET pool = 'hello', host = 'c'")
    if runs:
        fact = fleet["a"].run_by_hand("hello1", ours=True)
        fleet["a"].containers["hello1"] = replace(fact, pool=HALLO)
    worker = asyncio.create_task(fleet.loop.run())
    try:
        async with asyncio.timeout(20):
            while "the pool hello has it on c" not in fleet.world.sentence():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        change = fleet.control.restore("hello", name="hello2", actor="t")
        ended = await fleet.store.wait_change(change.id, after_seq=10_000_000, timeout_seconds=20)
        assert ended.state == "settled"
        assert not worker.done()
    finally:
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
    assert fleet.where().get("hello1") == ("a" if runs else None)


async def test_a_container_of_the_old_pool_is_not_doubled_without_a_store(make_fleet):
    """The store is lost and the pool renamed: what a host has tells that the name is taken."""
    fleet = make_fleet()
    fact = fleet["b"].run_by_hand("hello1", ours=True)
    fleet["b"].containers["hello1"] = replace(fact, pool="hello")
    rename(fleet)
    await rounds(fleet, 2)
    fleet.control.restore(HALLO, name="hello1", host="a", actor="t")
    decided = await rounds(fleet, 3)
    assert fleet.where() == {"hello1": "b"}
    assert "hello1 failed: cannot use the name hello1 for hallo" in decided.sentence
    assert "the pool hello has it on b" in decided.sentence
