"""A host reached over SSH: its agent shipped there, kept in reach, asked again after a loss.

Flows in: requests and files. Flows out: answers, and how the link is. One connection carries the
agent's wire and, each on a channel of its own, the files. It refuses to know what is asked and
what an unreachable host means for its replicas.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Literal, NoReturn, TypeVar

import asyncssh

from poold.agent.blobs import CHUNK_BYTES
from poold.agent.messages import Event, Request
from poold.agent.runner import CLEAN_UP_SECONDS
from poold.errors import Permanent, Problem, Temporary, problem_from_json
from poold.hosts.base import OnEvent, OnProgress, run_dir_of
from poold.hosts.bundle import Bundle, agent_bundle
from poold.hosts.connect import connect
from poold.hosts.ship import Paths, start_agent
from poold.hosts.wire import Heartbeat, Hello, Wire, WireLostError, link_bug, unreachable
from poold.model.compat import CPU_FLAGS
from poold.model.fleet import ActionId, Host, HostStatus

R = TypeVar("R")

_CLOSED = "the link was closed"
_RECANCEL_SECONDS = 2.0  # longer than hanging up takes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
    """How long the link waits for what."""

    connect_seconds: float = 15.0  # from the first packet to the agent's first words
    first_backoff_seconds: float = 0.2
    last_backoff_seconds: float = 10.0
    blob_open_seconds: float = 30.0  # for the host to be in reach when a file is to travel
    blob_stall_seconds: float = 60.0  # for the next bytes of a file
    blob_finish_seconds: float = 600.0  # for verifying a file and putting it on disk
    heartbeat: Heartbeat = field(default_factory=Heartbeat)


@dataclass(frozen=True)
class _Up:
    connection: asyncssh.SSHClientConnection
    wire: Wire
    hello: Hello


class SshHost:
    """One host's agent over SSH; a `HostLink`."""

    def __init__(
        self,
        host: Host,
        *,
        engine: str = "oci",
        run_dir: str | None = None,
        bundle: Bundle | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.name = host.name
        self._host = host
        self._engine = engine
        self._paths = Paths(host.agent_dir, run_dir or run_dir_of(host))
        self._bundle = bundle
        self._patience = patience or Patience()
        self._heard: OnEvent | None = None
        self._up: _Up | None = None
        self._problem: Problem | None = None
        self._news = asyncio.Event()  # replaced at each turn of the link
        self._keeping: asyncio.Task[None] | None = None
        self._status = HostStatus(host.name, "connecting")

    @property
    def status(self) -> HostStatus:
        """How the link is now; `reason` says why it is not up."""
        return self._status

    async def open(self) -> None:
        """Start reaching for the host, with backoff, until `close`; returns at once."""
        if self._keeping is None:
            self._keeping = asyncio.create_task(self._keep(), name=f"link to {self.name}")

    async def close(self) -> None:
        """End the link; actions under way go on there."""
        if self._keeping is not None:
            # again and again: asyncio.wait_for, in libraries too, can swallow a cancellation
            # that meets the end of what it waits for (python/cpython#86296, until 3.12)
            while not self._keeping.done():
                self._keeping.cancel()
                await asyncio.wait({self._keeping}, timeout=_RECANCEL_SECONDS)
            self._keeping = None
        self._turn(None, unreachable(self.name, _CLOSED))

    def listen(self, heard: OnEvent) -> None:
        """Have `heard` called with what the agent notices by itself; lost with a connection."""
        self._heard = heard

    def _tell(self, event: Event) -> None:
        if self._heard is not None:
            self._heard(event)

    async def wait_up(self, timeout_seconds: float) -> None:
        """Wait until the agent answers; a Permanent reason is raised as soon as it is known."""
        await self._wait_up(time.monotonic() + timeout_seconds, sent=False)

    # -- asking -----------------------------------------------------------------------------------

    async def call(
        self,
        request: Request[R],
        *,
        action: ActionId,
        deadline_seconds: float,
        progress: OnProgress | None = None,
    ) -> R:
        """Ask, and after a lost connection ask again under the same id. See `HostLink.call`."""
        deadline_at = time.monotonic() + deadline_seconds
        boot_id: str | None = None
        while True:
            up = await self._wait_up(deadline_at, sent=boot_id is not None)
            boot_id = boot_id or up.hello.boot_id
            left = max(0.0, deadline_at - time.monotonic())
            try:
                async with asyncio.timeout(left + CLEAN_UP_SECONDS + 1.0):
                    return await up.wire.ask(
                        request,
                        action=action,
                        boot_id=boot_id,
                        deadline_seconds=left,
                        progress=progress,
                    )
            except TimeoutError:
                raise unreachable(self.name, f"it did not answer {request.verb} in time") from None
            except WireLostError as lost:
                log.info("asking %s again: %s", self.name, lost, extra={"action": action})
                if self._up is up:
                    await self._next_turn(deadline_at)

    async def _wait_up(self, deadline_at: float, *, sent: bool) -> _Up:
        while True:
            if self._up is not None:
                return self._up
            if self._keeping is None or time.monotonic() >= deadline_at:
                self._give_up()
            if isinstance(self._problem, Permanent) and not sent:
                raise problem_from_json(self._problem.to_json())  # one raised anew would grow
            await self._next_turn(deadline_at)

    def _give_up(self) -> NoReturn:
        if isinstance(self._problem, Temporary):
            raise unreachable(self.name, self._status.reason)
        raise unreachable(self.name, self._status.reason or "it has not answered yet")

    async def _next_turn(self, deadline_at: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, deadline_at - time.monotonic())):
                await self._news.wait()

    # -- keeping the link -------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Connect, carry, and connect again, for ever; whatever fails is a reason, not the end."""
        backoff = self._patience.first_backoff_seconds
        while True:
            begun = time.monotonic()
            try:
                await self._once()
            except Problem as problem:
                self._turn(None, self._cause(problem))
            except Exception as error:
                log.exception("the link to %s failed", self.name)
                self._turn(None, link_bug(self.name, error))
            if time.monotonic() - begun > self._patience.last_backoff_seconds:
                backoff = self._patience.first_backoff_seconds
            if isinstance(self._problem, Permanent):
                backoff = self._patience.last_backoff_seconds  # or sshd shuts the address out
            await asyncio.sleep(backoff * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            backoff = min(backoff * 2, self._patience.last_backoff_seconds)

    def _cause(self, problem: Problem) -> Problem:
        """Return what to show: sshd hangs up on an address that it refused before.

        https://man.openbsd.org/sshd_config#PerSourcePenalties: the refusal is still the reason.
        """
        hung_up = isinstance(problem.__cause__, (asyncssh.ConnectionLost, ConnectionResetError))
        return self._problem if hung_up and isinstance(self._problem, Permanent) else problem

    async def _once(self) -> None:
        """Bring the link up and carry it until it is lost."""
        if self._bundle is None:
            self._bundle = await asyncio.to_thread(agent_bundle)
        bundle = self._bundle
        timeout = self._patience.connect_seconds
        connection = await connect(self._host, timeout_seconds=timeout)
        try:
            async with asyncio.timeout(timeout):
                process = await start_agent(
                    connection, self._host, self._paths, bundle, self._engine
                )
                wire = Wire(
                    process.stdout, process.stdin.write, self._patience.heartbeat, self._tell
                )
                hello = await wire.greet()
            if hello.hash != bundle.sha256:
                raise Permanent("host.no-agent", f"cannot use host {self.name}: another agent runs")
            complaining = asyncio.create_task(self._pass_on(process.stderr))
            self._turn(_Up(connection, wire, hello), None)
            try:
                reason = await wire.run()
                self._turn(None, unreachable(self.name, reason))
            finally:
                self._up = None
                complaining.cancel()
                await asyncio.wait({complaining})
        except TimeoutError:
            raise unreachable(self.name, "its agent did not start in time") from None
        except (WireLostError, asyncssh.Error, OSError) as error:
            raise unreachable(self.name, str(error) or type(error).__name__) from error
        finally:
            await _hang_up(connection)

    async def _pass_on(self, stderr: asyncssh.SSHReader[bytes]) -> None:
        with contextlib.suppress(asyncssh.Error, OSError):
            while line := await stderr.readline():
                log.warning("%s: %s", self.name, line.decode(errors="replace").rstrip()[:500])

    def _turn(self, up: _Up | None, problem: Problem | None) -> None:
        """Note how the link is and wake whoever waits for it."""
        self._up, self._problem = up, problem
        if up is not None:
            log.info("%s is up", self.name)
            self._status = HostStatus(
                self.name,
                "up",
                boot_id=up.hello.boot_id,
                seen_at=time.time(),
                facts={"python": up.hello.python, CPU_FLAGS: up.hello.cpu_flags},
            )
        elif problem is not None:
            self._status = self._down(problem)
        self._news.set()
        self._news = asyncio.Event()

    def _down(self, problem: Problem) -> HostStatus:
        reason = str(problem) if isinstance(problem, Permanent) else problem.message
        prefix = f"cannot reach host {self.name}: "
        reason = reason.removeprefix(prefix)
        if reason not in (self._status.reason, _CLOSED):
            log.warning("%s is not in reach: %s", self.name, reason)
        before = self._status
        state: Literal["unknown"] = "unknown"
        seen_at = time.time() if before.state == "up" else before.seen_at
        return HostStatus(self.name, state, before.boot_id, seen_at, before.facts, reason=reason)

    # -- files ------------------------------------------------------------------------------------

    async def read_blob(self, path: str, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """Read a file from `offset`; raises Temporary("blob.cut") when the connection is lost."""
        process = await self._run("send", path, "--offset", str(offset))
        stall = self._patience.blob_stall_seconds
        try:
            while chunk := await asyncio.wait_for(process.stdout.read(CHUNK_BYTES), stall):
                yield chunk
            said = await asyncio.wait_for(process.stderr.read(), stall)
            await asyncio.wait_for(process.wait_closed(), stall)
        except (asyncssh.Error, OSError, TimeoutError) as error:
            raise self._cut("send", path, error) from error
        finally:
            process.close()
        if process.exit_status != 0:
            raise _reported(said) or self._cut("send", path, said[-500:].decode(errors="replace"))

    async def write_blob(
        self, path: str, *, size: int, sha256: str, offset: int, chunks: AsyncIterator[bytes]
    ) -> None:
        """Append to the part, verify at the end. See `HostLink.write_blob`."""
        sizes = ["--size", str(size), "--sha256", sha256, "--offset", str(offset)]
        sizes += ["--reserve", self._host.disk_reserve]
        process = await self._run("receive", path, *sizes)
        try:
            await self._pour(process, chunks)
            async with asyncio.timeout(self._patience.blob_finish_seconds):
                answer = await process.stdout.read()
        except (asyncssh.Error, OSError, TimeoutError) as error:
            raise self._cut("receive", path, error) from error
        finally:
            process.close()
        if problem := _reported(answer):
            raise problem
        if b'"done"' not in answer:
            raise self._cut("receive", path, "it ended without a word")

    async def _pour(
        self, process: asyncssh.SSHClientProcess[bytes], chunks: AsyncIterator[bytes]
    ) -> None:
        """Send the chunks; a receiver that stops listening has said why on its standard output."""
        async for chunk in chunks:
            try:
                process.stdin.write(chunk)
                async with asyncio.timeout(self._patience.blob_stall_seconds):
                    await process.stdin.drain()
            except (BrokenPipeError, ConnectionResetError):
                return
            if process.stdin.is_closing():
                return
        with contextlib.suppress(OSError):
            process.stdin.write_eof()

    async def _run(self, *arguments: str) -> asyncssh.SSHClientProcess[bytes]:
        patience = self._patience.blob_open_seconds
        up = await self._wait_up(time.monotonic() + patience, sent=False)
        bundle = self._bundle or agent_bundle()
        command, path, *rest = arguments
        line = self._paths.program(
            self._host.python, bundle, command, "--dir", self._paths.agent_dir, path, *rest
        )
        try:
            async with asyncio.timeout(patience):
                return await up.connection.create_process(line, encoding=None)
        except (asyncssh.Error, OSError, TimeoutError) as error:
            raise self._cut(command, path, error) from error

    def _cut(self, verb: str, path: str, why: object) -> Temporary:
        reason = str(why) or type(why).__name__
        return Temporary(
            "blob.cut", f"cannot {verb} {path} on host {self.name}: {reason}", retry_after_seconds=1
        )


async def _hang_up(connection: asyncssh.SSHClientConnection) -> None:
    """Close politely, so that the agent sees its end at once; a dead peer is not waited for."""
    connection.close()
    try:
        await asyncio.wait_for(connection.wait_closed(), 1.0)
    except (asyncssh.Error, OSError, TimeoutError):
        connection.abort()


def _reported(said: bytes) -> Problem | None:
    """Return the problem in the last line of what an agent's program said."""
    lines = said.splitlines()
    try:
        value = json.loads(lines[-1]) if lines else None
    except ValueError:
        return None
    if isinstance(value, dict) and "problem" in value:
        return problem_from_json(value["problem"])
    return None
