"""One suite for every kind of host link, and what only a link over a network must survive."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import os
import shlex
import signal
import sys
import traceback
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import asyncssh
import pytest

from poold.agent.journal import read_boot_id
from poold.agent.messages import (
    Discard,
    Done,
    Event,
    Examine,
    LogLines,
    Logs,
    Observe,
    Progress,
    Remove,
    Stage,
    StatBlob,
)
from poold.errors import Permanent, Refused, Temporary
from poold.hosts.base import HostLink
from poold.hosts.bundle import build_bundle
from poold.hosts.local import LocalHost
from poold.hosts.ssh import Patience, SshHost
from poold.hosts.transfer import copy_blob, write_bytes
from poold.hosts.wire import Heartbeat
from poold.model.fleet import ActionId, Host, HostName

FAKE = Path(__file__).with_name("fake_agent.py")
_spec = importlib.util.spec_from_file_location("fake_agent", FAKE)
fake_agent = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fake_agent)

BUNDLE = build_bundle({"__main__.py": FAKE.read_bytes()})
FAST = Patience(
    connect_seconds=10.0,
    first_backoff_seconds=0.02,
    last_backoff_seconds=0.2,
    blob_open_seconds=10.0,
    blob_stall_seconds=30.0,
    heartbeat=Heartbeat(interval_seconds=0.3, unanswered=4),
)
SECONDS = 20.0


class Sshd:
    """A real SSH server on the loopback that runs what it is told, with keys of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key_file = folder / "client_key"
        self.known_hosts_file = folder / "known_hosts"
        self.port = 0
        self.cut_after_bytes: int | None = None
        self._connections: set[asyncssh.SSHServerConnection] = set()
        self._children: set[asyncio.subprocess.Process] = set()
        self._handlers: set[asyncio.Task] = set()

    async def start(self) -> None:
        client = asyncssh.generate_private_key("ssh-ed25519")
        client.write_private_key(self.key_file)
        client.write_public_key(self.folder / "authorized_keys")
        await self.listen(asyncssh.generate_private_key("ssh-ed25519"))
        self.pin(self.host_key)

    async def listen(self, host_key: asyncssh.SSHKey) -> None:
        self.host_key = host_key
        outer = self

        class Server(asyncssh.SSHServer):
            def connection_made(self, connection):
                self.connection = connection
                outer._connections.add(connection)

            def connection_lost(self, error):
                outer._connections.discard(self.connection)

        self._listener = await asyncssh.listen(
            "127.0.0.1",
            self.port,
            server_factory=Server,
            server_host_keys=[host_key],
            authorized_client_keys=str(self.folder / "authorized_keys"),
            process_factory=self._handle,
            encoding=None,
        )
        self.port = self._listener.get_port()

    def pin(self, key: asyncssh.SSHKey) -> None:
        line = key.export_public_key().decode()
        self.known_hosts_file.write_text(f"[127.0.0.1]:{self.port} {line}")

    def cut(self) -> None:
        for connection in list(self._connections):
            connection.abort()

    async def stop_listening(self) -> None:
        self._listener.close()
        await self._listener.wait_closed()

    async def stop(self) -> None:
        """End, and see that what was run here ends by itself."""
        await self.stop_listening()
        self.cut()
        async with asyncio.timeout(SECONDS):
            for child in list(self._children):
                await child.wait()
            while self._handlers:
                await asyncio.wait(set(self._handlers))

    async def _handle(self, process: asyncssh.SSHServerProcess) -> None:
        self._handlers.add(asyncio.current_task())
        asyncio.current_task().add_done_callback(self._handlers.discard)
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", process.command, stdin=pipe, stdout=pipe, stderr=pipe,
            cwd=self.folder, env={"PATH": os.environ["PATH"], "FAKE_AGENT_PRINTS": "1"},
        )  # fmt: skip
        self._children.add(child)
        feeding = asyncio.ensure_future(self._feed(process, child))
        await asyncio.gather(
            self._tell(child.stdout, process.stdout), self._tell(child.stderr, process.stderr)
        )
        process.exit(await child.wait())
        self._children.discard(child)
        feeding.cancel()
        await asyncio.wait({feeding})
        child.stdin.close()

    async def _feed(self, process, child) -> None:
        with suppress(asyncssh.Error, OSError):
            while chunk := await process.stdin.read(65536):
                child.stdin.write(chunk)
                await child.stdin.drain()
                self._count(len(chunk))
        child.stdin.close()

    async def _tell(self, source, target) -> None:
        while chunk := await source.read(65536):
            with suppress(asyncssh.Error, OSError):
                target.write(chunk)
                await target.drain()

    def _count(self, size: int) -> None:
        if self.cut_after_bytes is None:
            return
        self.cut_after_bytes -= size
        if self.cut_after_bytes <= 0:
            self.cut_after_bytes = None
            self.cut()


class Proxy:
    """A piece of network before the server that can stop carrying anything, without a word."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._carrying: set[asyncio.Task] = set()
        self._held: set[asyncio.Task] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def hold(self) -> None:
        """Swallow everything on the connections of now; new ones work."""
        for task in self._carrying:
            task.cancel()

    async def stop(self) -> None:
        self._server.close()
        while left := self._carrying | self._held:  # what carries is held first, then ends
            for task in left:
                task.cancel()
            await asyncio.sleep(0)

    async def _carry(self, reader, writer) -> None:
        task = asyncio.current_task()
        self._carrying.add(task)
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._to)
        try:
            await asyncio.gather(self._copy(reader, there_writer), self._copy(there_reader, writer))
        except asyncio.CancelledError:
            self._carrying.discard(task)
            self._held.add(task)
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        finally:
            self._carrying.discard(task)
            self._held.discard(task)
            for each in (writer, there_writer):
                each.transport.abort()

    async def _copy(self, source, target) -> None:
        with suppress(OSError):
            while chunk := await source.read(65536):
                target.write(chunk)
                await target.drain()
        target.transport.abort()


def ssh_host(sshd: Sshd, root: Path) -> Host:
    return Host(
        HostName("far"),
        address="127.0.0.1",
        port=sshd.port,
        key_file=str(sshd.key_file),
        known_hosts_file=str(sshd.known_hosts_file),
        agent_dir=str(root),
        python=sys.executable,
    )


def local_host(root: Path) -> LocalHost:
    host = Host(HostName("near"), kind="local", agent_dir=str(root))
    return LocalHost(host, fake_agent_handler, run=root / "run")


def fake_agent_handler(root, run, running):
    return fake_agent.make_handler(root, run, "", running)


@pytest.fixture
def root(tmp_path):
    """Name the agent's folder on the host."""
    return tmp_path / "agent"


@pytest.fixture
async def sshd(tmp_path):
    """Run an SSH server; at the end all that it ran must have ended by itself."""
    (tmp_path / "sshd").mkdir()
    server = Sshd(tmp_path / "sshd")
    await server.start()
    yield server
    await server.stop()


@asynccontextmanager
async def opened(link: HostLink):
    before = asyncio.all_tasks()
    await link.open()
    try:
        yield link
    finally:
        await link.close()
        await asyncio.sleep(0)
        left = {task for task in asyncio.all_tasks() - before if "link to" in task.get_name()}
        assert not left


@pytest.fixture
async def far(sshd, root):
    """Open a link over SSH."""
    async with opened(SshHost(ssh_host(sshd, root), bundle=BUNDLE, patience=FAST)) as link:
        yield link


@pytest.fixture(params=["local", "ssh"])
async def link(request, root, tmp_path):
    """Open a link of each kind."""
    if request.param == "local":
        async with opened(local_host(root)) as link:
            yield link
        return
    (tmp_path / "sshd").mkdir()
    server = Sshd(tmp_path / "sshd")
    await server.start()
    async with opened(SshHost(ssh_host(server, root), bundle=BUNDLE, patience=FAST)) as link:
        yield link
    await server.stop()


def ask(link, request, action="a1", seconds=SECONDS, progress=None):
    return link.call(request, action=ActionId(action), deadline_seconds=seconds, progress=progress)


def remove(name: str) -> Remove:
    return Remove("fleet", name)


def ran(root: Path) -> list[str]:
    file = root / "ran.log"
    return file.read_text().splitlines() if file.exists() else []


async def until(truth) -> None:
    async with asyncio.timeout(SECONDS):
        while not truth():  # noqa: ASYNC110 - what is waited for is not of this process
            await asyncio.sleep(0.01)


async def whole(link, path, offset=0) -> bytes:
    return b"".join([chunk async for chunk in link.read_blob(path, offset)])


async def pieces(data: bytes, size: int = 1000):
    for start in range(0, len(data), size):
        yield data[start : start + size]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# -- every link -----------------------------------------------------------------------------------


async def test_a_question_is_answered(link):
    """A reading request comes back with the answer of its own type."""
    assert await ask(link, Logs("fleet", "some text é")) == LogLines(("some text é",))


async def test_what_the_agent_notices_is_heard_unasked(link, root):
    """An event reaches the listener without a question, and one that fails ends nothing."""
    heard = []

    def listen(event):
        heard.append(event)
        raise RuntimeError("a listener's bug")

    link.listen(listen)
    await link.wait_up(SECONDS)
    for name in ("hello1", "hello2"):
        (root / f"event-{name}").touch()
        await until(lambda: len(heard) == int(name[-1]))  # noqa: B023 - waited for here
    assert heard == [Event("ended", n, "c1", 1.5, "a reason") for n in ("hello1", "hello2")]
    assert await ask(link, Logs("fleet", "text")) == LogLines(("text",))


async def test_events_come_again_after_a_lost_connection(sshd, far, root):
    """The next connection carries events as well."""
    heard = []
    far.listen(heard.append)
    await far.wait_up(SECONDS)
    sshd.cut()
    (root / "event-hello1").touch()
    await until(lambda: heard)
    assert heard[0].name == "hello1"


async def test_the_status_says_up_with_the_boot_id(link):
    """Once it answers, the link is up and knows which boot it talks to."""
    await link.wait_up(SECONDS)
    boot_id = read_boot_id()
    assert (link.status.state, link.status.boot_id) == ("up", boot_id)
    assert link.status.seen_at is not None


async def test_an_action_is_done_once_for_an_id(link, root):
    """Asked again with the same id, the recorded outcome comes back and nothing is done."""
    first = await ask(link, remove("quick"))
    assert await ask(link, remove("quick")) == first == Done(changed=True)
    assert ran(root) == ["a1 begin", "a1 end"]


async def test_a_second_caller_joins_a_running_action(link, root):
    """Two callers with one id share one run, and both hear of its progress."""
    heard: list[list[Progress]] = [[], []]
    first = asyncio.create_task(ask(link, remove("wait"), progress=heard[0].append))
    await until(lambda: heard[0])
    second = asyncio.create_task(ask(link, remove("wait"), progress=heard[1].append))
    await until(lambda: heard[1])
    (root / "go-wait").touch()
    assert await first == await second == Done()
    assert heard[0] == heard[1] == [Progress("half", 1, 2)]
    assert ran(root) == ["a1 begin", "a1 end"]


async def test_an_id_is_not_used_for_something_else(link, root):
    """The same id for another request is refused instead of answered with a wrong outcome."""
    await ask(link, remove("quick"))
    with pytest.raises(Refused) as caught:
        await ask(link, remove("quick-other"))
    assert caught.value.code == "action.id-reused"
    assert ran(root) == ["a1 begin", "a1 end"]


async def test_a_problem_arrives_as_it_was_raised(link):
    """Kind, code, text, hint and detail of a handler's problem reach the caller, each time."""
    for _ in range(2):
        with pytest.raises(Permanent) as caught:
            await ask(link, Discard("sha256:0"))
        problem = caught.value
        assert (problem.code, problem.message) == ("fake.refused", "cannot discard it")
        assert (problem.hint, problem.detail) == ("do not", "a\nb")


async def test_a_bug_in_an_action_is_told_with_its_traceback(link):
    """An exception that is no problem becomes one that names it, and the link lives on."""
    with pytest.raises(Permanent) as caught:
        await ask(link, Stage("sha256:0"))
    assert caught.value.code == "agent.bug"
    assert "ZeroDivisionError" in caught.value.detail
    assert await ask(link, Logs("fleet", "on"), "a2") == LogLines(("on",))


async def test_an_action_past_its_deadline_is_undone(link, root):
    """The agent cancels it, waits for the undoing and says that time was up."""
    await link.wait_up(SECONDS)
    with pytest.raises(Temporary) as caught:
        await ask(link, remove("stubborn"), seconds=0.3)
    assert caught.value.code == "action.deadline"
    assert ran(root) == ["a1 begin", "a1 undone"]


async def test_reading_past_its_deadline_ends(link):
    """A question that never gets an answer ends at its deadline."""
    await link.wait_up(SECONDS)
    with pytest.raises(Temporary) as caught:
        await ask(link, Examine(0.0), seconds=0.2)
    assert caught.value.code == "action.deadline"


async def test_a_caller_that_leaves_does_not_end_the_action(link, root):
    """Cancelled while waiting: the action goes on, and its outcome is there for who asks."""
    waiting = asyncio.create_task(ask(link, remove("wait")))
    await until(lambda: ran(root))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    (root / "go-wait").touch()
    assert await ask(link, remove("wait")) == Done()
    assert ran(root) == ["a1 begin", "a1 end"]


async def test_running_actions_are_known(link, root):
    """While an action runs its id is listed, afterwards it is not."""
    waiting = asyncio.create_task(ask(link, remove("wait")))
    await until(lambda: ran(root))
    seen = await ask(link, Observe("fleet"), "o1")
    (root / "go-wait").touch()
    await waiting
    after = await ask(link, Observe("fleet"), "o2")
    assert (seen.running_actions, after.running_actions) == (("a1",), ())


async def test_an_id_that_is_no_name_is_refused(link):
    """An action id cannot lead out of the journal's folder."""
    with pytest.raises(Refused) as caught:
        await ask(link, remove("quick"), "../../x")
    assert caught.value.code == "action.bad-id"


async def test_a_file_goes_there_and_back(link, root):
    """A written file is complete, private, and read back from any offset."""
    data = os.urandom(3_000_000)
    path = "generations/abc/archive.tar"
    await link.write_blob(
        path, size=len(data), sha256=digest(data), offset=0, chunks=pieces(data, 100_000)
    )
    facts = await ask(link, StatBlob(path))
    assert (facts.complete, facts.bytes) == (True, len(data))
    assert (root / path).stat().st_mode & 0o777 == 0o600
    assert await whole(link, path) == data
    assert await whole(link, path, 2_999_000) == data[2_999_000:]


async def test_a_small_file_is_written_whole(link, root):
    """A manifest is there with its very bytes, and writing it again changes nothing."""
    for _ in range(2):
        await write_bytes(link, "generations/abc/manifest.json", b"{}")
    assert [file.name for file in (root / "generations/abc").iterdir()] == ["manifest.json"]
    assert (root / "generations/abc/manifest.json").read_bytes() == b"{}"


async def test_a_part_is_resumed(link, root):
    """What has arrived stays when the sender ends early, and the rest completes it."""
    data = os.urandom(100_000)
    path = "images/i.tar"
    with pytest.raises(Temporary) as caught:
        await link.write_blob(
            path, size=len(data), sha256=digest(data), offset=0, chunks=pieces(data[:60_000])
        )
    assert caught.value.code == "blob.cut"
    facts = await ask(link, StatBlob(path))
    assert (facts.complete, facts.part_bytes) == (False, 60_000)
    await link.write_blob(
        path, size=len(data), sha256=digest(data), offset=60_000, chunks=pieces(data[60_000:])
    )
    assert (root / path).read_bytes() == data


async def write_much(link):
    await link.write_blob(
        "images/much.tar", size=2 << 20, sha256="", offset=0, chunks=pieces(bytes(2 << 20), 1 << 20)
    )


async def test_a_file_that_would_take_of_the_reserve_is_refused(root, sshd, tmp_path):
    """Near and far the host's own disk_reserve counts, before the first byte is written."""
    far = replace(ssh_host(sshd, root), disk_reserve="1000000t")
    near = replace(far, name=HostName("near"), kind="local", agent_dir=str(tmp_path / "near"))
    links = (
        SshHost(far, bundle=BUNDLE, patience=FAST),
        LocalHost(near, fake_agent_handler, run=tmp_path / "run"),
    )
    for each in links:
        async with opened(each) as link:
            with pytest.raises(Temporary) as caught:
                await write_much(link)
            assert caught.value.code == "host.disk-full"
    assert not list(tmp_path.rglob("*.part"))


async def test_a_damaged_file_is_deleted(link, root):
    """A wrong digest is found at the end; nothing of the file stays."""
    data = os.urandom(10_000)
    with pytest.raises(Permanent) as caught:
        await link.write_blob(
            "images/i.tar", size=len(data), sha256="0" * 64, offset=0, chunks=pieces(data)
        )
    assert caught.value.code == "blob.damaged"
    assert list((root / "images").iterdir()) == []


@pytest.mark.parametrize("path", ["../x", "images/../../x", "/etc/passwd", "secrets/x", "images"])
async def test_a_path_outside_is_refused(link, path):
    """Only files in the two folders can be written, read or asked for."""
    for attempt in (write_bytes(link, path, b"x"), whole(link, path), ask(link, StatBlob(path))):
        with pytest.raises(Refused) as caught:
            await attempt
        assert caught.value.code == "blob.bad-path"


async def test_a_file_that_is_not_there_cannot_be_read(link):
    """Reading an absent file says so."""
    with pytest.raises(Permanent) as caught:
        await whole(link, "images/none.tar")
    assert caught.value.code == "blob.absent"


async def test_a_file_is_copied_from_host_to_host(link, tmp_path):
    """A copy arrives with progress to the end, and a second one sends nothing."""
    data = os.urandom(2_500_000)
    facts = {"size": len(data), "sha256": digest(data), "action": ActionId("copy")}
    heard: list[Progress] = []
    async with opened(local_host(tmp_path / "other")) as other:
        for source, target, path in ((link, other, "images/a"), (other, link, "images/b")):
            await write_bytes(source, path, data)
            sent = await copy_blob(source, target, path, progress=heard.append, **facts)
            again = await copy_blob(source, target, path, **facts)
            assert (sent, again) == (len(data), 0)
            assert await whole(target, path) == data
    assert heard[-1].done == heard[-1].total == len(data)


async def test_a_copy_that_was_damaged_before_is_sent_anew(link, tmp_path, root):
    """A resumed part with a wrong beginning is found out, and the file is sent from the start."""
    data = os.urandom(300_000)
    async with opened(local_host(tmp_path / "other")) as other:
        await write_bytes(other, "images/a", data)
        (root / "images").mkdir(parents=True, exist_ok=True)
        (root / "images/a.part").write_bytes(b"x" * 1000)
        await copy_blob(
            other, link, "images/a", size=len(data), sha256=digest(data), action=ActionId("copy")
        )
    assert (root / "images/a").read_bytes() == data


async def test_a_closed_link_says_so(link):
    """After closing, everything ends at once with a problem that can be retried."""
    await link.wait_up(SECONDS)
    await link.close()
    assert link.status.state == "unknown"
    with pytest.raises(Temporary) as caught:
        await ask(link, Logs("fleet", "x"))
    assert caught.value.code == "host.unreachable"


async def test_closing_in_process_interrupts_the_action(root):
    """Without the process the action cannot go on: it is undone, and the record says so."""
    link = local_host(root)
    await link.open()
    waiting = asyncio.create_task(ask(link, remove("wait")))
    await until(lambda: ran(root))
    await link.close()
    with pytest.raises(Temporary) as caught:
        await waiting
    assert caught.value.code == "action.interrupted"
    async with opened(local_host(root)) as again:
        with pytest.raises(Temporary) as caught:
            await ask(again, remove("wait"))
    assert caught.value.code == "action.interrupted"
    assert ran(root) == ["a1 begin", "a1 undone"]


# -- over a network -------------------------------------------------------------------------------


async def test_an_action_survives_a_cut_and_is_done_once(sshd, far, root):
    """The connection ends in the middle: the call comes back with the outcome of the one run."""
    waiting = asyncio.create_task(ask(far, remove("wait")))
    await until(lambda: ran(root))
    sshd.cut()
    await until(lambda: far.status.state != "up")
    await far.wait_up(SECONDS)
    (root / "go-wait").touch()
    assert await waiting == Done()
    assert ran(root) == ["a1 begin", "a1 end"]


async def test_an_outcome_whose_reply_was_lost_is_looked_up(sshd, far, root):
    """The action ends while nobody is connected: its recorded outcome is the answer."""
    waiting = asyncio.create_task(ask(far, remove("wait")))
    await until(lambda: ran(root))
    await sshd.stop_listening()
    sshd.cut()
    (root / "go-wait").touch()
    await until(lambda: "a1 end" in ran(root))
    await sshd.listen(sshd.host_key)
    assert await waiting == Done()
    assert ran(root) == ["a1 begin", "a1 end"]


async def test_a_network_that_swallows_everything_is_noticed(sshd, root):
    """No error comes from a dead network: unanswered pings end the link, a new one takes over."""
    proxy = Proxy(sshd.port)
    await proxy.start()
    line = sshd.known_hosts_file.read_text().replace(f":{sshd.port}", f":{proxy.port}")
    sshd.known_hosts_file.write_text(line)
    host = replace(ssh_host(sshd, root), port=proxy.port)
    async with opened(SshHost(host, bundle=BUNDLE, patience=FAST)) as link:
        waiting = asyncio.create_task(ask(link, remove("wait")))
        await until(lambda: ran(root))
        proxy.hold()
        await until(lambda: link.status.state == "unknown")
        assert "pings" in link.status.reason
        await link.wait_up(SECONDS)
        (root / "go-wait").touch()
        assert await waiting == Done()
    assert ran(root) == ["a1 begin", "a1 end"]
    await proxy.stop()


async def test_a_frozen_agent_is_noticed(far, root):
    """An agent that stops running is replaced; its action is waited for, not repeated."""
    (pid,) = (await ask(far, Logs("fleet", "pid"))).lines
    waiting = asyncio.create_task(ask(far, remove("wait")))
    await until(lambda: ran(root))
    os.kill(int(pid), signal.SIGSTOP)
    try:
        await until(lambda: far.status.state == "unknown")
        await far.wait_up(SECONDS)
        (root / "go-wait").touch()
        with pytest.raises(Temporary) as caught:
            await ask(far, remove("wait"), seconds=0.3)
        assert caught.value.code == "action.deadline"
    finally:
        os.kill(int(pid), signal.SIGCONT)
    assert await waiting == Done()
    assert ran(root) == ["a1 begin", "a1 end"]


async def test_an_agent_that_was_killed_leaves_an_interrupted_action(far, root):
    """Killed in the middle: the caller hears that the outcome is not known; nothing is repeated."""
    (pid,) = (await ask(far, Logs("fleet", "pid"))).lines
    waiting = asyncio.create_task(ask(far, remove("wait")))
    await until(lambda: ran(root))
    os.kill(int(pid), signal.SIGKILL)
    with pytest.raises(Temporary) as caught:
        await waiting
    assert caught.value.code == "action.interrupted"
    assert ran(root) == ["a1 begin"]


async def test_an_answer_too_large_for_the_wire_is_refused(far):
    """The caller hears of it, and the link lives on."""
    with pytest.raises(Refused) as caught:
        await ask(far, Logs("fleet", "big"))
    assert caught.value.code == "wire.too-large"
    assert await ask(far, Logs("fleet", "on")) == LogLines(("on",))


async def test_a_copy_goes_on_after_a_cut(sshd, far, tmp_path, root):
    """Cut in the middle of a file, the copy resumes and sends less than the file twice."""
    data = os.urandom(8_000_000)
    async with opened(local_host(tmp_path / "other")) as other:
        await write_bytes(other, "images/a", data)
        await far.wait_up(SECONDS)
        sshd.cut_after_bytes = 3_000_000
        heard: list[Progress] = []
        await copy_blob(
            other, far, "images/a", size=len(data), sha256=digest(data),
            action=ActionId("copy"), progress=heard.append,
        )  # fmt: skip
    assert sshd.cut_after_bytes is None
    assert (root / "images/a").read_bytes() == data
    resumed = [at.done for before, at in pairwise(heard) if at.done < before.done]
    assert all(done > 0 for done in resumed)


async def test_the_agent_is_sent_once_and_again_when_damaged(sshd, far, root):
    """A host that has the code is not sent it again; a damaged copy is replaced."""
    await far.wait_up(SECONDS)
    (code,) = (root / "run/code").iterdir()
    assert code.read_bytes() == BUNDLE.content
    inode = code.stat().st_ino
    sshd.cut()
    await until(lambda: far.status.state != "up")
    await far.wait_up(SECONDS)
    assert code.stat().st_ino == inode
    code.write_bytes(b"damaged")
    sshd.cut()
    await until(lambda: far.status.state != "up")
    await far.wait_up(SECONDS)
    assert code.read_bytes() == BUNDLE.content


async def refusal(host: Host) -> Permanent:
    async with opened(SshHost(host, bundle=BUNDLE, patience=FAST)) as link:
        with pytest.raises(Permanent) as waiting:
            await link.wait_up(SECONDS)
        with pytest.raises(Permanent) as caught:
            await ask(link, Logs("fleet", "x"))
        assert caught.value.code == waiting.value.code
        assert link.status.state == "unknown"
        assert link.status.reason
        return caught.value


async def test_a_changed_host_key_is_refused(sshd, root):
    """Another key than the pinned one: never connected, and the file and the way out are named."""
    sshd.pin(asyncssh.generate_private_key("ssh-ed25519"))
    problem = await refusal(ssh_host(sshd, root))
    assert problem.code == "host.key-changed"
    assert str(sshd.known_hosts_file) in str(problem)
    assert not root.exists()


async def test_a_host_key_of_another_kind_is_refused(sshd, root):
    """A pinned key of an algorithm that the host does not offer is a changed key too."""
    sshd.pin(asyncssh.generate_private_key("ecdsa-sha2-nistp256"))
    assert (await refusal(ssh_host(sshd, root))).code == "host.key-changed"


@pytest.mark.parametrize("content", ["", None], ids=["empty", "absent"])
async def test_a_host_without_a_pinned_key_is_refused(sshd, root, content):
    """There is no trust on first use: the problem says how to pin the key."""
    if content is None:
        sshd.known_hosts_file.unlink()
    else:
        sshd.known_hosts_file.write_text(content)
    problem = await refusal(ssh_host(sshd, root))
    assert problem.code == "host.key-unknown"
    assert "ssh-keyscan" in problem.hint


async def test_a_refused_client_key_is_told(sshd, root, tmp_path):
    """A key that the host does not know: the problem says where to add it."""
    other = tmp_path / "other_key"
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(other)
    problem = await refusal(replace(ssh_host(sshd, root), key_file=str(other)))
    assert (problem.code, "authorized_keys" in problem.hint) == ("host.auth", True)


@pytest.mark.parametrize("content", [None, "no key", "encrypted"])
async def test_a_client_key_that_cannot_be_read_is_told(sshd, root, tmp_path, content):
    """An absent, broken or encrypted key file is named."""
    file = tmp_path / "a_key"
    if content == "encrypted":
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(file, "pkcs8-pem", passphrase="secret")
    elif content:
        file.write_text(content)
    problem = await refusal(replace(ssh_host(sshd, root), key_file=str(file)))
    assert (problem.code, str(file) in problem.message) == ("host.auth", True)


async def test_a_host_without_python_is_told(sshd, root):
    """The problem says what to install."""
    problem = await refusal(replace(ssh_host(sshd, root), python="no-such-python"))
    assert (problem.code, "python3" in problem.hint) == ("host.no-python", True)


async def test_a_host_whose_python_is_too_old_is_told(sshd, root, tmp_path):
    """A python before 3.9 is refused with its version, before anything is sent."""
    old = tmp_path / "old-python"
    pretend = "import sys; sys.version_info = (3, 6, 8); exec(sys.argv[1])"
    old.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "{pretend}" "$2"\n')
    old.chmod(0o755)
    problem = await refusal(replace(ssh_host(sshd, root), python=str(old)))
    assert (problem.code, "3.6" in problem.message) == ("host.no-python", True)
    assert not root.exists()


@pytest.mark.parametrize("kind", ["local", "ssh"])
async def test_a_reason_told_again_and_again_does_not_grow(sshd, tmp_path, kind):
    """Each caller gets an exception of his own, for nobody's frames are kept in another's."""
    (tmp_path / "in-the-way").touch()
    link = local_host(tmp_path / "in-the-way" / "agent")
    if kind == "ssh":
        host = replace(ssh_host(sshd, tmp_path), python="no-such-python")
        link = SshHost(host, bundle=BUNDLE, patience=FAST)
    lengths = set()
    async with opened(link):
        with pytest.raises(Permanent) as first:
            await link.wait_up(SECONDS)
        for _ in range(20):
            with pytest.raises(Permanent) as caught:
                await link.wait_up(SECONDS)
            assert caught.value.to_json() == first.value.to_json()
            lengths.add(len(list(traceback.walk_tb(caught.value.__traceback__))))
    assert max(lengths) < 10


async def test_a_host_where_nobody_listens_is_unreachable(sshd, root):
    """The call waits for the host until its deadline and then says why it is not in reach."""
    host = replace(ssh_host(sshd, root), port=1)
    async with opened(SshHost(host, bundle=BUNDLE, patience=FAST)) as link:
        with pytest.raises(Temporary) as caught:
            await ask(link, Logs("fleet", "x"), seconds=0.5)
    assert caught.value.code == "host.unreachable"
    assert "refused" in caught.value.message.lower()


async def test_a_call_of_unknown_outcome_is_not_failed_for_good(sshd, far, root):
    """Asked, then the host's key changes: the outcome is unknown, which is temporary."""
    await ask(far, Logs("fleet", "x"))  # to connect may take as long as it wants
    waiting = asyncio.create_task(ask(far, remove("wait"), seconds=1.5))
    await until(lambda: ran(root))
    await sshd.stop_listening()
    await sshd.listen(asyncssh.generate_private_key("ssh-ed25519"))
    sshd.cut()
    with pytest.raises(Temporary) as caught:
        await waiting
    assert caught.value.code == "host.unreachable"
    assert "another key" in caught.value.message


def test_the_agent_bundle_is_always_the_same():
    """The bundle's name is its content's digest, and building it again gives the same bytes."""
    first, again = (build_bundle({"__main__.py": b"pass"}) for _ in range(2))
    assert first == again
    assert again.sha256 == digest(again.content)
