"""A fleet in memory: hosts that keep the agent's promises and misbehave on request."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from poold.agent.codec import decode
from poold.agent.messages import (
    BlobFacts,
    Build,
    Capture,
    ContainerFact,
    Discard,
    Done,
    Event,
    ExportImage,
    FindImage,
    GenerationFact,
    ImageFacts,
    Import,
    ImportImage,
    Observation,
    Observe,
    PrepareSpare,
    Progress,
    Remove,
    Request,
    Restore,
    Resume,
    Seal,
    Sealed,
    Stage,
    Start,
    Started,
    StatBlob,
)
from poold.agent.spares import spare_name
from poold.balancers.base import Balancer, Left, Server, Shown, ShownServer
from poold.checkpoints.seal import Sealer
from poold.config import Config, DaemonConfig
from poold.control import Control
from poold.cordon import Cordon
from poold.errors import Permanent, Problem, Refused, Temporary
from poold.model.application import Application
from poold.model.balancing import BalancerName
from poold.model.fleet import (
    ActionId,
    Change,
    Digest,
    Host,
    HostName,
    HostStatus,
    Manifest,
    Pool,
    PoolName,
    Replica,
)
from poold.reconcile.loop import Loop, Pauses
from poold.reconcile.world import World
from poold.rollout import Rollout
from poold.store import Store

A, B, C = HostName("a"), HostName("b"), HostName("c")
HELLO = PoolName("hello")
FRONT = BalancerName("front")
SEALER = Sealer(Ed25519PrivateKey.generate())
READING = {"observe", "find-image", "stat-blob"}


def unreachable(name: str) -> Temporary:
    return Temporary("host.unreachable", f"cannot reach {name}")


class FakeHost:
    """A HostLink with the agent's semantics: an action id is done once and remembered.

    `fail[verb]` lists problems for the next actions of that verb; `lose[verb]` counts replies that
    get lost after the deed; `hold[verb]` is waited for before the deed.
    """

    def __init__(self, name: HostName) -> None:
        self.name = name
        self.up = True
        self.reached = asyncio.Event()  # cleared: the first connection is on its way
        self.reached.set()
        self.boot = 1
        self.images = {"hello:1": "sha256:image"}
        self.unnamed: set[str] = set()  # content ids that no name means any more
        self.started_of: dict[str, str] = {}  # the image id of cold starts, by name
        self.containers: dict[str, ContainerFact] = {}
        self.counters: dict[str, int] = {}  # container id -> the application's memory
        self.blobs: dict[str, bytes] = {}
        self.staged: set[Digest] = set()
        self.journal: dict[str, Any] = {}
        self.running: dict[str, asyncio.Task[Any]] = {}
        self.did: list[tuple[str, str]] = []  # deeds, not questions
        self.asked: list[tuple[str, str]] = []  # (verb, action id) of every request
        self.fail: dict[str, list[Problem]] = {}
        self.started_with: dict[str, Application] = {}  # cold starts and captures, by name
        self.lose: Counter[str] = Counter()
        self.hold: dict[str, asyncio.Event] = {}
        self.facts: dict[str, str] = {}  # as listings tell them
        self.made = 0
        self.stopping: Callable[[ContainerFact], None] = lambda _: None  # told before it is

    # -- the link ---------------------------------------------------------------------------------

    @property
    def status(self) -> HostStatus:
        if not self.up:
            return HostStatus(self.name, "unknown", reason=f"{self.name} is cut off")
        if not self.reached.is_set():
            return HostStatus(self.name, "connecting")
        return HostStatus(self.name, "up", boot_id=f"{self.name}-{self.boot}")

    async def open(self) -> None: ...

    async def close(self) -> None:
        for task in self.running.values():
            task.cancel()
        await asyncio.gather(*self.running.values(), return_exceptions=True)
        self.running.clear()  # one that was cancelled before it began did not leave by itself

    def listen(self, heard: Callable[[Event], None]) -> None:
        self.tell = heard

    async def wait_up(self, timeout_seconds: float) -> None:
        if not self.up:
            raise unreachable(self.name)
        await self.reached.wait()

    async def call(
        self,
        request: Request[Any],
        *,
        action: ActionId,
        deadline_seconds: float,
        progress: Callable[[Progress], None] | None = None,
    ) -> Any:
        if not self.up:
            raise unreachable(self.name)
        self.asked.append((request.verb, action))
        if request.verb in READING:
            self._maybe_fail(request.verb)
            return self._read(request)
        if action not in self.journal:
            if action not in self.running:
                self.running[action] = asyncio.create_task(self._act(request, action))
            if progress is not None:
                progress(Progress(f"{request.verb} begun", 1, 2))
            await asyncio.shield(self.running[action])
        if not self.up:
            raise unreachable(self.name)
        if self.lose[request.verb] > 0:
            self.lose[request.verb] -= 1
            raise unreachable(self.name)
        outcome = self.journal[action]
        if isinstance(outcome, Problem):
            raise outcome
        return outcome

    async def _act(self, request: Request[Any], action: str) -> None:
        if request.verb in self.hold:
            await self.hold[request.verb].wait()
        try:
            self._maybe_fail(request.verb)
            self.journal[action] = self._do(request, action)
        except Problem as problem:
            self.journal[action] = problem
        finally:
            self.running.pop(action, None)

    def _maybe_fail(self, verb: str) -> None:
        if self.fail.get(verb):
            raise self.fail[verb].pop(0)

    def reboot(self) -> None:
        self.boot += 1
        self.containers.clear()
        self.journal.clear()

    # -- the agent --------------------------------------------------------------------------------

    def _read(self, request: Request[Any]) -> Any:
        match request:
            case Observe():
                return Observation(
                    facts=dict(self.facts),
                    boot_id=f"{self.name}-{self.boot}",
                    now=0.0,
                    containers=tuple(
                        c for c in self.containers.values() if c.ours or c.name in request.names
                    ),
                    generations=tuple(
                        GenerationFact(d, HELLO, d in self.staged, 1, self._seal_of(d))
                        for d in self._held()
                    ),
                    running_actions=tuple(self.running),
                    images={name: self.images.get(name, "") for name in request.images},
                )
            case FindImage():
                found = self.images.get(request.image, "")
                if request.image_id and self._has(request.image_id):
                    found = request.image_id
                return ImageFacts(found if request.image_id in ("", found) else "")
            case StatBlob():
                data = self.blobs.get(request.path)
                return BlobFacts(data is not None, len(data or b""))
        raise AssertionError(request)

    def _seal_of(self, digest: Digest) -> Seal | None:
        data = self.blobs.get(f"generations/{digest[7:]}/seal.json")
        return decode(Seal, json.loads(data)) if data is not None else None

    def _held(self) -> list[Digest]:
        manifests = [p for p in self.blobs if p.endswith("/manifest.json")]
        return [Digest(f"sha256:{p.split('/')[1]}") for p in sorted(manifests)]

    def _do(self, request: Request[Any], action: str) -> Any:
        match request:
            case Start():
                self.did.append(("start", request.placement.name))
                self.started_with[request.placement.name] = request.application
                self.started_of[request.placement.name] = self._image_of(request)
                return self._run(request.placement.name, request.placement.pool, "cold", "", 0)
            case Restore():
                return self._claim(request) or self._restore(request)
            case PrepareSpare():
                return self._prepare(request, action)
            case Remove():
                return self._remove(request)
            case Build():
                self.did.append(("build", request.placement.pool))
                of = self._image_of(request)
                return self._seal(
                    request.application, action, counter=1, cold_seconds=5.0, image_id=of
                )
            case Import():
                self.did.append(("import", request.file))
                if request.file == "/bad":
                    raise Refused("import.bad-archive", "cannot import the archive: it is rubbish")
                if request.file == "/full" and len(self.did) == 1:
                    raise Temporary("host.disk-full", "cannot import: the disk is full")
                return self._seal(request.application, action, counter=7, cold_seconds=0.0)
            case Capture():
                return self._capture(request, action)
            case Resume():
                return self._resume(request)
            case Stage():
                if request.digest not in self._held():
                    raise Permanent("generation.not-received", "cannot stage: nothing arrived")
                self.did.append(("stage", request.digest))
                self.staged.add(request.digest)
                return Done()
            case Discard():
                self.did.append(("discard", request.digest))
                self.staged.discard(request.digest)
                folder = f"generations/{request.digest[7:]}/"
                self.blobs = {p: d for p, d in self.blobs.items() if not p.startswith(folder)}
                return Done()
            case ExportImage():
                found = self.images.get(request.image, f"sha256:{request.image}")
                data = found.encode()
                self.blobs["images/hello.tar"] = data
                digest = hashlib.sha256(data).hexdigest()
                return ImageFacts(found, "images/hello.tar", len(data), digest)
            case ImportImage():
                self.did.append(("import-image", request.image))
                arrived = self.blobs.pop(request.path).decode()
                self.unnamed.add(arrived)
                self.images.setdefault(request.image, arrived)
                return ImageFacts(arrived)
        raise AssertionError(request)

    def retag(self, image_id: str, name: str = "hello:1") -> None:
        """Build another image under the same name, as an operator would."""
        self.unnamed.add(self.images[name])
        self.images[name] = image_id

    def _has(self, image_id: str) -> bool:
        held = {*self.images.values(), *self.unnamed}
        return image_id.removeprefix("sha256:") in {each.removeprefix("sha256:") for each in held}

    def _image_of(self, request: Start | Build) -> str:
        if not request.image_id:
            return self.images[request.application.image]
        if not self._has(request.image_id):
            raise Permanent("image.missing", f"cannot start of the image {request.image_id}")
        return f"sha256:{request.image_id.removeprefix('sha256:')}"

    def _restore(self, request: Restore) -> Started:
        if request.digest not in self.staged:
            raise Permanent("generation.not-staged", "cannot restore: not staged")
        folder = f"generations/{request.digest[7:]}"
        counter = int(self.blobs[f"{folder}/archive.tar.zst"].decode())
        name = request.placement.name
        self.did.append((request.method, name))
        return self._run(name, request.placement.pool, request.method, request.digest, counter)

    def _prepare(self, request: PrepareSpare, action: str) -> Started:
        name = spare_name(action)
        placement = replace(request.placement, name=name)
        made = self._restore(Restore(placement, request.application, request.digest))
        self.did[-1] = ("spare", name)
        self.containers[name] = replace(self.containers[name], role="spare")
        return made

    def _claim(self, request: Restore) -> Started | None:
        fact = self.containers.get(request.spare)
        if fact is None or not fact.ready or fact.digest != request.digest:
            self.containers.pop(request.spare, None)
            return None
        name = request.placement.name
        assert name not in self.containers, f"{name} is there twice"
        self.did.append(("claim", name))
        del self.containers[request.spare]
        self.containers[name] = replace(fact, name=name, role="replica", method="spare")
        return Started(
            name, fact.container_id, fact.address, "spare", 0.02, {"thaw": 0.02}, 1.0, request.spare
        )

    def _run(self, name: str, pool: str, method: Any, digest: str, counter: int) -> Started:
        known = self.containers.get(name)
        if known is not None and not known.ours:
            raise Refused("container.foreign", f"cannot use the name {name}: it is somebody else's")
        assert known is None, f"{name} is there twice"
        self.made += 1
        container_id = f"{self.name}{self.made}"
        self.counters[container_id] = counter
        fact = ContainerFact(
            name=name,
            container_id=container_id,
            ours=True,
            pool=pool,
            role="replica",
            running=True,
            status="running",
            digest=digest,
            method=method,
            address=f"{self.name}:{20000 + self.made}",
            started_at=1.0,
            ready=True,
        )
        self.containers[name] = fact
        return Started(name, container_id, fact.address, method, 0.1, {"restore": 0.1}, 1.0)

    def _remove(self, request: Remove) -> Done:
        known = self.containers.get(request.name)
        if known is None or request.container_id not in ("", known.container_id):
            return Done(changed=False)
        if not known.ours:
            raise Refused("container.foreign", f"cannot remove {request.name}: it is foreign")
        self.did.append(("remove", request.name))
        self.stopping(known)
        del self.containers[request.name]
        return Done()

    def _capture(self, request: Capture, action: str) -> Sealed:
        fact = self.containers.get(request.name)
        if fact is None or not fact.running:
            raise Refused(
                "replica.not-running", f"cannot capture {request.name}: it is not running"
            )
        self.did.append(("capture", request.name))
        self.stopping(fact)
        self.started_with[request.name] = request.application
        self.containers[request.name] = replace(
            fact, role="captured", running=False, ready=False, status="exited"
        )
        counter = self.counters[fact.container_id]
        return self._seal(request.application, action, counter=counter, cold_seconds=0.0)

    def _resume(self, request: Resume) -> Started:
        name = request.placement.name
        fact = self.containers.get(name)
        if fact is None or not (fact.running or fact.role == "captured"):
            raise Refused("replica.not-captured", f"cannot resume {name}: it is not frozen here")
        if fact.role == "captured":
            self.did.append(("resume", name))
        self.containers[name] = replace(
            fact, role="replica", running=True, ready=True, status="running"
        )
        return Started(name, fact.container_id, fact.address, "move", 0.1, {}, 1.0)

    def _seal(
        self,
        application: Application,
        action: str,
        *,
        counter: int,
        cold_seconds: float,
        image_id: str = "",
    ) -> Sealed:
        data = str(counter).encode()
        digest = hashlib.sha256(data).hexdigest()
        manifest = Manifest(
            pool=HELLO,
            build=ActionId(action),
            fingerprint=application.fingerprint(),
            image=application.image,
            image_id=image_id or self.images[application.image],
            archive_sha256=digest,
            archive_bytes=len(data),
            packed_sha256=digest,
            packed_bytes=len(data),
            engine="fake",
            runtime=self.facts.get("runtime", "fake"),
            criu=self.facts.get("criu", "fake"),
            kernel=self.facts.get("kernel", "fake"),
            machine=self.facts.get("machine", "x86_64"),
            cpu_flags=tuple(self.facts.get("cpu_flags", "").split()),
            created_at=0.0,
            phases={"quiesce": 0.5, "checkpoint": 0.25},
            cold_seconds=cold_seconds,
        )
        sealed = Sealed(manifest.digest(), manifest)
        folder = f"generations/{sealed.digest[7:]}"
        text = json.dumps(asdict(manifest), sort_keys=True, separators=(",", ":"))
        self.blobs[f"{folder}/manifest.json"] = text.encode()
        self.blobs[f"{folder}/archive.tar.zst"] = data
        self.staged.add(sealed.digest)
        return sealed

    # -- files ------------------------------------------------------------------------------------

    async def read_blob(self, path: str, offset: int = 0) -> AsyncIterator[bytes]:
        if not self.up:
            raise unreachable(self.name)
        yield self.blobs[path][offset:]

    async def write_blob(
        self, path: str, *, size: int, sha256: str, offset: int, chunks: AsyncIterator[bytes]
    ) -> None:
        self._maybe_fail("write-blob")
        if not self.up:
            raise unreachable(self.name)
        data = b"".join([chunk async for chunk in chunks])
        assert len(data) == size
        assert hashlib.sha256(data).hexdigest() == sha256
        self.blobs[path] = data

    # -- for tests --------------------------------------------------------------------------------

    def run_by_hand(self, name: str, *, ours: bool, ready: bool = True) -> ContainerFact:
        """Put a container there that this daemon did not start."""
        self._run(name, HELLO if ours else "", "restore", "", 7)
        fact = replace(
            self.containers[name],
            ours=ours,
            ready=ready,
            running=ready,
            role="replica" if ours else "foreign",
            status="running" if ready else "exited",
        )
        self.containers[name] = fact
        return fact

    def kill(self, name: str) -> None:
        """Let a container die by itself."""
        self.containers[name] = replace(
            self.containers[name], running=False, ready=False, status="exited"
        )


@dataclass
class Events:
    """A Recorder that remembers."""

    told: list[tuple[Any, ...]] = field(default_factory=list)

    def replica_started(self, pool: PoolName, **fields: Any) -> None:
        self.told.append(("started", fields["method"], fields["outcome"]))

    def replica_moved(self, pool: PoolName, **fields: Any) -> None:
        self.told.append(("moved", fields["outcome"]))

    def checkpoint_built(self, pool: PoolName, **fields: Any) -> None:
        self.told.append(("built", fields["outcome"]))

    def fell_back(self, pool: PoolName, step: Any) -> None:
        self.told.append(("fell back", step))

    def drained(self, pool: PoolName, *, seconds: float, sessions_cut: int) -> None:
        self.told.append(("drained", sessions_cut))

    def change_ended(self, pool: PoolName, kind: Any, outcome: Any) -> None:
        self.told.append(("change", kind, outcome))

    def action_ended(self, host: HostName, action: str, outcome: Any) -> None: ...

    def transferred(self, kind: Any, host: HostName, size_bytes: int) -> None:
        self.told.append(("sent", kind, host, size_bytes))


class FakeFront:
    """A balancer whose servers keep their sessions until a test ends them."""

    name = FRONT

    def __init__(self) -> None:
        self.up = True
        self.entries: dict[str, Server] = {}
        self.sessions: Counter[str] = Counter()
        self.published: list[tuple[str, ...]] = []
        self.cut: Counter[str] = Counter()  # what it says that a deadline ended
        self.process = "1"

    async def identity(self) -> str:
        return self.process

    async def publish(self, pool: Pool, servers: Collection[Server]) -> Shown:
        await asyncio.sleep(0)
        if not self.up:
            raise Temporary("balancer.unreachable", "cannot ask front: it is gone")
        wanted, left = {server.name: server for server in servers}, []
        self.published.append(tuple(sorted(wanted)))
        for name, entry in tuple(self.entries.items()):
            if wanted.get(name) != entry and not self.sessions[name]:
                del self.entries[name]
                left.append(
                    Left(
                        name=name,
                        address=entry.address,
                        port=entry.port,
                        seconds=1.0,
                        sessions_cut=self.cut.pop(name, 0),
                    )
                )
        self.entries.update({n: s for n, s in wanted.items() if n not in self.entries})
        return Shown(
            servers=tuple(
                ShownServer(
                    name=name,
                    address=entry.address,
                    port=entry.port,
                    state="up" if wanted.get(name) == entry else "draining",
                    weight=100,
                    leaving=wanted.get(name) != entry,
                    sessions=self.sessions[name],
                    queue=0,
                )
                for name, entry in self.entries.items()
            ),
            left=tuple(left),
        )

    def lists(self, fact: ContainerFact) -> bool:
        """Whether it would send a request to this container."""
        places = {f"{entry.address}:{entry.port}" for entry in self.entries.values()}
        return fact.address in places


class Fleet:
    """A daemon's deciding parts over fake hosts, with a clock that only tests move."""

    def __init__(self, state_dir: Path, *, replicas: int = 0, hosts: tuple[HostName, ...] = (A, B)):
        self.state_dir = state_dir
        self.now = 1000.0
        self.hosts = {name: FakeHost(name) for name in hosts}
        self.front = FakeFront()
        self.balancers: dict[BalancerName, Balancer] = {FRONT: self.front}
        self.events = Events()
        self.config = Config(
            daemon=DaemonConfig(fleet="test"),
            hosts={name: Host(name=name) for name in hosts},
            pools={
                HELLO: Pool(
                    name=HELLO,
                    application=Application(image="hello:1", port=8080),
                    hosts=hosts,
                    builder=A,
                    replica_name="hello{n}",
                    replicas=replicas,
                    max=8,
                )
            },
        )
        self.begin()

    def begin(self) -> None:
        """Start a daemon's life over what is in the store and on the hosts."""
        self.store = Store(self.state_dir, clock=lambda: self.now)
        self.world = World(
            links=self.hosts,
            clock=lambda: self.now,
            marks=self.store.hosts.all,
            quarantine=self.store.quarantine.all,
        )
        self.loop = Loop(
            store=self.store,
            world=self.world,
            links=self.hosts,
            config=lambda: self.config,
            recorder=self.events,
            clock=lambda: self.now,
            sealer=SEALER,
            balancers=self.balancers,
            pauses=Pauses(beat=0.01, look=0.005, list_again=0.01, ask_again=0.005, after_bug=0.005),
        )
        self.control = Control(store=self.store, world=self.world, config=lambda: self.config)
        self.cordon = Cordon(store=self.store, world=self.world, config=lambda: self.config)
        self.rollout = Rollout(store=self.store, world=self.world, config=lambda: self.config)

    async def end(self) -> None:
        """End the daemon's life as kill -9 does: nothing is folded any more."""
        await self.loop.close()
        self.store.close()

    async def restart(self) -> None:
        await self.end()
        self.begin()

    def __getitem__(self, name: HostName) -> FakeHost:
        return self.hosts[name]

    @property
    def pool(self) -> Pool:
        return self.config.pools[HELLO]

    def change_pool(self, **fields: Any) -> None:
        pool = replace(self.pool, **fields)
        self.config = replace(self.config, pools={**self.config.pools, HELLO: pool})

    async def look(self) -> None:
        """List every host that can be reached."""
        for name, host in self.hosts.items():
            if host.up:
                await self.loop.observe(name)

    async def step(self) -> Any:
        """Do one cycle and wait a moment for what it began."""
        await self.look()
        decided = await self.loop.cycle(HELLO)
        await self.loop.publish(HELLO)
        try:
            async with asyncio.timeout(0.05):
                await self.loop.drain()
        except TimeoutError:
            pass
        self.check()
        return decided

    async def settle(self, rounds: int = 200) -> None:
        """Go on until nothing is left to do, moving the clock where only that helps."""
        await self.step()
        if not await self._go_on(self._is_settled, rounds):
            pytest.fail(f"it does not settle: {self.world.sentence()}")
        await self.step()

    async def until(self, happened: Callable[[], bool], rounds: int = 100) -> None:
        """Go on until something happened."""
        if not await self._go_on(happened, rounds):
            pytest.fail(f"it does not happen: {self.world.sentence()}")

    async def _go_on(self, happened: Callable[[], bool], rounds: int) -> bool:
        idle = 0
        for _ in range(rounds):
            if happened():
                return True
            decided = await self.step()
            idle = 0 if decided.actions or self.loop._jobs else idle + 1
            if idle >= 3 and decided.wake_at is not None:
                self.now, idle = max(self.now, decided.wake_at), 0
        return False

    def _is_settled(self) -> bool:
        return not (
            self.store.pending_changes() or self.store.intents() or self.store.moves()
        ) and (self.introduced() and self.ready() == sorted(w.name for w in self.store.wishes()))

    def introduced(self) -> bool:
        return HELLO not in self.config.pools or (
            self.store.see_pool(HELLO).first_wish_at is not None
        )

    def check(self) -> None:
        """At most one live container per name, across all hosts but those declared dead."""
        fenced = self.store.hosts.fenced()
        live = Counter(
            c.name
            for h in self.hosts.values()
            if h.name not in fenced
            for c in h.containers.values()
            if c.running and c.ours
        )
        assert all(count == 1 for count in live.values()), live

    def ready(self) -> list[str]:
        return sorted(r.name for r in self.world.replicas() if r.state == "ready")

    def replica(self, name: str) -> Replica:
        return next(r for r in self.world.replicas() if r.name == name)

    def where(self) -> dict[str, str]:
        """Return which host runs which replica, as the hosts have it."""
        return {
            c.name: h.name
            for h in self.hosts.values()
            for c in h.containers.values()
            if c.running and c.ours
        }

    def did(self, verb: str) -> list[str]:
        """Return what was done with a verb, on all hosts."""
        return [what for h in self.hosts.values() for done, what in h.did if done == verb]

    def change(self, change: Change) -> Change:
        found = self.store.change(change.id)
        assert found is not None
        return found


@pytest.fixture
async def make_fleet(tmp_path: Path) -> AsyncIterator[Callable[..., Fleet]]:
    """Make fleets that are ended with the test."""
    made: list[Fleet] = []

    def make(**options: Any) -> Fleet:
        made.append(Fleet(tmp_path / f"state{len(made)}", **options))
        return made[-1]

    yield make
    for fleet in made:
        await fleet.end()
        for host in fleet.hosts.values():
            await host.close()


@pytest.fixture
def fleet(make_fleet: Callable[..., Fleet]) -> Fleet:
    """Two hosts a and b, one pool hello with nothing wished yet."""
    return make_fleet()
