"""Spares on the memory engine: prepared, claimed, swept up, and killed at each step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from poold.agent import failpoints, http
from poold.agent.actions import Actions
from poold.agent.engines.base import Launch, Published
from poold.agent.engines.faults import Fault
from poold.agent.engines.memory import MemoryEngine
from poold.agent.http import Target
from poold.agent.messages import (
    Build,
    ContainerFact,
    Event,
    LivenessCheck,
    Observe,
    Placement,
    PrepareSpare,
    Progress,
    Remove,
    Request,
    Restore,
    Started,
)
from poold.errors import Problem
from poold.model.application import Application, HttpHook, HttpProbe
from poold.model.fleet import Digest

R = TypeVar("R")
APP = Application(
    image="hello",
    port=8080,
    readiness=HttpProbe(path="/ready", deadline_seconds=20),
    after_restore=HttpHook("/wake"),
)
HERE = Placement("test", "hello", "hello", "127.0.0.1", "24700-24799")


@dataclass
class Agent:
    """An agent that can be killed: what it was doing is gone, what it had made stays."""

    root: Path
    engine: MemoryEngine
    free_bytes: int = 1 << 40
    running: set[str] = field(default_factory=set)
    progress: list[str] = field(default_factory=list)
    recorded: list[set[str]] = field(default_factory=list)  # when progress was told
    number: int = 0

    def __post_init__(self) -> None:
        self.reborn()

    def reborn(self) -> None:
        self.running.clear()
        self.actions = Actions(
            self.root,
            self.root / "run",
            self.engine,
            lambda: tuple(self.running),
            free_memory_bytes=lambda: self.free_bytes,
        )

    async def do(self, request: Request[R]) -> R:
        self.number += 1
        action = f"{request.verb}-{self.number:012}"
        self.running.add(action)
        try:
            return await self.actions.handle(request, action=action, report=self._note)
        finally:
            self.running.discard(action)

    def _note(self, progress: Progress) -> None:
        self.progress.append(progress.text)
        self.recorded.append(self.records())

    async def build(self) -> Digest:
        return (await self.do(Build(HERE, APP))).digest

    async def spare(self, digest: Digest, application: Application = APP) -> Started:
        return await self.do(PrepareSpare(HERE, application, digest))

    async def claim(
        self, name: str, digest: Digest, spare: str, application: Application = APP, **where: str
    ) -> Started:
        placement = replace(HERE, name=name, **where)
        return await self.do(Restore(placement, application, digest, spare=spare))

    async def seen(self, **liveness: LivenessCheck) -> dict[str, ContainerFact]:
        seen = await self.do(Observe("test", liveness=liveness))
        return {fact.name: fact for fact in seen.containers}

    def records(self) -> set[str]:
        return {path.stem for path in (self.root / "replicas").iterdir()}


async def get(replica: Started, path: str = "/") -> str:
    host, _, port = replica.address.rpartition(":")
    answer = await http.request(Target(host, int(port)), "GET", path, timeout_seconds=10)
    return answer.body.decode().strip()


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Callable[..., Agent]]:
    """Make agents with faults; their containers end with the test."""
    made: list[MemoryEngine] = []

    def agent(*faults: Fault) -> Agent:
        engine = MemoryEngine(faults, storage=tmp_path)
        made.append(engine)
        return Agent(tmp_path / "a", engine)

    yield agent
    for engine in made:
        await engine.close()


async def test_a_spare_is_frozen_ready_and_listed(make: Callable[..., Agent]) -> None:
    """It has a name of its own, is on record, and answers nobody."""
    agent = make()
    digest = await agent.build()
    spare = await agent.spare(digest)
    assert spare.name == "poold-spare-000000000002"
    assert list(spare.phases) == ["restore", "hook", "ready"]
    fact = (await agent.seen())[spare.name]
    assert (fact.role, fact.ready, fact.digest, fact.pool) == ("spare", True, digest, "hello")
    asked = asyncio.ensure_future(get(spare))
    done, _ = await asyncio.wait({asked}, timeout=0.05)
    assert not done
    await agent.engine.unpause(spare.name)
    assert await asked == "0"


async def test_a_claimed_spare_is_the_replica(make: Callable[..., Agent]) -> None:
    """Same container and address, its own name, a fresh seed, and nothing of the spare is left."""
    agent = make()
    digest = await agent.build()
    spare = await agent.spare(digest)
    await agent.engine.unpause(spare.name)
    seed = await get(spare, "/seed")
    await agent.engine.pause(spare.name)
    started = await agent.claim("hello2", digest, spare.name)
    assert (started.name, started.method, started.spare) == ("hello2", "spare", spare.name)
    assert (started.container_id, started.address) == (spare.container_id, spare.address)
    assert list(started.phases) == ["thaw", "hook", "ready"]
    assert await get(started, "/seed") not in (seed, "")
    facts = await agent.seen()
    assert set(facts) == {"hello2"}
    assert (facts["hello2"].role, facts["hello2"].ready, facts["hello2"].method) == (
        "replica", True, "spare",
    )  # fmt: skip
    assert agent.records() == {"hello2"}
    again = await agent.claim("hello2", digest, spare.name)
    assert again.container_id == started.container_id, "asking again claims nothing more"


async def test_two_claims_of_one_spare_make_two_replicas(make: Callable[..., Agent]) -> None:
    """One gets the spare; the other one is restored beside it."""
    agent = make()
    digest = await agent.build()
    spare = await agent.spare(digest)
    both = await asyncio.gather(*(agent.claim(f"hello{n}", digest, spare.name) for n in (1, 2)))
    assert sorted(each.method for each in both) == ["restore", "spare"]
    assert len({each.container_id for each in both}) == 2
    assert set(await agent.seen()) == {"hello1", "hello2"}


@pytest.mark.parametrize(
    "unfit",
    [
        {"digest": Digest("sha256:" + "1" * 64)},
        {"publish_address": "127.0.0.2"},
        {"publish_ports": "24600-24650"},
        {"application": replace(APP, extra_ports=(9090,))},
        {"spare": "poold-spare-none"},
        {"pool": "other"},
    ],
    ids=lambda unfit: next(iter(unfit)),
)
async def test_what_does_not_fit_is_not_claimed(
    make: Callable[..., Agent], unfit: dict[str, Any]
) -> None:
    """One of another generation or published elsewhere goes; another pool's stays as it is."""
    agent = make()
    digest = await agent.build()
    spare = await agent.spare(digest)
    asked: dict[str, Any] = {"digest": digest, "spare": spare.name, **unfit}
    if "digest" in unfit:  # not on this host: the restore behind the claim fails as well
        with pytest.raises(Problem):
            await agent.claim("hello1", **asked)
    else:
        assert (await agent.claim("hello1", **asked)).method == "restore"
    stays = "spare" in unfit or "pool" in unfit
    assert (spare.name in await agent.seen()) == stays


BROKEN = {
    "rename": Fault("rename", "poold-spare-*"),
    "unpause": Fault("unpause", "hello1"),
}


@pytest.mark.parametrize("step", BROKEN)
async def test_a_spare_that_cannot_be_claimed_is_removed(
    step: str, make: Callable[..., Agent]
) -> None:
    """The replica comes up by a restore within the same action, and the reason is told."""
    agent = make(BROKEN[step])
    digest = await agent.build()
    spare = await agent.spare(digest)
    started = await agent.claim("hello1", digest, spare.name)
    assert (started.method, started.spare) == ("restore", "")
    assert any(text.startswith(f"claiming {spare.name} failed: ") for text in agent.progress)
    assert set(await agent.seen()) == {"hello1"}
    assert agent.records() == {"hello1"}


async def test_a_dead_spare_is_not_claimed(make: Callable[..., Agent]) -> None:
    """It shows as not ready; a claim that comes first restores."""
    agent = make()
    digest = await agent.build()
    spare = await agent.spare(digest)
    await agent.engine.crash(spare.name)
    assert not (await agent.seen())[spare.name].ready
    assert (await agent.claim("hello1", digest, spare.name)).method == "restore"
    assert set(await agent.seen()) == {"hello1"}


async def test_a_spare_that_does_not_answer_is_given_up_soon(make: Callable[..., Agent]) -> None:
    """A hook that fails on waking does not cost the replica more than a restore."""
    agent = make()
    digest = await agent.build()
    spare = await agent.spare(digest)
    angry = replace(APP, after_restore=HttpHook("/fail"))
    with pytest.raises(Problem) as caught:  # the restore's hook fails as well
        await agent.claim("hello1", digest, spare.name, angry)
    assert caught.value.code == "hook.failed"
    assert await agent.seen() == {}
    assert agent.records() == set()


async def test_somebody_elses_name_is_refused_and_the_spare_stays(
    make: Callable[..., Agent],
) -> None:
    """Promise 11: the stranger is untouched, and so is the spare."""
    agent = make()
    digest = await agent.build()
    spare = await agent.spare(digest)
    port = (Published(8080, 24899, "127.0.0.1"),)
    stranger = Launch("hello1", APP, {}, agent.root, port, agent.root)
    theirs = await agent.engine.run(stranger)
    with pytest.raises(Problem) as caught:
        await agent.claim("hello1", digest, spare.name)
    assert caught.value.code == "replica.foreign-name"
    found = await agent.engine.find("hello1")
    assert found is not None
    assert (found.container_id, found.running) == (theirs, True)
    assert (await agent.seen())[spare.name].ready


async def test_a_half_made_one_of_ours_makes_way(make: Callable[..., Agent]) -> None:
    """What an earlier action left under the name goes, and the spare gets it."""
    agent = make()
    digest = await agent.build()
    spare = await agent.spare(digest)
    left = await agent.do(Restore(replace(HERE, name="hello1"), APP, digest))
    (agent.root / "replicas" / "hello1.json").unlink()
    started = await agent.claim("hello1", digest, spare.name)
    assert started.container_id == spare.container_id
    assert await agent.engine.find(left.container_id) is None


CLAIM_STEPS = [
    ("spare.claiming", "spare"),
    ("spare.renamed", "half"),
    ("spare.thawed", "half"),
    ("replica.before_record", "half"),
    ("replica.recorded", "replica"),
    ("spare.forgotten", "replica"),
]


class Killed(BaseException):
    """The process ended: no clean-up that it would have done is done."""


@pytest.mark.parametrize(("step", "left"), CLAIM_STEPS)
async def test_a_kill_in_a_claim_leaves_one_container(
    step: str, left: str, make: Callable[..., Agent], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the new name a spare, on record a replica, in between one that is not ready."""
    agent = make()
    digest = await agent.build()
    spare = await agent.spare(digest)
    await killed_at(step, agent, agent.claim("hello1", digest, spare.name), monkeypatch)
    facts = await agent.seen()
    assert [fact.container_id for fact in facts.values()] == [spare.container_id]
    (fact,) = facts.values()
    expected = {
        "spare": (spare.name, "spare", True),
        "half": ("hello1", "replica", False),
        "replica": ("hello1", "replica", True),
    }
    assert (fact.name, fact.role, fact.ready) == expected[left]
    assert agent.records() == ({fact.name} if left != "half" else set())
    started = await agent.claim("hello1", digest, spare.name)
    assert started.method == ("restore" if left == "half" else "spare")
    assert {name for name, each in (await agent.seen()).items() if each.ready} == {"hello1"}


@pytest.mark.parametrize("step", ["container.created", "spare.ready", "spare.frozen"])
async def test_a_kill_in_a_preparation_leaves_nothing_for_long(
    step: str, make: Callable[..., Agent], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not on record belongs to nobody and is swept up by the next listing."""
    agent = make()
    digest = await agent.build()
    await killed_at(step, agent, agent.spare(digest), monkeypatch)
    assert len(await agent.engine.containers()) == 1
    assert await agent.seen() == {}
    assert await agent.engine.containers() == ()


async def test_a_kill_after_the_record_leaves_a_spare(
    make: Callable[..., Agent], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its action's outcome is lost, the spare is not."""
    agent = make()
    digest = await agent.build()
    await killed_at("replica.recorded", agent, agent.spare(digest), monkeypatch)
    ((name, fact),) = (await agent.seen()).items()
    assert (fact.role, fact.ready) == ("spare", True)
    assert (await agent.claim("hello1", digest, name)).method == "spare"


async def killed_at(step: str, agent: Agent, asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop everything at a failpoint as a kill does: nothing that would be undone is undone."""
    reached = asyncio.Event()

    def stop(name: str, _detail: str) -> None:
        if name == step:
            reached.set()
            raise Killed

    async def nothing(work: Any) -> None:
        work.close()

    monkeypatch.setattr(failpoints, "_armed", {step: "kill"})
    monkeypatch.setattr(failpoints, "_reached", stop)
    for module in ("bringup", "replicas", "spares"):
        monkeypatch.setattr(f"poold.agent.{module}.undone", nothing)
    with pytest.raises(Killed):
        await asked
    assert reached.is_set()
    monkeypatch.undo()
    agent.reborn()


async def test_a_listing_leaves_a_spare_alone_that_is_being_made(
    make: Callable[..., Agent],
) -> None:
    """Its action runs: it is nobody's left-over."""
    agent = make(Fault("pause", kind="slow", seconds=0.2))
    digest = await agent.build()
    making = asyncio.ensure_future(agent.spare(digest))
    while not await agent.engine.containers():  # noqa: ASYNC110 - no event tells it
        await asyncio.sleep(0.005)
    (fact,) = (await agent.seen()).values()
    assert (fact.role, fact.ready) == ("spare", False)
    assert (await making).name == fact.name


async def test_preparing_waits_for_those_who_need_a_replica_now(
    make: Callable[..., Agent],
) -> None:
    """Two spares and a slow restore: the replica first, then the spares one after the other."""
    agent = make(Fault("restore", "hello*", kind="slow", seconds=0.1))
    digest = await agent.build()
    agent.progress.clear()
    agent.recorded.clear()
    restoring = asyncio.ensure_future(agent.do(Restore(replace(HERE, name="hello1"), APP, digest)))
    await asyncio.sleep(0)
    spares = asyncio.gather(agent.spare(digest), agent.spare(digest))
    await asyncio.gather(restoring, spares)
    assert agent.progress == ["restoring", "restoring a spare", "restoring a spare"]
    assert agent.recorded[1] == {"hello1"}
    assert len(agent.recorded[2]) == 2
    assert len(await agent.seen()) == 3


async def test_without_memory_for_one_more_there_is_no_spare(make: Callable[..., Agent]) -> None:
    """What is left is for replicas."""
    agent = make()
    digest = await agent.build()
    agent.free_bytes = 10
    with pytest.raises(Problem) as caught:
        await agent.spare(digest)
    assert (caught.value.code, caught.value.kind) == ("host.memory-low", "temporary")
    assert await agent.seen() == {}


async def test_a_spare_that_fails_leaves_nothing(make: Callable[..., Agent]) -> None:
    """Not restored or not frozen: no container and no record."""
    agent = make(Fault("pause"))
    digest = await agent.build()
    with pytest.raises(Problem):
        await agent.spare(digest)
    assert await agent.engine.containers() == ()
    assert agent.records() == set()


async def test_a_spare_is_removed_by_name(make: Callable[..., Agent]) -> None:
    """As the daemon does with one that is too old."""
    agent = make()
    digest = await agent.build()
    spare = await agent.spare(digest)
    done = await agent.do(Remove("test", spare.name, spare.container_id))
    assert done.changed
    assert await agent.seen() == {}
    assert agent.records() == set()


async def test_a_spares_death_is_told_and_its_silence_is_not(make: Callable[..., Agent]) -> None:
    """What is frozen cannot answer: liveness is asked of replicas only."""
    agent = make()
    digest = await agent.build()
    told: list[Event] = []
    heard = asyncio.Event()

    def tell(event: Event) -> None:
        told.append(event)
        heard.set()

    watching = asyncio.ensure_future(agent.actions.watch(tell))
    try:
        spare = await agent.spare(digest)
        probe = HttpProbe(path="/", timeout_seconds=0.01)
        await agent.seen(hello=LivenessCheck(probe, 8080, 0.01, failures=1))
        await asyncio.sleep(0.1)
        assert told == []
        await agent.engine.crash(spare.name)
        await asyncio.wait_for(heard.wait(), 10)
        assert [(event.kind, event.name) for event in told] == [("ended", spare.name)]
    finally:
        watching.cancel()
        await asyncio.wait({watching})
