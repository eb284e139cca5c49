"""The agent's actions on the memory engine: ports, probes, hooks and files are real."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from poold.agent import http
from poold.agent.actions import Actions
from poold.agent.bench_messages import Measure, Measured
from poold.agent.engines.base import Launch, Published
from poold.agent.engines.faults import Fault
from poold.agent.engines.memory import MemoryEngine
from poold.agent.folders import write_whole
from poold.agent.http import Target
from poold.agent.messages import (
    Build,
    Capture,
    ContainerFact,
    Discard,
    ExportImage,
    FindImage,
    ImportImage,
    Logs,
    Observe,
    Placement,
    Progress,
    Remove,
    Request,
    Restore,
    Resume,
    Sealed,
    Stage,
    Start,
    Started,
)
from poold.errors import Problem
from poold.model.application import (
    Application,
    CheckpointSettings,
    ExecHook,
    HttpHook,
    HttpProbe,
    WarmupRequest,
)
from poold.model.fleet import Digest

R = TypeVar("R")
HELLO = Application(
    image="hello",
    port=8080,
    readiness=HttpProbe(path="/ready", deadline_seconds=20),
    warmup=(WarmupRequest("/", repeat=2),),
    after_restore=HttpHook("/wake"),
)


@dataclass
class Agent:
    """A host's agent, with what it reported and which actions it believes to be under way."""

    root: Path
    engine: MemoryEngine
    fleet: str = "test"
    running: set[str] = field(default_factory=set)
    progress: list[str] = field(default_factory=list)
    number: int = 0
    asked: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.actions = Actions(
            self.root, self.root / "run", self.engine, lambda: tuple(self.running)
        )

    async def do(self, request: Request[R]) -> R:
        self.number += 1
        action = f"action{self.number:06}"
        self.asked.add(action)
        self.running.add(action)
        try:
            return await self.actions.handle(request, action=action, report=self._note)
        finally:
            self.running.discard(action)

    def _note(self, progress: Progress) -> None:
        self.progress.append(progress.text)

    def placement(self, name: str) -> Placement:
        return Placement(self.fleet, "hello", name, "127.0.0.1", "24900-24999")

    async def build(self, application: Application = HELLO) -> Sealed:
        return await self.do(Build(self.placement("hello"), application))

    async def restore(self, name: str, digest: Digest, application: Application = HELLO) -> Started:
        return await self.do(Restore(self.placement(name), application, digest))

    async def see(self, name: str) -> ContainerFact:
        seen = await self.do(Observe(self.fleet, names=(name,)))
        return next(fact for fact in seen.containers if fact.name == name)

    async def names(self) -> set[str]:
        return {container.name for container in await self.engine.containers()}

    def files(self, below: str) -> set[str]:
        return {path.name for path in (self.root / below).iterdir()}

    async def foreign(self, name: str) -> str:
        """Let somebody else start a container."""
        port = (Published(8080, 24899, "127.0.0.1"),)
        return await self.engine.run(Launch(name, HELLO, {}, self.root, port, self.root))


async def get(replica: Started, path: str = "/") -> str:
    host, _, port = replica.address.rpartition(":")
    return (
        await http.request(Target(host, int(port)), "GET", path, timeout_seconds=10)
    ).body.decode()


async def refusal(asked: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        await asked
    return caught.value


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Callable[..., Agent]]:
    """Make agents with faults; their containers end with the test."""
    made: list[MemoryEngine] = []

    def agent(*faults: Fault, name: str = "a", images: dict[str, str] | None = None) -> Agent:
        engine = MemoryEngine(faults, images=images, storage=tmp_path)
        made.append(engine)
        return Agent(tmp_path / name, engine)

    yield agent
    for engine in made:
        await engine.close()


async def test_replicas_of_one_generation_count_each_for_itself(make: Callable[..., Agent]) -> None:
    """Built once, restored under three names at once, on ports of their own, ready and recorded."""
    agent = make()
    sealed = await agent.build()
    assert await agent.names() == set()
    assert sealed.manifest.digest() == sealed.digest
    assert sealed.manifest.readiness == "GET /ready on port 8080 answers 200 to 399"
    replicas = await asyncio.gather(*(agent.restore(f"hello{n}", sealed.digest) for n in (1, 2, 3)))
    assert [[await get(replica) for _ in range(2)] for replica in replicas] == [["2\n", "3\n"]] * 3
    assert len({replica.address for replica in replicas}) == 3
    assert len({await get(replica, "/seed") for replica in replicas}) == 3
    assert list(replicas[0].phases) == ["restore", "hook", "ready"]
    assert replicas[0].seconds == pytest.approx(sum(replicas[0].phases.values()), abs=0.001)
    fact = await agent.see("hello2")
    assert (fact.role, fact.ready, fact.digest, fact.build) == (
        "replica", True, sealed.digest, sealed.manifest.build,
    )  # fmt: skip


async def test_a_build_tells_its_steps(make: Callable[..., Agent]) -> None:
    """Whoever waits sees which step it is at."""
    agent = make()
    await agent.build(replace(HELLO, before_checkpoint=ExecHook(("true",))))
    steps = [text.split(" after ")[0].split(" 0 ")[0] for text in agent.progress]
    assert [step for step in steps if not step.startswith("waiting")] == [
        "starting cold", "ready", "warming 1/2", "warming 2/2",
        "calling the before_checkpoint hook", "checkpointing", "compressing", "sealing", "proving",
    ]  # fmt: skip


async def test_other_ways_are_measured_and_leave_nothing(make: Callable[..., Agent]) -> None:
    """Cold and from the staged archive, several at once; a listing meanwhile leaves them alone."""
    agent = make()
    sealed = await agent.build()

    async def measured(way: Any, burst: int) -> Measured:
        placement = agent.placement("hello")
        asked = Measure(way, placement, HELLO, sealed.digest, burst=burst)
        under_way = asyncio.ensure_future(agent.do(asked))
        seen: set[str] = set()
        while not under_way.done():
            listed = await agent.do(Observe(agent.fleet))
            seen |= {fact.build for fact in listed.containers}
            await asyncio.sleep(0.002)  # the memory engine's listing gives nobody else a turn
        answer = await under_way
        assert seen
        assert seen <= agent.asked
        return answer

    cold, restored = await measured("cold", 1), await measured("podman", 3)
    assert [list(one.phases) for one in cold.took] == [["create", "ready"]]
    assert [list(one.phases) for one in restored.took] == [["restore", "ready"]] * 3
    assert restored.archive_bytes == sealed.manifest.archive_bytes
    assert await agent.names() == set()
    assert agent.files("work") == set()


async def test_a_way_that_fails_leaves_nothing_either(make: Callable[..., Agent]) -> None:
    """One of three is refused: the others go, and the failure is told."""
    agent = make(Fault("restore", "poold-proof-*-2"))
    sealed = await agent.build()
    problem = await refusal(
        agent.do(Measure("podman", agent.placement("hello"), HELLO, sealed.digest, burst=3))
    )
    assert problem.message.startswith("cannot")
    assert await agent.names() == set()


@pytest.mark.parametrize(
    ("way", "burst", "code"),
    [
        ("article", 1, "bench.not-prepared"),
        ("cold", 0, "bench.bad-burst"),
        ("cold", 65, "bench.bad-burst"),
    ],
)  # fmt: skip
async def test_what_cannot_be_measured_is_refused(
    make: Callable[..., Agent], way: Any, burst: int, code: str
) -> None:
    """The article's archive is made first; a burst has bounds."""
    agent = make()
    asked = Measure(way, agent.placement("hello"), HELLO, Digest("sha256:" + "0" * 64), burst=burst)
    assert (await refusal(agent.do(asked))).code == code


BROKEN_BUILDS = {
    "cold start": (Fault("run", "poold-build-*"), HELLO, "criu.run-failed"),
    "dead": (Fault("run", "poold-build-*", "exit"), HELLO, "replica.exited"),
    "checkpoint": (Fault("checkpoint"), HELLO, "criu.checkpoint-failed"),
    "proof": (Fault("restore", "poold-proof-*"), HELLO, "criu.restore-failed"),
    "dead proof": (Fault("restore", "poold-proof-*", "exit"), HELLO, None),
    "warm-up": (Fault("none"), replace(HELLO, warmup=(WarmupRequest("/fail"),)), "warmup.failed"),
    "hook": (
        Fault("none"), replace(HELLO, before_checkpoint=ExecHook(("false",))), "hook.failed",
    ),
    "never ready": (
        Fault("none"), replace(HELLO, readiness=HttpProbe(path="/fail", deadline_seconds=0.1)),
        "probe.deadline",
    ),
}  # fmt: skip


@pytest.mark.parametrize("step", BROKEN_BUILDS)
async def test_a_build_that_fails_at_any_step_leaves_nothing(
    step: str, make: Callable[..., Agent]
) -> None:
    """No container, no scratch file, no generation, and the reason is said."""
    fault, application, code = BROKEN_BUILDS[step]
    agent = make(fault)
    problem = await refusal(agent.build(application))
    assert code in (problem.code, None)
    assert problem.message.startswith("cannot ")
    assert await agent.names() == set()
    assert agent.files("generations") == agent.files("work") == agent.files("replicas") == set()


@pytest.mark.parametrize("step", ["run", "checkpoint", "restore"])
async def test_a_build_cancelled_at_any_step_leaves_nothing(
    step: str, make: Callable[..., Agent]
) -> None:
    """Cancelling undoes, then goes on."""
    agent = make(Fault(step, kind="hang"))
    building = asyncio.ensure_future(agent.build())
    steps = {"run": "starting cold", "checkpoint": "checkpointing", "restore": "proving"}
    while steps[step] not in agent.progress:  # noqa: ASYNC110 - progress is a list here
        await asyncio.sleep(0.005)
    building.cancel()
    with pytest.raises(asyncio.CancelledError):
        await building
    assert await agent.names() == set()
    assert agent.files("generations") == agent.files("work") == set()


async def test_a_failed_restore_leaves_nothing_and_can_be_repeated(
    make: Callable[..., Agent],
) -> None:
    """The port is free again, the name too."""
    agent = make(Fault("restore", "hello1", "exit", times=1), Fault("restore", "hello1", times=1))
    sealed = await agent.build()
    assert (await refusal(agent.restore("hello1", sealed.digest))).code in (
        "hook.failed", "replica.exited",
    )  # fmt: skip
    assert (await refusal(agent.restore("hello1", sealed.digest))).code == "criu.restore-failed"
    assert await agent.names() == agent.files("replicas") == set()
    assert (await agent.restore("hello1", sealed.digest)).address == "127.0.0.1:24900"


async def test_a_port_where_nothing_answered_is_not_tried_first_again(
    make: Callable[..., Agent],
) -> None:
    """A rule left by a killed podman may lead it nowhere; the last one is taken all the same."""
    agent = make(Fault("run", "hello1", "mute", times=2))
    hurried = replace(HELLO, readiness=HttpProbe(path="/ready", deadline_seconds=0.2))
    two = replace(agent.placement("hello1"), publish_ports="24950-24951")
    for _ in range(2):
        assert (await refusal(agent.do(Start(two, hurried)))).code == "probe.deadline"
    assert (await agent.do(Start(two, HELLO))).address == "127.0.0.1:24950"
    agent = make(Fault("run", "hello2", "mute", times=1), name="b")
    other = replace(two, name="hello2", publish_ports="24960-24961")
    assert (await refusal(agent.do(Start(other, hurried)))).code == "probe.deadline"
    assert (await agent.do(Start(other, HELLO))).address == "127.0.0.1:24961"


async def test_asking_again_for_a_ready_replica_changes_nothing(make: Callable[..., Agent]) -> None:
    """The record answers; another generation under a living name is refused."""
    agent = make()
    sealed = await agent.build()
    first = await agent.restore("hello1", sealed.digest)
    assert await agent.restore("hello1", sealed.digest) == first
    assert await agent.do(Start(agent.placement("hello1"), HELLO)) == first
    other = (await agent.build()).digest
    assert (await refusal(agent.restore("hello1", other))).code == "replica.already-runs"


async def test_the_dead_make_way(make: Callable[..., Agent]) -> None:
    """A replica that ended, or was never recorded ready, is replaced under its name."""
    agent = make()
    sealed = await agent.build()
    first = await agent.restore("hello1", sealed.digest)
    (agent.root / "replicas/hello1.json").unlink()
    assert not (await agent.see("hello1")).ready
    second = await agent.restore("hello1", sealed.digest)
    assert first.container_id != second.container_id
    assert await agent.names() == {"hello1"}


async def test_somebody_elses_container_is_refused_and_untouched(
    make: Callable[..., Agent],
) -> None:
    """Neither replaced nor removed nor read, and only listed where its name is asked for."""
    agent = make()
    sealed = await agent.build()
    theirs = await agent.foreign("hello1")
    mine = agent.placement("hello1")
    requests: list[Request[Any]] = [
        Start(mine, HELLO),
        Restore(mine, HELLO, sealed.digest),
        Remove(agent.fleet, "hello1"),
        Logs(agent.fleet, "hello1"),
        Capture(agent.fleet, "hello", "hello1", HELLO),
        Resume(mine, HELLO),
    ]
    for request in requests:
        assert (await refusal(agent.do(request))).code == "replica.foreign-name"
    assert (await agent.see("hello1")).role == "foreign"
    assert (await agent.do(Observe(agent.fleet))).containers == ()
    found = await agent.engine.find("hello1")
    assert found is not None
    assert (found.container_id, found.running) == (theirs, True)


async def test_remove_spares_a_namesake_with_another_id(make: Callable[..., Agent]) -> None:
    """With a container id, only that very container is removed."""
    agent = make()
    await agent.do(Start(agent.placement("hello1"), HELLO))
    gone = Remove(agent.fleet, "hello1", container_id="0" * 64)
    assert not (await agent.do(gone)).changed
    assert (await agent.see("hello1")).ready


async def test_a_captured_replica_is_frozen_and_goes_on(make: Callable[..., Agent]) -> None:
    """It is listed as captured, cannot be started over, and counts on when it is thawed."""
    agent = make()
    first = await agent.do(Start(agent.placement("hello1"), HELLO))
    assert await get(first) == "0\n"
    capture = Capture(agent.fleet, "hello", "hello1", HELLO)
    sealed = await agent.do(capture)
    assert sealed.manifest.packed_bytes < sealed.manifest.archive_bytes
    assert (await agent.do(capture)).digest == sealed.digest, "frozen already"
    fact = await agent.see("hello1")
    assert (fact.role, fact.ready) == ("captured", False)
    start = Start(agent.placement("hello1"), HELLO)
    assert (await refusal(agent.do(start))).code == "replica.captured"
    resumed = await agent.do(Resume(agent.placement("hello1"), HELLO))
    assert resumed.address == first.address
    assert await get(resumed) == "1\n"
    assert await agent.do(Resume(agent.placement("hello1"), HELLO)) == first
    assert (await agent.see("hello1")).ready


@pytest.mark.parametrize("fault", [Fault("checkpoint"), Fault("checkpoint", kind="hang")])
async def test_a_capture_that_fails_lets_the_replica_run_on(
    fault: Fault, make: Callable[..., Agent]
) -> None:
    """Refused or out of time: it is running, ready, and nothing is kept of the attempt."""
    agent = make(fault)
    first = await agent.do(Start(agent.placement("hello1"), HELLO))
    settings = CheckpointSettings(timeout_seconds=0.1)
    hurried = replace(HELLO, checkpoint=settings)
    await refusal(agent.do(Capture(agent.fleet, "hello", "hello1", hurried)))
    assert (await agent.see("hello1")).ready
    assert await get(first) == "0\n"
    assert agent.files("generations") == agent.files("work") == set()


async def fail_to_seal(agent: Agent, name: str) -> None:
    """Capture a replica whose seal cannot be written."""
    folder = agent.root / "generations"
    shutil.rmtree(folder)
    folder.write_text("in the way")
    problem = await refusal(agent.do(Capture(agent.fleet, "hello", name, HELLO)))
    assert problem.code == "host.file-trouble"
    folder.unlink()
    folder.mkdir()


async def test_a_capture_that_fails_after_freezing_is_thawed(make: Callable[..., Agent]) -> None:
    """A seal that cannot be written must not cost the replica, which is proven before it counts."""
    agent = make()
    first = await agent.do(Start(agent.placement("hello1"), HELLO))
    await fail_to_seal(agent, "hello1")
    assert await get(first) == "0\n"
    fact = await agent.see("hello1")
    assert (fact.role, fact.running, fact.ready) == ("captured", True, False)
    assert (await agent.do(Resume(agent.placement("hello1"), HELLO))).address == first.address
    assert (await agent.see("hello1")).ready
    assert not json.loads((agent.root / "replicas/hello1.json").read_text())["frozen"]


async def test_one_thawed_by_a_failed_capture_is_not_ready_until_it_answers(
    make: Callable[..., Agent],
) -> None:
    """It runs and says nothing: neither listing nor resuming nor starting it calls it ready."""
    agent = make(Fault("thaw", kind="mute"))
    await agent.do(Start(agent.placement("hello1"), HELLO))
    await fail_to_seal(agent, "hello1")
    hurried = replace(HELLO, readiness=HttpProbe(path="/ready", deadline_seconds=0.1))
    resume = Resume(agent.placement("hello1"), hurried)
    for _ in range(2):
        assert (await refusal(agent.do(resume))).code == "probe.deadline"
        fact = await agent.see("hello1")
        assert (fact.role, fact.running, fact.ready) == ("captured", True, False)
    start = Start(agent.placement("hello1"), hurried)
    assert (await refusal(agent.do(start))).code == "replica.captured"


async def test_an_open_connection_is_waited_for_then_named(make: Callable[..., Agent]) -> None:
    """Quiesce ends when the client goes; with a client that stays, it says who."""
    agent = make()
    replica = await agent.do(Start(agent.placement("hello1"), HELLO))
    host, _, port = replica.address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    peer = writer.get_extra_info("sockname")
    try:
        settings = CheckpointSettings(quiesce_deadline_seconds=0.1)
        capture = Capture(agent.fleet, "hello", "hello1", replace(HELLO, checkpoint=settings))
        problem = await refusal(agent.do(capture))
        assert problem.code == "checkpoint.sockets-not-quiet"
        assert f"{peer[0]}:{peer[1]}" in problem.message
        patient = Capture(agent.fleet, "hello", "hello1", HELLO)
        capturing = asyncio.ensure_future(agent.do(patient))
        while "waiting for 1 connection to close" not in agent.progress:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    finally:
        writer.close()
        await writer.wait_closed()
    await capturing


async def test_observe_sweeps_what_no_action_owns(make: Callable[..., Agent]) -> None:
    """Dead builds go, living ones stay; records and scratch folders alike."""
    agent = make()
    replica = await agent.do(Start(agent.placement("hello1"), HELLO))
    labels = {"io.poold.fleet": agent.fleet, "io.poold.pool": "hello"}
    for number, action in enumerate(("dead", "alive")):
        port = (Published(8080, 24890 + number, "127.0.0.1"),)
        named = {**labels, "io.poold.build": action}
        launch = Launch(f"poold-build-{action}", HELLO, named, agent.root, port, agent.root)
        await agent.engine.run(launch)
        (agent.root / "work" / action).mkdir()
    agent.running.add("alive")
    await agent.engine.remove(replica.container_id, stop_timeout_seconds=0)
    seen = await agent.do(Observe(agent.fleet))
    assert [(fact.name, fact.role) for fact in seen.containers] == [("poold-build-alive", "build")]
    assert agent.files("work") == {"alive"}
    assert agent.files("replicas") == set()
    assert "alive" in seen.running_actions
    assert seen.facts["engine"] == "memory 1"
    assert seen.memory_free_bytes > 0


async def test_what_cannot_be_swept_up_does_not_hide_the_host(make: Callable[..., Agent]) -> None:
    """A dead build that the engine cannot remove is listed, and goes with a later look."""
    agent = make(Fault("remove", "poold-build-*", times=1))
    labels = {"io.poold.fleet": agent.fleet, "io.poold.build": "dead"}
    port = (Published(8080, 24890, "127.0.0.1"),)
    await agent.engine.run(Launch("poold-build-dead", HELLO, labels, agent.root, port, agent.root))
    seen = await agent.do(Observe(agent.fleet))
    assert [(fact.name, fact.role) for fact in seen.containers] == [("poold-build-dead", "build")]
    assert (await agent.do(Observe(agent.fleet))).containers == ()


async def test_a_generation_travels_and_is_verified_where_it_arrives(
    make: Callable[..., Agent],
) -> None:
    """Packed, sent, staged, restored; damaged on the way, it is refused and asked for again."""
    here, there = make(name="a"), make(name="b")
    sealed = await here.build()
    source, target = (agent.root / "generations" / sealed.digest[7:] for agent in (here, there))
    target.mkdir()
    problem = await refusal(there.do(Stage(sealed.digest)))
    assert problem.code == "generation.not-received"
    shutil.copy(source / "manifest.json", target)
    packed = bytearray((source / "archive.tar.zst").read_bytes())
    packed[-1] ^= 1
    (target / "archive.tar.zst").write_bytes(packed)
    assert (await refusal(there.do(Stage(sealed.digest)))).code == "generation.damaged"
    # Without its manifest it is not listed as held, so that it is fetched from another host.
    assert list(target.iterdir()) == []
    shutil.copy(source / "archive.tar.zst", target)
    shutil.copy(source / "manifest.json", target)
    assert (await refusal(there.restore("hello1", sealed.digest))).code == "generation.not-staged"
    assert (await there.do(Stage(sealed.digest))).changed
    assert not (await there.do(Stage(sealed.digest))).changed
    assert await get(await there.restore("hello1", sealed.digest)) == "2\n"
    assert (await there.do(Discard(sealed.digest))).changed
    assert not (await there.do(Discard(sealed.digest))).changed
    assert there.files("generations") == set()


async def test_a_swapped_manifest_is_refused(make: Callable[..., Agent]) -> None:
    """A generation is what its digest says, however well-formed another manifest is."""
    here, there = make(name="a"), make(name="b")
    sealed, other = await here.build(), await here.build()
    target = there.root / "generations" / sealed.digest[7:]
    shutil.copytree(here.root / "generations" / other.digest[7:], target)
    (target / "staged.json").unlink()
    assert (await refusal(there.do(Stage(sealed.digest)))).code == "generation.damaged"
    assert not (target / "manifest.json").exists()


async def test_a_manifest_that_is_sent_again_costs_nothing(make: Callable[..., Agent]) -> None:
    """The archive is not read anew for it; another manifest in its place is still refused."""
    agent = make()
    sealed, other = await agent.build(), await agent.build()
    folder, others = (agent.root / "generations" / each.digest[7:] for each in (sealed, other))
    before = (folder / "staged.json").stat().st_ino
    write_whole(folder / "manifest.json", sealed.manifest.canonical())
    assert not (await agent.do(Stage(sealed.digest))).changed
    await agent.restore("hello1", sealed.digest)
    assert (folder / "staged.json").stat().st_ino == before
    write_whole(folder / "manifest.json", (others / "manifest.json").read_bytes())
    assert (await refusal(agent.restore("hello2", sealed.digest))).code == "generation.damaged"


async def test_a_touched_archive_is_read_again_before_it_is_restored(
    make: Callable[..., Agent],
) -> None:
    """Same bytes with another time are fine; other bytes are not, even of the same length."""
    agent = make()
    sealed = await agent.build()
    archive = agent.root / "generations" / sealed.digest[7:] / "archive.tar"
    content = archive.read_bytes()
    archive.write_bytes(content)
    await agent.restore("hello1", sealed.digest)
    archive.write_bytes(content.replace(b"hello", b"hallo"))
    assert (await refusal(agent.restore("hello2", sealed.digest))).code == "generation.damaged"


async def test_images_travel_by_content(make: Callable[..., Agent]) -> None:
    """Exported once, loaded under the same id; another content under the name is refused."""
    here = make(images={"hello": "1" * 64}, name="a")
    there = make(images={}, name="b")
    assert (await there.do(FindImage("hello"))).image_id == ""
    exported = await here.do(ExportImage("hello"))
    assert exported.image_id == "1" * 64
    shutil.copy(here.root / exported.path, there.root / exported.path)
    import_ = ImportImage(exported.path, "hello", exported.image_id)
    assert (await there.do(import_)).image_id == exported.image_id
    assert there.files("images") == set()
    assert (await there.do(FindImage("hello", "sha256:" + "1" * 64))).image_id == "1" * 64
    assert (await there.do(FindImage("hello", "2" * 64))).image_id == ""
    shutil.copy(here.root / exported.path, there.root / exported.path)
    wrong = replace(import_, image_id="2" * 64)
    assert (await refusal(there.do(wrong))).code == "image.other-content"
    for path in ("../x.tar", "images/../x", "generations/x", "/etc/passwd"):
        escape = replace(import_, path=path, image_id="3" * 64)
        assert (await refusal(there.do(escape))).code == "image.bad-path"


async def test_an_image_whose_name_means_another_one_travels_by_its_id(
    make: Callable[..., Agent],
) -> None:
    """And leaves the name to what it means where it arrives."""
    old, new = "1" * 64, "2" * 64
    here, there = make(images={"hello": old}, name="a"), make(images={"hello": new}, name="b")
    exported = await here.do(ExportImage(old))
    shutil.copy(here.root / exported.path, there.root / exported.path)
    assert (await there.do(ImportImage(exported.path, "hello", old))).image_id == old
    assert (await there.do(FindImage("hello"))).image_id == new
    assert (await there.do(FindImage("hello", old))).image_id == old


async def test_a_cold_start_is_of_the_image_that_is_asked_for(make: Callable[..., Agent]) -> None:
    """By its id, whatever its name means by now; what is gone is not replaced by another one."""
    old, new = "1" * 64, "2" * 64
    agent = make(images={"hello": old})
    assert (await agent.do(Observe("test", images=("hello", "none")))).images == {
        "hello": old, "none": "",
    }  # fmt: skip
    await agent.engine.name_image(new, "hello")
    assert (await agent.do(Observe("test", images=("hello",)))).images == {"hello": new}
    for name, image_id, of in (("hello1", old, old), ("hello2", "", new)):
        await agent.do(Start(agent.placement(name), HELLO, image_id))
        found = await agent.engine.find(name)
        assert found is not None
        assert found.image_id == of
    sealed = await agent.do(Build(agent.placement("hello"), HELLO, f"sha256:{old}"))
    assert sealed.manifest.image_id == old
    start = Start(agent.placement("hello3"), HELLO, "3" * 64)
    assert (await refusal(agent.do(start))).code == "image.missing"
    assert await agent.names() == {"hello1", "hello2"}


async def test_names_that_would_leave_the_folders_are_refused(make: Callable[..., Agent]) -> None:
    """A name becomes a file's name; none may point elsewhere."""
    agent = make()
    for name in ("../up", ".hidden", "a/b", ""):
        assert (await refusal(agent.do(Start(agent.placement(name), HELLO)))).code == "name.bad"
    assert await agent.names() == set()


async def test_a_replica_that_cannot_be_recorded_is_not_kept(make: Callable[..., Agent]) -> None:
    """Without its record it would never count as ready."""
    agent = make()
    shutil.rmtree(agent.root / "replicas")
    problem = await refusal(agent.do(Start(agent.placement("hello1"), HELLO)))
    assert problem.code == "host.file-trouble"
    assert await agent.names() == set()


async def test_what_the_agent_writes_is_for_root_alone(make: Callable[..., Agent]) -> None:
    """A checkpoint is memory: folders 0700, files 0600."""
    agent = make()
    sealed = await agent.build()
    await agent.restore("hello1", sealed.digest)
    await agent.do(ExportImage("hello"))
    paths = [path for path in agent.root.rglob("*") if "run" not in path.parts]
    modes = {path: path.stat().st_mode & 0o777 for path in paths}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
