"""The loop over the real agent with its engine in memory: probes, files and archives are real."""

from __future__ import annotations

import asyncio
import contextlib
import urllib.request

import pytest

from poold.agent.actions import Actions
from poold.agent.engines.faults import Fault
from poold.agent.engines.memory import MemoryEngine
from poold.config import Config, DaemonConfig
from poold.control import Control
from poold.hosts.local import LocalHost
from poold.metrics import Metrics
from poold.model.application import Application, TcpProbe
from poold.model.fleet import Host, Pool
from poold.reconcile.loop import Loop, Pauses
from poold.reconcile.world import World
from poold.store import Store


class Daemon:
    """The deciding parts of a daemon over two hosts of this process."""

    def __init__(self, tmp_path, faults):
        ports = {"a": "21000-21049", "b": "21050-21099"}
        hosts = {
            name: Host(
                name=name, kind="local", publish_ports=ports[name],
                agent_dir=str(tmp_path / name / "agent"),
            )
            for name in ports
        }  # fmt: skip
        application = Application(
            image="hello:1", port=8080, readiness=TcpProbe(deadline_seconds=5.0)
        )
        self.config = Config(
            daemon=DaemonConfig(fleet="test", reconcile_seconds=1.0, state_dir=str(tmp_path / "s")),
            hosts=hosts,
            pools={
                "hello": Pool(
                    name="hello", application=application, hosts=("a", "b"), builder="a",
                    replica_name="hello{n}",
                )
            },
        )  # fmt: skip
        self.tmp_path = tmp_path
        self.engines = {name: MemoryEngine(faults.get(name, ())) for name in hosts}

    @contextlib.asynccontextmanager
    async def life(self):
        """Run from the opening of the store to its closing; containers outlive it."""
        links = {
            name: LocalHost(
                host,
                lambda root, run, running, name=name: Actions(
                    root, run, self.engines[name], running
                ),
                run=self.tmp_path / name / "run",
            )
            for name, host in self.config.hosts.items()
        }
        self.store = Store(self.tmp_path / "s")
        self.world = World(links=links)
        loop = Loop(
            store=self.store,
            world=self.world,
            links=links,
            config=lambda: self.config,
            recorder=Metrics(version="test"),
            pauses=Pauses(look=0.02, beat=0.1, ask_again=0.05, list_again=0.1),
        )
        self.control = Control(store=self.store, world=self.world, config=lambda: self.config)
        for link in links.values():
            await link.open()
        running = asyncio.create_task(loop.run())
        try:
            yield
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            for link in links.values():
                await link.close()
            self.store.close()

    async def ended(self, change):
        """Wait for a change as a client does."""
        async with asyncio.timeout(20):
            while change.state == "pending":
                change = await self.store.wait_change(
                    change.id, after_seq=change.seq, timeout_seconds=10
                )
        return change

    def replica(self, name):
        """Return a replica as readers see it."""
        return next(r for r in self.world.replicas() if r.name == name)

    async def count(self, name):
        """Ask a replica for its next number."""
        url = f"http://{self.replica(name).address}/"
        return int(await asyncio.to_thread(_get, url))


def _get(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read()


@pytest.fixture
async def make_daemon(tmp_path):
    """Make a daemon whose containers end with the test."""
    made = []

    def make(**faults):
        made.append(Daemon(tmp_path, faults))
        return made[-1]

    yield make
    for daemon in made:
        for engine in daemon.engines.values():
            await engine.close()


async def test_from_nothing_to_three_counting_replicas_and_a_move(make_daemon):
    """The article's scenario: one checkpoint, three replicas on two hosts, one moved."""
    daemon = make_daemon()
    async with daemon.life():
        change = await daemon.ended(daemon.control.scale("hello", replicas=3, actor="t"))
        assert (change.state, change.progress) == ("settled", "hello 3/3")
        assert [daemon.replica(f"hello{n}").host for n in (1, 2, 3)] == ["a", "b", "a"]
        assert {daemon.replica(f"hello{n}").method for n in (1, 2, 3)} == {"restore"}
        first = [await daemon.count(f"hello{n}") for n in (1, 2, 3)]
        assert len(set(first)) == 1, "every replica counts on from the checkpoint"
        before = await daemon.count("hello1")
        moved = await daemon.ended(daemon.control.move("hello1", to="b", actor="t"))
        assert moved.state == "settled", moved.problem
        assert (daemon.replica("hello1").host, daemon.replica("hello1").state) == ("b", "ready")
        assert await daemon.count("hello1") == before + 1
        assert "downtime" in moved.phases


async def test_a_new_life_finds_what_runs_and_does_nothing(make_daemon):
    """SIGTERM and a new start: the same containers, the same counters."""
    daemon = make_daemon()
    async with daemon.life():
        await daemon.ended(daemon.control.scale("hello", replicas=2, actor="t"))
        numbers = [await daemon.count("hello1"), await daemon.count("hello2")]
        ids = [daemon.replica(f"hello{n}").container_id for n in (1, 2)]
    async with daemon.life():
        change = await daemon.ended(daemon.control.scale("hello", replicas=2, actor="t"))
        assert change.state == "settled"
        assert [daemon.replica(f"hello{n}").container_id for n in (1, 2)] == ids
        assert [await daemon.count("hello1"), await daemon.count("hello2")] == [
            n + 1 for n in numbers
        ]


async def test_restoring_fails_on_one_host_and_the_reason_is_shown(make_daemon):
    """The ladder over the real agent: cold on b, with the reason."""
    daemon = make_daemon(b=(Fault(step="restore", name="hello*"),))
    async with daemon.life():
        change = await daemon.ended(daemon.control.restore("hello", host="b", actor="t"))
        assert change.state == "settled"
        replica = daemon.replica("hello1")
        assert (replica.host, replica.method) == ("b", "cold")
        assert replica.reason.startswith("restoring generation 1 failed: cannot ")


async def test_a_move_whose_restore_fails_goes_on_at_the_source(make_daemon):
    """Nothing is lost: thawed at the source, counting on, the change failed with the reason."""
    daemon = make_daemon(b=(Fault(step="restore", name="hello*"),))
    async with daemon.life():
        await daemon.ended(daemon.control.restore("hello", host="a", actor="t"))
        before = await daemon.count("hello1")
        change = await daemon.ended(daemon.control.move("hello1", to="b", actor="t"))
        assert change.state == "failed"
        assert (daemon.replica("hello1").host, daemon.replica("hello1").state) == ("a", "ready")
        assert await daemon.count("hello1") == before + 1


async def test_a_replica_that_died_comes_back(make_daemon):
    """The next listing sees it, and it is restored in its place."""
    daemon = make_daemon()
    async with daemon.life():
        await daemon.ended(daemon.control.scale("hello", replicas=1, actor="t"))
        old = daemon.replica("hello1").container_id
        await daemon.engines["a"].remove(old, stop_timeout_seconds=0)
        async with asyncio.timeout(10):
            while daemon.replica("hello1").container_id in (old, None):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert await daemon.count("hello1") == 0, "as it was in the checkpoint"


async def test_scaling_to_nothing_leaves_no_container(make_daemon):
    """Every container of ours is gone, on both hosts."""
    daemon = make_daemon()
    async with daemon.life():
        await daemon.ended(daemon.control.scale("hello", replicas=3, actor="t"))
        await daemon.ended(daemon.control.scale("hello", replicas=0, actor="t"))
        for engine in daemon.engines.values():
            assert await engine.containers() == ()
