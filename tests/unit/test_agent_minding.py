"""Minding replicas on the memory engine: their ends are told at once, their silence by a probe."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from poold.agent.actions import Actions
from poold.agent.engines.faults import Fault
from poold.agent.engines.memory import MemoryEngine
from poold.agent.messages import (
    Build,
    Capture,
    ContainerFact,
    Event,
    LivenessCheck,
    Observe,
    Placement,
    Remove,
    Restore,
    Start,
    Started,
)
from poold.agent.minding import Attempts
from poold.errors import Temporary
from poold.model.application import Application, HttpProbe, Liveness, TcpProbe

HELLO = Application(image="hello", port=8080, readiness=HttpProbe(path="/ready"))
SECONDS = 10.0


class Host:
    """An agent in this process, and what it told."""

    def __init__(self, root: Path, engine: MemoryEngine) -> None:
        self.engine = engine
        self.root = root
        self.told: list[Event] = []
        self._news = asyncio.Event()
        self._number = 0
        self.begin()

    def begin(self) -> None:
        """Start an agent's life."""
        self.actions = Actions(self.root, self.root / "run", self.engine, lambda: ())
        self.watching = asyncio.ensure_future(self.actions.watch(self._hear))

    async def end(self) -> None:
        """End it; nothing it began is left."""
        self.watching.cancel()
        await asyncio.wait({self.watching})
        assert self.watching.cancelled()

    def _hear(self, event: Event) -> None:
        self.told.append(event)
        self._news.set()

    async def event(self) -> Event:
        """Wait for the next event."""
        async with asyncio.timeout(SECONDS):
            while not self.told:
                self._news.clear()
                await self._news.wait()
        return self.told.pop(0)

    async def do(self, request: Any) -> Any:
        self._number += 1
        action = f"action{self._number:06}"
        return await self.actions.handle(request, action=action, report=lambda _: None)

    def placement(self, name: str) -> Placement:
        return Placement("test", "hello", name, "127.0.0.1", "24700-24799")

    async def start(self, name: str) -> Started:
        started: Started = await self.do(Start(self.placement(name), HELLO))
        return started

    async def see(self, name: str, check: LivenessCheck | None = None) -> ContainerFact:
        liveness = {"hello": check} if check else {}
        seen = await self.do(Observe("test", liveness=liveness))
        return next(fact for fact in seen.containers if fact.name == name)


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Callable[..., Host]]:
    """Make agents on hosts of their own."""
    made: list[Host] = []

    def make_one(*faults: Fault, engine: MemoryEngine | None = None) -> Host:
        folder = tmp_path / f"host{len(made)}"
        made.append(Host(folder, engine or MemoryEngine(faults, storage=tmp_path)))
        return made[-1]

    yield make_one
    for host in made:
        await host.end()
        await host.engine.close()
    names = {task.get_coro().__qualname__ for task in asyncio.all_tasks()}
    assert not {name for name in names if name.startswith("Minder.")}


async def test_a_replica_that_dies_is_told_with_its_last_words(make):
    """One event a death; the listing then shows it dead, with the last line of its output."""
    host = make()
    started = await host.start("hello1")
    await host.engine.crash("hello1")
    event = await host.event()
    assert (event.kind, event.name, event.container_id) == (
        "ended", "hello1", started.container_id,
    )  # fmt: skip
    assert event.reason == "its first process ended"
    seen = await host.see("hello1")
    assert (seen.running, seen.ready) == (False, False)
    assert seen.last_words == "GET /ready"
    assert host.told == []


class Short(MemoryEngine):
    """An engine that cannot watch the first containers it is asked to."""

    failures = 2

    async def lost(self, container_id: str) -> str:
        """See Engine."""
        if self.failures:
            self.failures -= 1
            raise Temporary("command.timeout", "cannot inspect it in time")
        return await super().lost(container_id)


async def test_what_could_not_be_watched_is_watched_from_the_next_listing(make, tmp_path):
    """One trouble of the engine does not leave a replica unwatched for ever."""
    host = make(engine=Short(storage=tmp_path))
    await host.start("hello1")
    for left in (1, 0, 0):
        await asyncio.sleep(0)
        assert host.engine.failures == left
        await host.see("hello1")
    await host.engine.crash("hello1")
    assert (await host.event()).kind == "ended"
    await host.see("hello1")
    await asyncio.sleep(0)
    assert host.told == [], "an end is told once"


async def test_what_an_action_ends_is_no_event(make):
    """Removing and capturing end containers on purpose; a death afterwards is told again."""
    host = make()
    await host.start("hello1")
    await host.do(Remove("test", "hello1"))
    await host.start("hello2")
    await host.do(Capture("test", "hello", "hello2", HELLO))
    third = await host.start("hello3")
    await host.engine.crash("hello3")
    assert (await host.event()).container_id == third.container_id
    assert host.told == []


async def test_replicas_of_an_earlier_life_are_minded_too(make):
    """An agent that starts again goes by the records."""
    host = make()
    await host.start("hello1")
    await host.end()
    host.begin()
    await asyncio.sleep(0)
    await host.engine.crash("hello1")
    assert (await host.event()).name == "hello1"


async def test_one_that_dies_right_after_it_became_ready_is_told(make):
    """The action still holds the name: the event waits for it, and is not lost."""
    host = make()
    digest = (await host.do(Build(host.placement("hello"), HELLO))).digest
    for _ in range(3):
        await host.do(Restore(host.placement("hello1"), HELLO, digest))
        await host.engine.crash("hello1")
        assert (await host.event()).kind == "ended"
        await host.do(Remove("test", "hello1"))


async def test_one_that_only_stops_answering_counts_as_dead_until_it_answers(make):
    """So many failures in a row, told once, shown by the listing; an answer makes it live again."""
    host = make()
    await host.start("hello1")
    check = LivenessCheck(HttpProbe(path="/fail", timeout_seconds=5), 8080, 0.01, 3)
    assert (await host.see("hello1", check)).ready
    event = await host.event()
    assert event.kind == "unresponsive"
    assert event.reason == "not answering, 3 times in a row: HTTP status 500"
    seen = await host.see("hello1", check)
    assert (seen.running, seen.ready, seen.status) == (True, False, event.reason)
    assert host.told == []
    fine = LivenessCheck(HttpProbe(path="/ready", timeout_seconds=5), 8080, 0.01, 3)
    assert (await host.see("hello1", fine)).ready
    assert (await host.see("hello1")).ready


async def test_any_answer_is_a_sign_of_life_where_no_path_is_given(make):
    """An application that says it is not ready lives; one that cannot be connected to does not."""
    host = make()
    await host.start("hello1")
    check = LivenessCheck(HttpProbe(path="/fail", timeout_seconds=5), 8080, 0.01, 2, True)
    await host.see("hello1", check)
    asked = host.engine._find("hello1")
    async with asyncio.timeout(SECONDS):
        while asked.log.count("GET /fail") < 5:  # noqa: ASYNC110 - real requests
            await asyncio.sleep(0.01)
    assert (await host.see("hello1", check)).ready
    await host.engine._close_servers(asked)
    assert (await host.event()).kind == "unresponsive"


def test_attempts_count_failures_in_a_row():
    """One success starts the count anew; each change is news once."""
    count = Attempts(2)
    said = ["x", "", "x", "x", "x", "", "", "x"]
    assert [count.after(one) for one in said] == ["", "", "", "dead", "", "alive", "", ""]


def test_what_liveness_leaves_out_is_the_readiness_probe_s():
    """Kind, path, port and command are inherited, time limits are not."""
    ready = HttpProbe(path="/ready", port=9990, timeout_seconds=7)
    assert Liveness().probe(ready) == HttpProbe(path="/ready", port=9990, timeout_seconds=1.0)
    own = Liveness(path="/alive", port=8080, timeout_seconds=2.0)
    assert own.probe(ready) == HttpProbe(path="/alive", port=8080, timeout_seconds=2.0)
    assert Liveness(kind="tcp").probe(ready) == TcpProbe(port=9990, timeout_seconds=1.0)
