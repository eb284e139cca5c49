"""The agent's actions with the real podman and CRIU, on a lab host.

The agent that is shipped to hosts runs there, and is spoken to over its own wire through a pipe
into the host's namespaces.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import pytest

from poold.agent.messages import (
    Build,
    Capture,
    ContainerFact,
    Discard,
    Examine,
    ExportImage,
    FindImage,
    Finding,
    ImportImage,
    Logs,
    Observation,
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
from poold.hosts.bundle import agent_bundle
from poold.hosts.wire import Heartbeat, Wire
from poold.lab import Lab
from poold.model.application import (
    Application,
    CheckpointSettings,
    ExecHook,
    ExecProbe,
    HttpProbe,
    TcpProbe,
    Volume,
    WarmupRequest,
)
from poold.model.fleet import Digest

pytestmark = [pytest.mark.lab, pytest.mark.slow]

R = TypeVar("R")
IMAGE = "localhost/poold-lab/counter:latest"
COUNTER = Application(
    image=IMAGE,
    port=8080,
    env={"GREETING": "two words"},
    readiness=HttpProbe(path="/hello/ready"),
    warmup=(WarmupRequest("/hello/", repeat=2),),
    stop_timeout_seconds=1,
)
# A shell that stays: comes up at once, for what needs no application.
IDLE = replace(
    COUNTER,
    command=("sh", "-c", "echo awake; exec sleep 1000"),
    readiness=ExecProbe(("true",)),
    warmup=(),
)


@dataclass
class Agent:
    """The agent on one lab host, and what the tests ask of the host itself."""

    lab: Lab
    host: str
    folder: str
    fleet: str = "test-agent"
    progress: list[str] = field(default_factory=list)
    _wire: Wire | None = None
    _boot_id: str = ""

    async def do(self, request: Request[R], *, action: str = "", seconds: float = 120) -> R:
        """Ask the agent."""
        assert self._wire is not None
        return await self._wire.ask(
            request,
            action=action or uuid.uuid4().hex,
            boot_id=self._boot_id,
            deadline_seconds=seconds,
            progress=self._note,
        )

    def _note(self, progress: Progress) -> None:
        self.progress.append(progress.text)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Agent]:
        """Run the agent on the host for the block."""
        self.put(f"{self.folder}/agent.pyz", agent_bundle().content)
        argv = self._argv(
            *("python3", f"{self.folder}/agent.pyz", "serve"),
            *("--run", f"{self.folder}/run", "--dir", f"{self.folder}/data"),
        )
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdin is not None
        assert process.stdout is not None
        running = None
        try:
            wire = Wire(process.stdout, process.stdin.write, Heartbeat())
            self._boot_id = (await asyncio.wait_for(wire.greet(), 30)).boot_id
            running = asyncio.ensure_future(wire.run())
            self._wire = wire
            yield self
        finally:
            process.stdin.close()
            await asyncio.wait_for(process.wait(), 30)
            if running is not None:
                await asyncio.wait({running})

    def placement(self, name: str, ports: str = "23000-23099") -> Placement:
        """Place a replica of this test's fleet on this host."""
        return Placement(self.fleet, "counter", name, self.lab.address(self.host), ports)

    def count(self, replica: Started) -> int:
        """Ask a replica's counter, as a client in the lab's network."""
        return int(self.lab.run("curl", "-sf", f"http://{replica.address}/hello/"))

    def exec(self, *argv: str) -> str:
        """Run a command on the host."""
        return self.lab.exec(self.host, *argv)

    def put(self, path: str, content: bytes) -> None:
        """Write a file on the host."""
        self.exec("mkdir", "-p", path.rpartition("/")[0])
        subprocess.run(self._argv("dd", f"of={path}", "status=none"), input=content, check=True)

    def get(self, path: str) -> bytes:
        """Read a file of the host."""
        return subprocess.run(self._argv("cat", path), capture_output=True, check=True).stdout

    def containers(self) -> set[str]:
        """Name the containers of this test's fleet, dead or alive."""
        label = f"label=io.poold.fleet={self.fleet}"
        return set(
            self.exec("podman", "ps", "-a", "--filter", label, "--format", "{{.Names}}").split()
        )

    def files(self, below: str) -> set[str]:
        """List what lies in a folder of the agent's."""
        return set(self.exec("ls", "-A", f"{self.folder}/data/{below}").split())

    def clean(self) -> None:
        """Remove everything that the tests made on the host."""
        for name in self.containers():
            self.exec("podman", "rm", "-f", "-t", "0", name)
        self.exec("sh", "-c", f"umount {self.folder}/data 2>/dev/null; rm -rf {self.folder}")

    def _argv(self, *argv: str) -> list[str]:
        return self.lab.host(self.host).exec_argv(argv)


async def refusal(asked: Any) -> Problem:
    """Return the problem with which an action ends."""
    with pytest.raises(Problem) as caught:
        await asked
    return caught.value


def fact(observation: Observation, name: str) -> ContainerFact:
    return next(fact for fact in observation.containers if fact.name == name)


@pytest.fixture
def hosts(lab: Lab) -> Iterator[tuple[str, ...]]:
    """Name the lab's hosts; afterwards nothing of these tests is left there."""
    yield tuple(host.name for host in lab.hosts())
    for host in lab.hosts():
        Agent(lab, host.name, "/var/lib/test-agent").clean()


@pytest.fixture
async def agent(lab: Lab, hosts: tuple[str, ...]) -> AsyncIterator[Agent]:
    """Run the agent on the first host."""
    async with Agent(lab, hosts[0], "/var/lib/test-agent").serving() as served:
        yield served


async def test_a_built_generation_is_restored_under_many_names(agent: Agent) -> None:
    """Replicas go on counting from the checkpoint, each for itself, and are listed as ready."""
    sealed = await agent.do(Build(agent.placement("counter"), COUNTER))
    assert agent.containers() == set(), "neither the build's container nor the proof's is left"
    assert sealed.digest == sealed.manifest.digest()
    assert sealed.manifest.cold_seconds > 0
    assert {"start", "warm", "quiesce", "checkpoint", "pack"} == set(sealed.manifest.phases)
    assert agent.progress[0] == "starting cold"
    assert "warming 2/2" in agent.progress
    assert agent.progress[-1] == "proving"

    replicas = [
        await agent.do(Restore(agent.placement(f"hello{n}"), COUNTER, sealed.digest))
        for n in (1, 2, 3)
    ]
    assert [[agent.count(replica) for _ in range(2)] for replica in replicas] == [[2, 3]] * 3
    assert len({replica.address for replica in replicas}) == 3
    assert {"restore", "ready"} == set(replicas[0].phases)

    seen = await agent.do(Observe(agent.fleet))
    assert {(found.name, found.ready, found.digest) for found in seen.containers} == {
        (f"hello{n}", True, sealed.digest) for n in (1, 2, 3)
    }
    assert [generation.staged for generation in seen.generations] == [True]
    again = await agent.do(Restore(agent.placement("hello1"), COUNTER, sealed.digest))
    assert again.container_id == replicas[0].container_id, "a ready replica is not restored again"

    assert (await agent.do(Remove(agent.fleet, "hello2", stop_timeout_seconds=1))).changed
    assert not (await agent.do(Remove(agent.fleet, "hello2"))).changed
    assert agent.containers() == {"hello1", "hello3"}


async def test_a_cold_start_gets_environment_volumes_and_tmpfs(agent: Agent) -> None:
    """What the pool says arrives in the container, and no value stands in podman's arguments."""
    agent.put("/var/lib/test-agent/volume/note", b"from the host")
    application = replace(
        COUNTER,
        volumes=(Volume("/var/lib/test-agent/volume", "/note", read_only=True),),
        tmpfs=("/scratch:size=1m",),
    )
    await agent.do(Start(agent.placement("cold1"), application))
    script = "echo $GREETING; cat /note/note /proc/mounts"
    said = agent.exec("podman", "exec", "cold1", "sh", "-c", script)
    assert said.startswith("two words\nfrom the host")
    assert " /scratch tmpfs " in said
    created = json.loads(agent.exec("podman", "inspect", "cold1"))[0]["Config"]["CreateCommand"]
    assert not any("two words" in argument for argument in created)
    assert (await agent.do(Logs(agent.fleet, "cold1", tail=3))).lines


async def test_a_captured_replica_goes_on_here_or_elsewhere(
    lab: Lab, hosts: tuple[str, ...]
) -> None:
    """The counter goes on after thawing in place, and after moving, on exactly one host."""
    async with (
        Agent(lab, hosts[0], "/var/lib/test-agent").serving() as here,
        Agent(lab, hosts[1], "/var/lib/test-agent").serving() as there,
    ):
        first = await here.do(Start(here.placement("mover"), COUNTER))
        assert [here.count(first) for _ in range(3)] == [0, 1, 2]

        capture = Capture(here.fleet, "counter", "mover", COUNTER)
        discarded = (await here.do(capture)).digest
        frozen = fact(await here.do(Observe(here.fleet)), "mover")
        assert (frozen.role, frozen.running, frozen.ready) == ("captured", False, False)
        resumed = await here.do(Resume(here.placement("mover"), COUNTER))
        assert resumed.address == first.address
        assert here.count(resumed) == 3
        assert (await here.do(Discard(discarded))).changed

        sealed = await here.do(capture)
        await send_image(here, there)
        await send_generation(here, there, sealed)
        moved = await there.do(
            Restore(there.placement("mover"), COUNTER, sealed.digest, method="move")
        )
        assert there.count(moved) == 4
        assert fact(await there.do(Observe(there.fleet)), "mover").method == "move"
        await here.do(Remove(here.fleet, "mover"))
        await here.do(Discard(sealed.digest))
        assert here.containers() == set()
        assert (await here.do(Observe(here.fleet))).generations == ()


async def send_image(here: Agent, there: Agent) -> None:
    """Carry the image's archive to the other host and load it there, if it is not there."""
    wanted = await here.do(ExportImage(IMAGE))
    assert (await here.do(ExportImage(IMAGE))).path == wanted.path
    there.exec("podman", "rmi", "-f", "--ignore", IMAGE)
    assert (await there.do(FindImage(IMAGE, wanted.image_id))).image_id == ""
    there.put(f"{there.folder}/data/{wanted.path}", here.get(f"{here.folder}/data/{wanted.path}"))
    loaded = await there.do(ImportImage(wanted.path, IMAGE, wanted.image_id))
    assert loaded.image_id == wanted.image_id
    assert there.files("images") == set()


async def send_generation(here: Agent, there: Agent, sealed: Sealed) -> None:
    """Carry a generation's or capture's files to the other host and stage them there."""
    folder = f"data/generations/{sealed.digest[7:]}"
    travels = "archive.tar.zst"
    for name in (travels, "manifest.json"):
        there.put(f"{there.folder}/{folder}/{name}", here.get(f"{here.folder}/{folder}/{name}"))
    assert (await there.do(Stage(sealed.digest))).changed
    assert not (await there.do(Stage(sealed.digest))).changed


async def test_somebody_elses_container_is_never_touched(agent: Agent) -> None:
    """A foreign container keeps its name and runs on, whatever is asked."""
    sealed = await agent.do(Build(agent.placement("counter"), IDLE))
    agent.exec("podman", "run", "-d", "--name", "foreign1", IMAGE, "sleep", "1000")
    try:
        mine = agent.placement("foreign1")
        for request in (
            Start(mine, IDLE),
            Restore(mine, IDLE, sealed.digest),
            Remove(agent.fleet, "foreign1"),
            Capture(agent.fleet, "counter", "foreign1", IDLE),
            Resume(mine, IDLE),
            Logs(agent.fleet, "foreign1"),
        ):
            assert (await refusal(agent.do(request))).code == "replica.foreign-name"
        seen = fact(await agent.do(Observe(agent.fleet, names=("foreign1",))), "foreign1")
        assert (seen.role, seen.ours, seen.running) == ("foreign", False, True)
        assert (await agent.do(Observe(agent.fleet))).containers == ()
    finally:
        agent.exec("podman", "rm", "-f", "-t", "0", "foreign1")


async def test_a_half_made_container_is_replaced(agent: Agent) -> None:
    """What an interrupted action left under the name makes way for the next one."""
    labels = ("--label", f"io.poold.fleet={agent.fleet}", "--label", "io.poold.pool=counter")
    agent.exec("podman", "create", "--name", "half", *labels, IMAGE)
    started = await agent.do(Start(agent.placement("half"), IDLE))
    assert fact(await agent.do(Observe(agent.fleet)), "half").container_id == started.container_id


async def test_leftovers_of_dead_actions_are_swept(agent: Agent) -> None:
    """Builds, proofs, scratch folders and records that no action owns go with the next look."""
    labels = ("--label", f"io.poold.fleet={agent.fleet}", "--label", "io.poold.build=gone")
    for name in ("poold-build-gone", "poold-proof-gone"):
        agent.exec("podman", "create", "--name", name, *labels, IMAGE)
    agent.put(f"{agent.folder}/data/work/gone/generation/archive.tar", b"half")
    await agent.do(Start(agent.placement("lost"), IDLE))
    agent.exec("podman", "rm", "-f", "-t", "0", "lost")
    seen = await agent.do(Observe(agent.fleet))
    assert seen.containers == ()
    assert agent.containers() == set()
    assert agent.files("work") == set()
    assert agent.files("replicas") == set()


async def test_a_strangers_port_is_passed_over(agent: Agent) -> None:
    """The next port is taken; a range without a free one is said to be exhausted."""
    address = agent.lab.address(agent.host)
    listen = f"import socket,time;s=socket.create_server(({address!r},23050));time.sleep(60)"
    stranger = await asyncio.create_subprocess_exec(*agent._argv("python3", "-c", listen))
    try:
        while "23050" not in agent.exec("ss", "-ltn"):  # noqa: ASYNC110 - another program's
            await asyncio.sleep(0.05)
        started = await agent.do(Start(agent.placement("p1", "23050-23051"), IDLE))
        assert started.address == f"{address}:23051"
        problem = await refusal(agent.do(Start(agent.placement("p2", "23050"), IDLE)))
        assert (problem.kind, problem.code) == ("temporary", "host.ports-exhausted")
    finally:
        stranger.terminate()
        await stranger.wait()


async def test_a_watched_file_is_named_with_the_way_out(agent: Agent) -> None:
    """CRIU refuses for a file watched on the overlay, until the pool names its folder."""
    # inotify_init1 and inotify_add_watch by their numbers on x86_64: the image has only perl
    script = (
        "mkdir '/tmp/in'; open(F, '>/tmp/in/feed'); close F; my ($f, $p) = (0, '/tmp/in/feed');"
        " $f = syscall(294, 0); syscall(254, $f, $p, 2) > 0 or die; sleep 100 while 1"
    )
    watching = replace(IDLE, command=("perl", "-e", script))
    problem = await refusal(agent.do(Build(agent.placement("counter"), watching)))
    assert (problem.kind, problem.code) == ("permanent", "criu.watched-file")
    assert "/tmp/in/feed" in problem.message
    assert 'scan_paths = ["/tmp/in"]' in problem.hint
    assert "Can't dump that handle" in problem.detail
    assert agent.containers() == set()
    assert agent.files("generations") == agent.files("work") == set()

    settings = CheckpointSettings(scan_paths=("/tmp/in",))
    sealed = await agent.do(
        Build(agent.placement("counter"), replace(watching, checkpoint=settings))
    )
    assert "irmap-scan-path /tmp/in" in sealed.manifest.criu_settings


# CRIU's own fault points. podman gives the runtime an environment of its own, so the number comes
# from a file, by a `criu` that is found before the real one.
FAULTY_CRIU = b"""#!/bin/sh
[ -s /run/criu-fault ] && export CRIU_FAULT=$(cat /run/criu-fault)
exec /usr/sbin/criu "$@"
"""


@pytest.fixture
def criu_fault(agent: Agent) -> Iterator[Callable[[int], None]]:
    """Return a function that has CRIU fail at a point of its own, with 0 not any more."""
    agent.put("/usr/local/sbin/criu", FAULTY_CRIU)
    agent.exec("chmod", "755", "/usr/local/sbin/criu")
    yield lambda number: agent.put("/run/criu-fault", str(number or "").encode())
    agent.exec("rm", "-f", "/usr/local/sbin/criu", "/run/criu-fault")


async def test_a_failing_criu_leaves_its_log(
    agent: Agent, criu_fault: Callable[[int], None]
) -> None:
    """Freezing or thawing, refused or broken off: the problem has what CRIU wrote."""
    application = replace(IDLE, command=("perl", "-e", "sleep 1 while 1"))
    started = await agent.do(Start(agent.placement("c1"), application))
    capture = Capture(agent.fleet, "counter", "c1", application)
    criu_fault(3)
    problem = await refusal(agent.do(capture))
    assert problem.code == "criu.checkpoint-failed"
    assert problem.message == "cannot checkpoint c1: CRIU says: fault: Dump VMA pages failure!"
    assert "Error (criu/mem.c" in problem.detail.splitlines()[0]
    assert len(problem.detail.encode()) < 4000
    criu_fault(1)
    problem = await refusal(agent.do(capture))
    assert (problem.kind, problem.code) == ("temporary", "criu.broke-off")
    assert "fault: CRIU sudden detach" in problem.detail
    criu_fault(0)
    seen = fact(await agent.do(Observe(agent.fleet)), "c1")
    assert (seen.container_id, seen.running, seen.role) == (started.container_id, True, "replica")

    criu_fault(6)
    problem = await refusal(agent.do(Build(agent.placement("counter"), application)))
    assert problem.code == "criu.restore-failed"
    assert problem.message.startswith("cannot prove the new generation of counter: ")
    assert "Restoring FAILED" in problem.detail.splitlines()[0]
    assert agent.containers() == {"c1"}
    assert agent.files("generations") == agent.files("work") == set()


async def test_a_dead_or_silent_application_is_told_apart(agent: Agent) -> None:
    """One that ended is said to have ended, with its output; a silent one, what it said last."""
    dead = replace(COUNTER, command=("sh", "-c", "echo out of luck; exit 3"), warmup=())
    problem = await refusal(agent.do(Start(agent.placement("dead"), dead)))
    assert problem.code == "replica.exited"
    assert "out of luck" in problem.detail
    silent = replace(IDLE, readiness=TcpProbe(deadline_seconds=0.5))
    problem = await refusal(agent.do(Start(agent.placement("silent"), silent)))
    assert (problem.kind, problem.code) == ("temporary", "probe.deadline")
    assert "refused" in problem.message.lower()
    missing = replace(IDLE, image="localhost/poold-lab/no-such:1")
    problem = await refusal(agent.do(Start(agent.placement("missing"), missing)))
    assert problem.code == "image.missing"
    assert agent.containers() == set()


async def test_hooks_run_inside_with_a_fresh_seed(agent: Agent) -> None:
    """Before the checkpoint once; after each restore with the replica's name and its own seed."""
    keep = ExecHook(("sh", "-c", "cat >> /tmp/heard; echo >> /tmp/heard"))
    application = replace(IDLE, before_checkpoint=keep, after_restore=keep)
    sealed = await agent.do(Build(agent.placement("counter"), application))
    seeds = set()
    for name in ("hook1", "hook2"):
        started = await agent.do(Restore(agent.placement(name), application, sealed.digest))
        assert "hook" in started.phases
        heard = agent.exec("podman", "exec", name, "cat", "/tmp/heard").splitlines()
        before, after = (json.loads(line) for line in heard)
        assert before == {
            "event": "before_checkpoint",
            "pool": "counter",
            "replica": before["replica"],
        }
        assert (after["event"], after["replica"]) == ("after_restore", name)
        seeds.add(after["seed"])
    assert {len(seed) for seed in seeds} == {64}
    assert len(seeds) == 2
    failing = replace(
        application, after_restore=ExecHook(("sh", "-c", "cat >/dev/null; echo no; exit 1"))
    )
    problem = await refusal(agent.do(Restore(agent.placement("hook3"), failing, sealed.digest)))
    assert problem.code == "hook.failed"
    assert "no" in problem.detail
    assert agent.containers() == {"hook1", "hook2"}


async def test_an_open_connection_holds_the_checkpoint_up(agent: Agent) -> None:
    """Past the quiesce deadline the error names the connection, and the replica runs on."""
    started = await agent.do(Start(agent.placement("busy"), COUNTER))
    host, _, port = started.address.rpartition(":")
    hold = f"import socket,time;s=socket.create_connection(({host!r},{port}));time.sleep(60)"
    client = await asyncio.create_subprocess_exec(*agent.lab.run_argv(["python3", "-c", hold]))
    try:
        peer = f"{host}:{port}"
        while peer not in agent.lab.run("ss", "-tn"):  # noqa: ASYNC110 - another program's
            await asyncio.sleep(0.05)
        hurried = replace(COUNTER, checkpoint=CheckpointSettings(quiesce_deadline_seconds=0.3))
        problem = await refusal(agent.do(Capture(agent.fleet, "counter", "busy", hurried)))
        assert (problem.kind, problem.code) == ("temporary", "checkpoint.sockets-not-quiet")
        assert ":8080 with 10.77.0.1:" in problem.message
        assert "ESTABLISHED" in problem.message
        assert fact(await agent.do(Observe(agent.fleet)), "busy").ready
        assert agent.count(started) == 0
    finally:
        client.terminate()
        await client.wait()


async def test_what_is_not_staged_or_damaged_is_not_restored(agent: Agent) -> None:
    """Changed bytes are found before podman sees them; staging again from the packed form heals."""
    sealed = await agent.do(Build(agent.placement("counter"), IDLE))
    folder = f"{agent.folder}/data/generations/{sealed.digest[7:]}"
    restore = Restore(agent.placement("r1"), IDLE, sealed.digest)
    spoil = ("conv=notrunc", "seek=100000", "bs=1", "count=4", "status=none", "if=/dev/urandom")

    agent.exec("dd", f"of={folder}/archive.tar", *spoil)
    assert (await refusal(agent.do(restore))).code == "generation.damaged"
    assert (await refusal(agent.do(restore))).code == "generation.not-staged"
    assert (await agent.do(Stage(sealed.digest))).changed
    await agent.do(restore)

    agent.exec("rm", f"{folder}/archive.tar")
    agent.exec("truncate", "-s", "-10", f"{folder}/archive.tar.zst")
    assert (await refusal(agent.do(Stage(sealed.digest)))).code == "generation.damaged"
    agent.exec("sh", "-c", f"echo ' ' >> {folder}/manifest.json")
    assert (await refusal(agent.do(Stage(sealed.digest)))).code == "generation.damaged"
    never = Digest("sha256:" + "0" * 64)
    again = replace(restore, placement=agent.placement("r2"), digest=never)
    assert (await refusal(agent.do(again))).code == "generation.not-staged"
    assert agent.containers() == {"r1"}


async def test_a_full_disk_is_said_before_anything_is_written(agent: Agent) -> None:
    """The guard names the folder and what is needed; nothing is left but the room there was."""
    data = f"{agent.folder}/data"
    agent.exec("mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", data)
    agent.exec("sh", "-c", f"cd {data}; mkdir generations images replicas work criu")
    problem = await refusal(agent.do(Build(agent.placement("counter"), COUNTER)))
    assert (problem.kind, problem.code) == ("temporary", "host.disk-full")
    assert data in problem.message
    assert agent.containers() == set()
    assert agent.files("generations") == agent.files("work") == set()


async def test_an_action_past_its_deadline_leaves_nothing(agent: Agent) -> None:
    """However far it came: no container, no process, no scratch file."""
    sealed = await agent.do(Build(agent.placement("counter"), IDLE))
    for seconds in (0.05, 0.3, 0.6):
        requests: tuple[Request[Any], ...] = (
            Restore(agent.placement("late"), IDLE, sealed.digest),
            Start(agent.placement("late"), replace(IDLE, readiness=ExecProbe(("false",)))),
            Build(agent.placement("counter"), IDLE),
        )
        for request in requests:
            with contextlib.suppress(Problem):
                await agent.do(request, seconds=seconds)
                await agent.do(Remove(agent.fleet, "late", stop_timeout_seconds=0))
            assert agent.containers() == set()
            assert agent.files("work") == agent.files("replicas") == set()
            assert agent.exec("runc", "list", "-q") == ""


# -- examining a host -----------------------------------------------------------------------------

CHECKS = (
    *("python", "podman", "runtime", "criu", "engine", "kernel", "cgroups", "cpu", "localhost"),
    *("network", "zstd", "disk", "memory", "clock"),
)
MACHINES = {"disk", "memory"}  # the machine under the lab may be short of these


async def complaints(agent: Agent, *, behind_seconds: float = 0) -> dict[str, Finding]:
    """Examine the host; return what is not ok, each complete enough for an operator."""
    now = float(agent.exec("date", "+%s.%N")) - behind_seconds
    findings = (await agent.do(Examine(now))).findings
    assert tuple(finding.check for finding in findings) == CHECKS
    found = {f.check: f for f in findings if f.level != "ok" and f.check not in MACHINES}
    assert all(f.what and f.why and f.way_out for f in found.values()), found
    return found


@contextlib.contextmanager
def away(agent: Agent, *paths: str) -> Iterator[None]:
    """Let a host be without some files for the block."""
    # not under a name that begins with lib: ldconfig would take it for the library
    aside = {path: "{}/away-{}".format(*path.rsplit("/", 1)) for path in paths}
    moved = []
    try:
        for path in paths:
            agent.exec("mv", path, aside[path])
            moved.append(path)
        yield
    finally:
        for path in moved:
            agent.exec("mv", aside[path], path)


@contextlib.contextmanager
def edited(agent: Agent, path: str, sed: str) -> Iterator[None]:
    """Let a host have another text in a file for the block."""
    agent.exec("cp", path, f"{path}.kept")
    try:
        agent.exec("sh", "-c", f"sed '{sed}' {path}.kept > {path}")
        yield
    finally:
        agent.exec("sh", "-c", f"cat {path}.kept > {path} && rm {path}.kept")


async def test_a_good_host_is_examined_without_complaint(agent: Agent) -> None:
    """Each check says what it saw, none complains, and CRIU really froze and thawed a process."""
    assert await complaints(agent) == {}
    findings = (await agent.do(Examine(float(agent.exec("date", "+%s"))))).findings
    said = {finding.check: finding.what for finding in findings}
    assert said["criu"].endswith("froze and thawed a process")
    assert said["runtime"].startswith("runc ")
    assert all(said.values())


@pytest.mark.parametrize(("behind_seconds", "says"), [(3600, "ahead of"), (-3600, "behind")])
async def test_a_wrong_clock_is_found(agent: Agent, behind_seconds: float, says: str) -> None:
    """A clock that differs from the daemon's is a warning that says which way."""
    found = await complaints(agent, behind_seconds=behind_seconds)
    assert {check: finding.level for check, finding in found.items()} == {"clock": "warning"}
    assert f" s {says} the daemon's clock" in found["clock"].what
    assert found["clock"].what.startswith(("3600.", "3599."))


@pytest.mark.parametrize("program", ["zstd", "criu"])
async def test_a_missing_program_is_found(agent: Agent, program: str) -> None:
    """It is an error of its own check, no other check suffers, and it is looked for each time."""
    with away(agent, agent.exec("sh", "-c", f"command -v {program}").strip()):
        found = await complaints(agent)
    assert {check: finding.level for check, finding in found.items()} == {program: "error"}
    assert found[program].what == f"{program} is not installed"
    assert found[program].way_out == f"install {program}"
    assert await complaints(agent) == {}


async def test_a_missing_netavark_is_found(agent: Agent) -> None:
    """Podman says nothing more of itself without it; whatever suffers names it."""
    with away(agent, "/usr/lib/podman/netavark"):
        found = await complaints(agent)
    assert "install netavark" in found["network"].way_out
    assert {finding.level for finding in found.values()} == {"error"}
    assert [f for f in found.values() if "netavark" not in f.what + f.why] == []
    assert await complaints(agent) == {}


async def test_a_hosts_file_without_localhost_is_found(agent: Agent) -> None:
    """Checkpoints would wait for a name server: said with the line that is missing."""
    with edited(agent, "/etc/hosts", "/localhost/d"):
        found = await complaints(agent)
    assert set(found) == {"localhost"}
    assert "127.0.0.1 localhost" in found["localhost"].way_out
    assert await complaints(agent) == {}


async def test_crun_without_libcriu_is_found(agent: Agent) -> None:
    """It cannot freeze; with the library, or with runc, the same host is fine."""
    library = "/usr/lib/x86_64-linux-gnu/libcriu.so.2"
    files = agent.exec("sh", "-c", f"ls {library}*").split()
    crun = ("/etc/containers/containers.conf", 's/^runtime = .*/runtime = "crun"/')
    with edited(agent, *crun):
        assert await complaints(agent) == {}
    try:
        with away(agent, *files):
            agent.exec("ldconfig")
            with edited(agent, *crun):
                found = await complaints(agent)
            assert await complaints(agent) == {}, "the way out is seen by the agent that runs"
    finally:
        agent.exec("ldconfig")
    assert {check: finding.level for check, finding in found.items()} == {"runtime": "error"}
    assert "without libcriu" in found["runtime"].what
    assert 'runtime = "runc"' in found["runtime"].way_out
