"""Another configuration for a running daemon: whole or not at all, replicas untouched."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest

from poold.config import Config, DaemonConfig
from poold.model.fleet import Host
from poold.reload import Reload, difference, refusals, relinked
from poold.store import Move

OLD = Config(hosts={"a": Host("a"), "b": Host("b", address="10.0.0.2")}, pools={})


def changed(**daemon):
    return replace(OLD, daemon=replace(DaemonConfig(), **daemon))


@pytest.mark.parametrize("key", ["state_dir", "socket", "socket_mode", "listen", "fleet"])
def test_what_needs_a_restart_is_refused_by_name(key):
    """Each says which key, from what, to what."""
    (reason,) = refusals(OLD, changed(**{key: "0600"}), ())
    assert reason.startswith(f"daemon.{key}: cannot change from ")
    assert "'0600'" in reason


def test_what_can_change_is_not_refused():
    """Deadlines, periods, levels and the token's file."""
    new = changed(log_level="debug", reconcile_seconds=1.0, token_file="/t")
    assert tuple(refusals(OLD, new, ())) == ()
    assert difference(OLD, new) == "daemon"
    assert difference(OLD, OLD) == "nothing changed"


def test_a_host_does_not_change_under_a_move():
    """Neither leave nor be reached in another way; its limits may change."""
    move = Move(
        name="hello1", pool="hello", change=1, source="a", target="b", step="send", action="m"
    )
    without = replace(OLD, hosts={"a": OLD.hosts["a"]})
    elsewhere = replace(OLD, hosts={**OLD.hosts, "b": Host("b", address="10.0.0.9")})
    roomier = replace(OLD, hosts={**OLD.hosts, "b": replace(OLD.hosts["b"], max_replicas=9)})
    assert [bool(tuple(refusals(OLD, new, [move]))) for new in (without, elsewhere, roomier)] == [
        True, True, False,
    ]  # fmt: skip
    assert relinked(OLD, elsewhere) == {"b"}
    assert relinked(OLD, roomier) == set()
    assert difference(OLD, elsewhere) == "hosts: ~b"


class Told:
    """A Notifier that remembers."""

    def __init__(self):
        self.said = []

    def reloading(self):
        self.said.append("reloading")

    def ready(self, status=""):
        self.said.append("ready")


HEAD = '[daemon]\nfleet = "test"\n'


def host_text(name):
    keys = 'key_file = "/k"\nknown_hosts_file = "/n"\n'
    return f'[hosts.{name}]\naddress = "10.0.0.{ord(name)}"\n{keys}'


def pool_text(name, hosts, replicas=1):
    return (
        f'[pools.{name}]\nimage = "hello:1"\nport = 8080\nreplicas = {replicas}\n'
        f"hosts = {list(hosts)}\nreadiness = {{ kind = 'tcp' }}\n"
    )


class Running:
    """A loop that runs over fake hosts, and its file."""

    def __init__(self, fleet, path):
        self.fleet, self.path, self.told = fleet, path, Told()
        self.spare = dict(fleet.hosts)
        self.reload = Reload(
            path=path, live=fleet, store=fleet.store, world=fleet.world, loop=fleet.loop,
            links=fleet.hosts, link_to=lambda host: self.spare[host.name], notifier=self.told,
            balancers=fleet.balancers, balancer_to=lambda _: fleet.front,
        )  # fmt: skip

    async def take(self, *tables):
        self.path.write_text(HEAD + "".join(tables))
        return await self.reload.once()

    async def ready(self, *names):
        async with asyncio.timeout(20):
            while self.fleet.ready() != sorted(names):  # noqa: ASYNC110 - the world has no event
                await asyncio.sleep(0.01)

    def last(self):
        return self.fleet.store.changes(limit=1)[0]


@pytest.fixture
async def running(make_fleet, tmp_path):
    """Hosts a, b and c exist; a alone and one pool there are configured, the loop runs."""
    fleet = make_fleet(hosts=("a", "b", "c"), replicas=0)
    made = Running(fleet, tmp_path / "poold.toml")
    for name in ("b", "c"):
        del fleet.hosts[name]
    fleet.config = replace(fleet.config, hosts={"a": fleet.config.hosts["a"]}, pools={})
    task = asyncio.create_task(fleet.loop.run())
    assert await made.take(host_text("a"), pool_text("hello", "a"))
    await made.ready("hello1")
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    for host in made.spare.values():
        await host.close()


async def test_pools_and_hosts_come_and_go(running):
    """A new pool on a new host comes up; gone again, its replica runs on; back, it is the same."""
    first = running.spare["a"].containers["hello1"]
    both = (host_text("a"), host_text("b"), pool_text("hello", "a"), pool_text("other", "b"))
    assert await running.take(*both)
    assert running.told.said[-2:] == ["reloading", "ready"]
    assert (running.last().kind, running.last().state) == ("reload", "settled")
    assert running.last().progress == "reloaded: hosts: +b, pools: +other"
    await running.ready("hello1", "other1")
    other = running.spare["b"].containers["other1"]
    assert await running.take(host_text("a"), pool_text("hello", "a"))
    await running.ready("hello1")
    assert "other left the configuration" in running.fleet.world.sentence()
    assert running.fleet.world.host("b") is None
    assert await running.take(*both)
    await running.ready("hello1", "other1")
    assert running.spare["b"].containers["other1"] == other
    assert running.spare["a"].containers["hello1"] == first


async def test_a_balancer_comes_and_goes(running):
    """A pool that is put behind one is published at once; taken from it, it leaves there."""
    running.fleet.balancers.clear()
    front = '[balancers.front]\nsocket = "/x"\n'
    behind = pool_text("hello", "a") + 'balancer = { name = "front" }\n'
    assert await running.take(host_text("a"), front, behind)
    assert running.last().progress == "reloaded: balancers: +front, pools: ~hello"
    async with asyncio.timeout(20):
        while "hello1" not in running.fleet.front.entries:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)
    kept = running.fleet.balancers["front"]
    assert await running.take(host_text("a"), front, behind.replace("replicas = 1", "replicas = 2"))
    assert running.fleet.balancers["front"] is kept
    assert await running.take(host_text("a"), pool_text("hello", "a"))
    assert running.fleet.balancers == {}
    async with asyncio.timeout(20):
        while running.fleet.front.entries:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)
    assert "hello1" in running.spare["a"].containers


async def test_a_file_with_mistakes_changes_nothing_and_all_are_logged(running, caplog):
    """Every line is in the log, the sentence and the failed change say so; a good file ends it."""
    before = running.fleet.config
    with caplog.at_level(logging.ERROR):
        assert not await running.take(host_text("a"), pool_text("hello", "x"), "[nonsense]\n")
    assert running.fleet.config is before
    assert "hosts" in caplog.text
    assert "nonsense" in caplog.text
    assert "not reloaded: cannot use the configuration" in running.fleet.world.sentence()
    assert (running.last().state, running.last().problem["code"]) == ("failed", "config.invalid")
    assert running.told.said[-2:] == ["reloading", "ready"]
    running.path.unlink()
    assert not await running.reload.once()
    assert await running.take(host_text("a"), pool_text("hello", "a"))
    assert "not reloaded" not in running.fleet.world.sentence()


async def test_what_needs_a_restart_leaves_everything_as_it_is(running):
    """A new host in the same file is not taken either: whole or not at all."""
    before = running.fleet.config
    running.path.write_text(
        '[daemon]\nfleet = "other"\n' + host_text("a") + host_text("b") + pool_text("hello", "a")
    )
    assert not await running.reload.once()
    assert running.fleet.config is before
    assert set(running.fleet.hosts) == {"a"}
    assert running.last().problem["code"] == "config.needs-restart"
    await running.ready("hello1")


async def test_an_action_under_way_at_a_host_that_leaves_is_found_again(running):
    """Its outcome stays open while the host is away, and is folded when it is back."""
    one = (host_text("a"), pool_text("hello", "a"))
    running.spare["b"].hold["build"] = asyncio.Event()
    two = (*one, host_text("b"), pool_text("other", "b"))
    assert await running.take(*two)
    async with asyncio.timeout(10):
        while not running.spare["b"].running:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)
    assert await running.take(*one)
    await asyncio.sleep(0)
    (intent,) = running.fleet.store.intents("other")
    running.spare["b"].hold["build"].set()
    assert await running.take(*two)
    await running.ready("hello1", "other1")
    assert running.fleet.store.intents() == ()
    assert [a for verb, a in running.spare["b"].asked if verb == "build"].count(intent.action) >= 2
    assert len([1 for verb, _ in running.spare["b"].did if verb == "build"]) == 1
