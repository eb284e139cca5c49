"""A real HAProxy shows what it is told to, and lets go of a server only when nothing is left."""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from haproxy_process import Client, Process, Site, get, raw, site

from poold.balancers.base import Balancer, Server, Shown
from poold.balancers.haproxy import HaproxyBalancer, Runtime, dial
from poold.errors import Permanent, Temporary
from poold.model.application import Application
from poold.model.balancing import BalancerName, Behind
from poold.model.fleet import HostName, Pool, PoolName

FRONT = BalancerName("front")
HELLO = Pool(
    PoolName("hello"),
    Application(image="i", port=8080),
    (HostName("a"),),
    HostName("a"),
    "hello{n}",
    balancer=Behind(FRONT),
)
SLOTS = replace(HELLO, balancer=Behind(FRONT, backend="slots", slots="slot"))
MANY = replace(HELLO, balancer=Behind(FRONT, backend="many", slots="slot"))


@pytest.fixture
async def haproxy() -> AsyncIterator[Process]:
    """Run one, in a folder with a path that is short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="poold-haproxy-"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        process = Process(folder, free.getsockname()[1])
    try:
        await process.start()
        yield process
    finally:
        await process.stop()
        shutil.rmtree(folder)


@pytest.fixture
async def sites() -> AsyncIterator[tuple[Site, Site, Site]]:
    """Three applications."""
    async with site("one") as one, site("two") as two, site("three") as three:
        yield one, two, three


def balancer(process: Process, path: str = "", *, master: bool = False) -> HaproxyBalancer:
    """Return it as the daemon has it."""
    runtime = Runtime(FRONT, dial(path or process.admin), timeout_seconds=5, master=master)
    state_file = process.folder / "state"
    return HaproxyBalancer(runtime, state_file=state_file, is_local=path != process.master)


def named(*sites: Site, prefix: str = "hello") -> list[Server]:
    """Return the set with replicas of these sites."""
    return [
        Server(name=f"{prefix}{number}", address="127.0.0.1", port=each.port)
        for number, each in enumerate(sites, 1)
    ]


def names(shown: Shown) -> dict[str, str]:
    """Return the state of each server that is shown."""
    assert shown.problems == ()
    return {server.name: server.state for server in shown.servers}


async def until_gone(front: Balancer, pool: Pool, servers: list[Server], name: str) -> Shown:
    """Publish again, as the daemon does every second, until an entry is gone."""
    async with asyncio.timeout(20):
        while True:
            shown = await front.publish(pool, servers)
            if name not in {left.name for left in shown.left}:
                assert name in names(shown)
                await asyncio.sleep(0.05)
                continue
            assert name not in names(shown)
            return shown


@pytest.mark.parametrize("way", ["admin", "tcp", "master"])
async def test_the_set_takes_traffic(
    haproxy: Process, sites: tuple[Site, Site, Site], way: str
) -> None:
    """Each way to its runtime API adds a set, and a second call has nothing to do."""
    path = {
        "admin": haproxy.admin,
        "tcp": f"127.0.0.1:{haproxy.tcp_port}",
        "master": haproxy.master,
    }[way]
    front = balancer(haproxy, path, master=way == "master")
    shown = await front.publish(HELLO, named(*sites))
    assert names(shown) == {"hello1": "up", "hello2": "up", "hello3": "up"}
    assert {server.weight for server in shown.servers} == {100}
    assert {(await get(haproxy))[1] for _ in range(6)} == {"one", "two", "three"}
    assert (await front.publish(HELLO, named(*sites))).commands == 0


async def test_an_idle_server_leaves_at_once(
    haproxy: Process, sites: tuple[Site, Site, Site]
) -> None:
    """One call takes it out that has nothing under way; others, not ours, stay as they are."""
    front = balancer(haproxy)
    await front.publish(HELLO, named(*sites))
    shown = await until_gone(front, HELLO, named(*sites[:2]), "hello3")
    assert names(shown) == {"hello1": "up", "hello2": "up"}
    assert [left.sessions_cut for left in shown.left] == [0]
    assert "hello/spare" in await raw(haproxy.admin, "show servers conn hello")
    assert {(await get(haproxy))[1] for _ in range(4)} == {"one", "two"}


@pytest.mark.parametrize("pool", [HELLO, SLOTS], ids=["dynamic", "slots"])
async def test_a_request_under_way_is_waited_for(
    haproxy: Process, sites: tuple[Site, Site, Site], pool: Pool
) -> None:
    """A server that drains gets nothing new, stays listed, and answers what it has."""
    front = balancer(haproxy)
    one, two, _ = sites
    path = "/slots" if pool is SLOTS else ""
    await front.publish(pool, named(one))
    held = asyncio.create_task(get(haproxy, f"{path}/held"))
    await asyncio.wait_for(one.holding.wait(), 10)

    wanted = [Server(name="hello2", address="127.0.0.1", port=two.port)]
    shown = await front.publish(pool, wanted)
    leaving = next(server for server in shown.servers if server.leaving)
    assert (leaving.state, leaving.sessions, leaving.port) == ("draining", 1, one.port)
    assert shown.lists("127.0.0.1", one.port)
    assert (await front.publish(pool, wanted)).left == ()
    assert {(await get(haproxy, f"{path}/"))[1] for _ in range(3)} == {"two"}

    one.held.set()
    assert await held == (200, "one")
    gone = await until_gone(front, pool, wanted, leaving.name)
    assert [left.sessions_cut for left in gone.left] == [0]
    assert not gone.lists("127.0.0.1", one.port)


@pytest.mark.parametrize("pool", [HELLO, SLOTS], ids=["dynamic", "slots"])
async def test_the_drain_deadline_cuts_and_counts(
    haproxy: Process, sites: tuple[Site, Site, Site], pool: Pool
) -> None:
    """What never ends is cut when the deadline is over, and said how many it were."""
    assert pool.balancer is not None
    hurried = replace(pool, balancer=replace(pool.balancer, drain_seconds=0.2))
    path = "/slots" if pool is SLOTS else ""
    front = balancer(haproxy)
    one, two, _ = sites
    entry = (await front.publish(hurried, named(one))).servers[0].name
    held = [asyncio.create_task(get(haproxy, f"{path}/held")) for _ in range(2)]
    await asyncio.wait_for(one.holding.wait(), 10)
    async with asyncio.timeout(10):
        shown = await front.publish(hurried, named(one))
        while shown.servers[0].sessions != 2:
            shown = await front.publish(hurried, named(one))

    wanted = [Server(name="hello2", address="127.0.0.1", port=two.port)]
    gone = await until_gone(front, hurried, wanted, entry)
    assert [left.sessions_cut for left in gone.left] == [2]
    assert gone.left[0].seconds >= 0.2
    # 2.6 answers for the server, 3.2 hangs up
    assert {status for status, _ in await asyncio.gather(*held)} <= {502, 0}


async def test_what_was_changed_by_hand_is_repaired(
    haproxy: Process, sites: tuple[Site, Site, Site]
) -> None:
    """Removed, disabled, reweighted, redirected: the next call brings the set back."""
    front = balancer(haproxy)
    await front.publish(HELLO, named(*sites))
    for line in (
        "set server hello/hello1 state maint",
        "del server hello/hello1",
        "set server hello/hello2 state drain",
        "set server hello/hello2 weight 7",
        "disable health hello/hello2",
        "set server hello/hello3 addr 127.0.0.1 port 9",
        "add server hello/hello9 127.0.0.1:9",
    ):
        await raw(haproxy.admin, line)
    shown = await front.publish(HELLO, named(*sites))
    while {server.name for server in shown.servers} != {"hello1", "hello2", "hello3"}:
        shown = await front.publish(HELLO, named(*sites))
    assert set(names(shown).values()) == {"up"}
    assert {server.weight for server in shown.servers} == {100}
    assert (await front.publish(HELLO, named(*sites))).commands == 0
    assert {(await get(haproxy))[1] for _ in range(6)} == {"one", "two", "three"}


async def test_dynamic_servers_come_back_after_a_reload(
    haproxy: Process, sites: tuple[Site, Site, Site]
) -> None:
    """A reload loses servers that were added; the next call adds them again."""
    front = balancer(haproxy)
    await front.publish(HELLO, named(*sites))
    await haproxy.reload()
    assert (await get(haproxy))[0] == 503
    assert len(names(await front.publish(HELLO, named(*sites)))) == 3
    assert (await get(haproxy))[0] == 200


async def test_slots_survive_a_reload(haproxy: Process, sites: tuple[Site, Site, Site]) -> None:
    """The state file brings slots back by HAProxy itself, before anybody repairs anything."""
    front = balancer(haproxy)
    await front.publish(SLOTS, named(*sites[:2]))
    await haproxy.reload()
    assert {(await get(haproxy, "/slots/"))[1] for _ in range(4)} == {"one", "two"}
    shown = await front.publish(SLOTS, named(*sites[:2]))
    assert (shown.commands, len(shown.servers)) == (0, 2)


async def test_a_restart_and_a_lost_socket_are_survived(
    haproxy: Process, sites: tuple[Site, Site, Site]
) -> None:
    """While it is gone that is said; once it is back the set is."""
    front = balancer(haproxy)
    await front.publish(HELLO, named(*sites))
    await haproxy.stop()
    with pytest.raises(Temporary) as caught:
        await front.publish(HELLO, named(*sites))
    assert caught.value.code == "balancer.unreachable"
    await haproxy.start()
    assert len(names(await front.publish(HELLO, named(*sites)))) == 3
    assert (await get(haproxy))[0] == 200


async def test_slots_that_are_all_taken(haproxy: Process, sites: tuple[Site, Site, Site]) -> None:
    """Who finds no slot is named; the others take traffic."""
    front = balancer(haproxy)
    shown = await front.publish(SLOTS, named(*sites))
    assert [(p.code, "hello3" in p.message) for p in shown.problems] == [("balancer.full", True)]
    assert len(shown.servers) == 2


@pytest.mark.parametrize(
    ("behind", "socket_name", "code"),
    [
        (Behind(FRONT, backend="nowhere"), "admin", "balancer.no-backend"),
        (Behind(FRONT, backend="static"), "admin", "balancer.static-algorithm"),
        (Behind(FRONT, options="check frobnicate"), "admin", "balancer.bad-options"),
        (Behind(FRONT), "user", "balancer.denied"),
    ],
)
async def test_what_haproxy_refuses_says_the_way_out(
    haproxy: Process, sites: tuple[Site, Site, Site], behind: Behind, socket_name: str, code: str
) -> None:
    """Mistakes in its configuration are Permanent problems with a hint."""
    front = balancer(haproxy, f"{haproxy.folder}/{socket_name}.sock")
    try:
        problems = (await front.publish(replace(HELLO, balancer=behind), named(*sites))).problems
    except Permanent as problem:
        problems = (problem,)
    assert {problem.code for problem in problems} == {code}
    assert all(isinstance(problem, Permanent) and problem.hint for problem in problems)


@pytest.mark.parametrize("pool", [HELLO, MANY], ids=["dynamic", "slots"])
async def test_no_request_is_lost_while_the_set_changes(haproxy: Process, pool: Pool) -> None:
    """From 1 to 6 to 2 to 6 to 1 under load: who is stopped once it is gone is missed by nobody."""
    front, stop, stacks = balancer(haproxy), asyncio.Event(), dict[int, AsyncExitStack]()
    servers: dict[int, Server] = {}
    clients = [Client(haproxy, "/many/" if pool is MANY else "/") for _ in range(8)]
    running: list[asyncio.Task[None]] = []

    async def scale(count: int) -> None:
        for number in range(len(servers) + 1, count + 1):
            stacks[number] = AsyncExitStack()
            one = await stacks[number].enter_async_context(site(f"hello{number}"))
            servers[number] = Server(name=f"hello{number}", address="127.0.0.1", port=one.port)
        wanted = [servers[number] for number in range(1, count + 1)]
        going = {number: servers.pop(number) for number in range(count + 1, len(servers) + 1)}
        async with asyncio.timeout(20):
            shown = await front.publish(pool, wanted)
            while any(shown.lists(each.address, each.port) for each in going.values()):
                shown = await front.publish(pool, wanted)
        assert shown.problems == ()
        for number in going:
            await stacks.pop(number).aclose()
        done = sum(sum(client.answered.values()) for client in clients)
        while running and sum(sum(c.answered.values()) for c in clients) < done + 200:
            await asyncio.wait(running, timeout=0.02)

    try:
        await scale(1)
        running += [asyncio.create_task(client.run(stop)) for client in clients]
        for count in (6, 2, 6, 1):
            await scale(count)
        stop.set()
        await asyncio.wait_for(asyncio.gather(*running), 20)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for stack in stacks.values():
            await stack.aclose()
    assert [failure for client in clients for failure in client.failed] == []
    by_site = sum((client.answered for client in clients), Counter[str]())
    assert set(by_site) == {f"hello{number}" for number in range(1, 7)}


async def test_a_replica_that_came_up_elsewhere_is_followed(
    haproxy: Process, sites: tuple[Site, Site, Site]
) -> None:
    """A request that hangs at its old address holds nothing up, nor do checks that failed there."""
    one, two, _ = sites
    front = balancer(haproxy)
    await front.publish(HELLO, named(one))
    held = asyncio.create_task(get(haproxy, "/held"))
    await asyncio.wait_for(one.holding.wait(), 10)
    await raw(haproxy.admin, "set server hello/hello1 health down")
    assert names(await front.publish(HELLO, named(two))) == {"hello1": "up"}
    assert {(await get(haproxy))[1] for _ in range(3)} == {"two"}
    one.held.set()
    assert await held == (200, "one")


async def test_it_is_the_same_whichever_way_it_is_reached(haproxy: Process) -> None:
    """Its socket, TCP and its master lead to one; after a reload it is another one."""
    first = await balancer(haproxy).identity()
    assert await balancer(haproxy, f"127.0.0.1:{haproxy.tcp_port}").identity() == first
    assert await balancer(haproxy, haproxy.master, master=True).identity() == first
    await haproxy.reload()
    assert await balancer(haproxy).identity() != first


@pytest.mark.parametrize("way", ["admin", "master"])
async def test_a_worker_that_was_reloaded_away_is_waited_for(
    haproxy: Process, sites: tuple[Site, Site, Site], way: str
) -> None:
    """It has a request under way at a server that the new one never knew, and is still there."""
    one, two, _ = sites
    front = balancer(haproxy, getattr(haproxy, way), master=way == "master")
    await front.publish(HELLO, named(one))
    held = asyncio.create_task(get(haproxy, "/held"))
    await asyncio.wait_for(one.holding.wait(), 10)
    await haproxy.reload()
    wanted = [Server(name="hello2", address="127.0.0.1", port=two.port)]
    shown = await front.publish(HELLO, wanted)
    assert {server.state for server in shown.servers if server.leaving} == {"draining"}
    assert shown.lists("127.0.0.1", one.port)
    assert (await get(haproxy))[1] == "two"
    one.held.set()
    assert await held == (200, "one")
    async with asyncio.timeout(20):
        while shown.lists("127.0.0.1", one.port):
            shown = await front.publish(HELLO, wanted)


async def test_leftovers_of_a_daemon_that_was_down_go(
    haproxy: Process, sites: tuple[Site, Site, Site]
) -> None:
    """Another daemon finds servers of replicas that are gone, and knows its own by their names."""
    await balancer(haproxy).publish(HELLO, named(*sites))
    await raw(haproxy.admin, "add server hello/other 127.0.0.1:9")
    shown = await until_gone(balancer(haproxy), HELLO, named(*sites[:1]), "hello3")
    assert "hello3" not in names(shown)
    async with asyncio.timeout(20):
        while set(names(shown)) != {"hello1"}:
            shown = await balancer(haproxy).publish(HELLO, named(*sites[:1]))
    assert "hello/other" in await raw(haproxy.admin, "show servers conn hello")


async def test_the_example_s_backends_take_replicas(
    haproxy: Process, sites: tuple[Site, Site, Site]
) -> None:
    """What config/haproxy.cfg has works as it stands, but for where it listens."""
    text = (Path(__file__).parents[2] / "config" / "haproxy.cfg").read_text()
    for before, after in (
        ("/run/haproxy/admin.sock group haproxy", haproxy.admin),
        ("/var/lib/haproxy/state", f"{haproxy.folder}/state"),
        (":8080", f"unix@{haproxy.folder}/front.sock"),
    ):
        assert before in text
        text = text.replace(before, after)
    await haproxy.stop()
    await haproxy.start(text)
    front = balancer(haproxy)
    slotted = replace(HELLO, balancer=Behind(FRONT, backend="slotted", slots="slot"))
    assert set(names(await front.publish(HELLO, named(*sites[:1]))).values()) == {"up"}
    assert set(names(await front.publish(slotted, named(*sites[1:]))).values()) == {"up"}
    assert (await get(haproxy))[1] == "one"
    assert {(await get(haproxy, "/slotted/"))[1] for _ in range(4)} == {"two", "three"}
