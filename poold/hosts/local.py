"""The daemon's own host: the agent in the same process, with nothing between.

Flows in: requests and files. Flows out: answers. Actions are recorded and done once exactly as
behind a wire. It refuses to know what is asked.
"""

from __future__ import annotations

import asyncio
import logging
import platform
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

from poold.agent import blobs
from poold.agent.freezing import cpu_flags
from poold.agent.journal import Journal, read_boot_id
from poold.agent.messages import Event, Progress, Request
from poold.agent.minding import Watchful
from poold.agent.runner import Handler, Runner
from poold.agent.space import read_reserve
from poold.errors import Permanent, Problem, problem_from_json
from poold.hosts.base import OnEvent, OnProgress
from poold.hosts.wire import unreachable
from poold.model.compat import CPU_FLAGS
from poold.model.fleet import ActionId, Host, HostStatus

R = TypeVar("R")

log = logging.getLogger(__name__)

_LOCK_WAIT_SECONDS = 5.0  # nobody vanishes without closing his file here

# (root, run, running) -> Handler
MakeHandler = Callable[[Path, Path, Callable[[], tuple[str, ...]]], Handler]


class LocalHost:
    """One host's agent in this process; a `HostLink`."""

    def __init__(self, host: Host, make_handler: MakeHandler, *, run: Path) -> None:
        """`run` is the run folder of the agent; see `run_dir_of`."""
        self.name = host.name
        self._root = Path(host.agent_dir)
        self._reserve = read_reserve(host.disk_reserve)
        self._run = run
        self._make_handler = make_handler
        self._boot_id = read_boot_id()
        self._runner: Runner | None = None
        self._heard: OnEvent | None = None
        self._watching: asyncio.Task[None] | None = None
        self._problem: Problem | None = None
        self._status = HostStatus(host.name, "connecting")

    @property
    def status(self) -> HostStatus:
        """Up between `open` and `close`."""
        return self._status

    async def open(self) -> None:
        """Make the folders and the handler; when they cannot be had, every call says so."""
        if self._runner is not None:
            return
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._run.mkdir(mode=0o700, parents=True, exist_ok=True)
            journal = Journal(self._run, self._boot_id)
        except OSError as error:
            self._problem = Permanent(
                "host.no-agent",
                f"cannot use host {self.name}: {error.filename}: {error.strerror}",
                hint="run poold as root, or give the host another agent_dir",
            )
            self._status = HostStatus(self.name, "unknown", reason=str(self._problem))
            return
        handler = self._make_handler(self._root, self._run, journal.running)
        self._runner = Runner(self._root, handler, journal, self._boot_id)
        if isinstance(handler, Watchful):
            self._watching = asyncio.create_task(self._watch(handler), name=f"watch on {self.name}")
        self._status = HostStatus(
            self.name,
            "up",
            boot_id=self._boot_id,
            seen_at=time.time(),
            facts={"python": platform.python_version(), CPU_FLAGS: " ".join(cpu_flags())},
        )

    async def close(self) -> None:
        """Cancel the actions under way, bounded, and record them as interrupted.

        They cannot go on without this process; what they began is undone or found by the next
        observation.
        """
        runner, self._runner = self._runner, None
        self._status = HostStatus(self.name, "unknown", reason="the link was closed")
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.cancel()
            await asyncio.wait({watching})
        if runner is not None:
            await runner.stop()

    def listen(self, heard: OnEvent) -> None:
        """Have `heard` called with what the agent notices by itself."""
        self._heard = heard

    async def _watch(self, handler: Watchful) -> None:
        try:
            await handler.watch(self._tell)
        except Exception:
            log.exception("cannot watch host %s any more; periodic listings go on", self.name)

    def _tell(self, event: Event) -> None:
        """Pass an event on; a listener that fails must not end the watching."""
        try:
            if self._heard is not None:
                self._heard(event)
        except Exception:
            log.exception("cannot pass an event on")

    async def wait_up(self, timeout_seconds: float) -> None:  # noqa: ARG002 - nothing to wait for
        """Raise Temporary("host.unreachable") unless it is open."""
        self._open()

    async def call(
        self,
        request: Request[R],
        *,
        action: ActionId,
        deadline_seconds: float,
        progress: OnProgress | None = None,
    ) -> R:
        """Do one action, once. Cancelling stops waiting, not the action."""
        return await self._open().run(
            request,
            action=action,
            boot_id=self._boot_id,
            deadline_seconds=deadline_seconds,
            report=progress or _unheard,
        )

    async def read_blob(self, path: str, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """Read a file from `offset`."""
        self._open()
        chunks = blobs.read(self._root, path, offset)
        try:
            while chunk := await blobs.in_thread(next, chunks, b""):
                yield chunk
        finally:
            chunks.close()

    async def write_blob(
        self, path: str, *, size: int, sha256: str, offset: int, chunks: AsyncIterator[bytes]
    ) -> None:
        """Append to the part, verify at the end. See `HostLink.write_blob`."""
        self._open()

        opened: list[blobs.Receiver] = []  # filled in the thread: closed even when cancelled there

        def receiver() -> blobs.Receiver:
            opened.append(
                blobs.Receiver(
                    self._root,
                    path,
                    size=size,
                    sha256=sha256,
                    offset=offset,
                    reserve=self._reserve,
                    lock_wait_seconds=_LOCK_WAIT_SECONDS,
                )
            )
            return opened[0]

        try:
            file = await blobs.in_thread(receiver)
            async for chunk in chunks:
                await blobs.in_thread(file.write, chunk)
            await blobs.in_thread(file.finish)
        finally:
            for each in opened:
                each.close()

    def _open(self) -> Runner:
        if self._runner is None:
            if self._problem is not None:
                raise problem_from_json(self._problem.to_json())  # one raised anew would grow
            raise unreachable(self.name, self._status.reason or "the link is not open")
        return self._runner


def _unheard(_: Progress) -> None:
    """Nobody listens to the progress."""
