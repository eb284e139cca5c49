"""The agent's end of the wire: frames in on stdin, frames out on stdout.

Flows in: {"id", "verb", "body", "action", "boot_id", "deadline_seconds"} and {"ping"}. Flows out:
first {"hello": {"boot_id", "pid", "python", "hash", "cpu_flags"}}, then for each id any number of
{"id", "progress"} and one {"id", "result"} or {"id", "problem"}; {"pong"} at once; {"event"} when
something happened. `id` numbers the question on this wire, `action` names what is done. It refuses
to know what the actions do.

The wire may break at any moment: actions under way run to their end and are recorded (see
`poold.agent.journal`), then the process ends. What only reads is dropped.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Optional

from poold.agent.codec import decode_request, encode
from poold.agent.frames import LostFramingError, Source, read_frame, to_frame
from poold.agent.freezing import cpu_flags
from poold.agent.messages import Event, Progress
from poold.agent.minding import Tell
from poold.agent.runner import Handler, Runner
from poold.errors import Problem, Refused

__all__ = ["Handler", "serve"]

SILENCE_SECONDS = 60.0  # the daemon pings every second: it is gone, and sshd has not noticed
_PROGRESS_BACKLOG_BYTES = 256 * 1024  # a reader this far behind gets no more progress

Watch = Callable[[Tell], Awaitable[None]]

log = logging.getLogger(__name__)


class _Sink(asyncio.BaseProtocol):
    """Writes frames to the pipe for as long as somebody reads; afterwards it drops them."""

    def __init__(self) -> None:
        self._transport: Optional[asyncio.WriteTransport] = None
        self._drained = asyncio.Event()
        self._drained.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._transport.set_write_buffer_limits(high=1, low=0)  # type: ignore[union-attr]

    def pause_writing(self) -> None:
        self._drained.clear()

    def resume_writing(self) -> None:
        self._drained.set()

    def connection_lost(self, _error: Optional[Exception]) -> None:
        self._transport = None
        self._drained.set()

    def send(self, frame: dict[str, Any]) -> None:
        if self._transport is not None:
            self._transport.write(to_frame(frame))

    def send_progress(self, number: Any, progress: Progress) -> None:
        transport = self._transport
        if transport and transport.get_write_buffer_size() < _PROGRESS_BACKLOG_BYTES:
            self.send({"id": number, "progress": asdict(progress)})

    def send_event(self, event: Event) -> None:
        """Send what happened; a reader this far behind has to look for himself anyway."""
        transport = self._transport
        if transport and transport.get_write_buffer_size() < _PROGRESS_BACKLOG_BYTES:
            self.send({"event": encode(event)})

    async def close(self, *, timeout_seconds: float) -> None:
        """Give the reader that long to take what is left."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._drained.wait(), timeout_seconds)
        if self._transport is not None:
            self._transport.abort()
            self._transport = None


class _Server:
    def __init__(self, runner: Runner, sink: _Sink) -> None:
        self._runner = runner
        self._sink = sink
        self._asked: set[asyncio.Task[None]] = set()

    async def listen(self, source: Source) -> None:
        """Take frames until the stream ends; raises LostFramingError when it is rubbish."""
        while True:
            try:
                frame = await asyncio.wait_for(read_frame(source), SILENCE_SECONDS)
            except asyncio.TimeoutError:
                log.warning("nothing came for %.0f s, ending", SILENCE_SECONDS)
                return
            except Refused as problem:
                self._sink.send({"id": None, "problem": problem.to_json()})
                continue
            if frame is None:
                return
            if "ping" in frame:
                self._sink.send({"pong": frame["ping"]})
                continue
            task = asyncio.ensure_future(self._answer(frame))
            self._asked.add(task)
            task.add_done_callback(self._asked.discard)

    async def _answer(self, frame: dict[str, Any]) -> None:
        number = frame.get("id")
        try:
            action, boot_id, deadline_seconds = _addressed(frame)
            request = decode_request(frame.get("verb"), frame.get("body"))
            answer = await self._runner.run(
                request,
                action=action,
                boot_id=boot_id,
                deadline_seconds=deadline_seconds,
                report=lambda progress: self._sink.send_progress(number, progress),
            )
            self._sink.send({"id": number, "result": encode(answer)})
        except Problem as problem:
            self._sink.send({"id": number, "problem": problem.to_json()})

    async def settle(self) -> None:
        """Wait until every question has its answer."""
        if self._asked:
            await asyncio.wait(set(self._asked))


def _addressed(frame: dict[str, Any]) -> tuple[str, str, float]:
    action, boot_id = frame.get("action"), frame.get("boot_id")
    deadline = frame.get("deadline_seconds")
    timed = isinstance(deadline, (int, float)) and not isinstance(deadline, bool)
    if not (isinstance(action, str) and isinstance(boot_id, str) and timed):
        raise Refused(
            "wire.bad-message", "cannot read a request: action, boot id or deadline is missing"
        )
    return action, boot_id, float(deadline)  # type: ignore[arg-type]


async def serve(
    runner: Runner, *, code_hash: str, stdin: int, stdout: int, watch: Optional[Watch] = None
) -> int:
    """Serve one wire to its end and return the exit code; takes both descriptors over.

    What `watch` tells goes over the wire as events; that it fails does not end anything else.
    SIGHUP is ignored; SIGTERM and SIGINT cancel the actions, record them and end.
    """
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    reader = asyncio.StreamReader()
    incoming, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(stdin, "rb", buffering=0)
    )
    sink = _Sink()
    await loop.connect_write_pipe(lambda: sink, os.fdopen(stdout, "wb", buffering=0))
    sink.send({"hello": _hello(runner.boot_id, code_hash)})

    server = _Server(runner, sink)
    watching = asyncio.ensure_future(_watched(watch, sink.send_event))
    listening = asyncio.ensure_future(server.listen(reader))
    stopping = asyncio.ensure_future(stopped.wait())
    try:
        await asyncio.wait({listening, stopping}, return_when=asyncio.FIRST_COMPLETED)
        await _cancelled(watching)
        ending = asyncio.ensure_future(runner.drain())
        await asyncio.wait({ending, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if stopped.is_set():
            await runner.stop()
            ending.cancel()
        await asyncio.wait_for(server.settle(), 1.0)
    except asyncio.TimeoutError:
        log.warning("some actions did not end in time")
    finally:
        code = _verdict(listening)
        stopping.cancel()
        await _cancelled(watching)
        incoming.close()
        await sink.close(timeout_seconds=1.0)
    return code


async def _watched(watch: Optional[Watch], tell: Tell) -> None:
    try:
        if watch is not None:
            await watch(tell)
    except Exception:
        log.exception("cannot watch any more; periodic listings go on")


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})


def _hello(boot_id: str, code_hash: str) -> dict[str, Any]:
    return {
        "boot_id": boot_id,
        "pid": os.getpid(),
        "python": platform.python_version(),
        "hash": code_hash,
        "cpu_flags": " ".join(cpu_flags()),
    }


def _verdict(listening: asyncio.Task[None]) -> int:
    if not listening.done():
        listening.cancel()
        return 0
    error = listening.exception()
    if isinstance(error, LostFramingError):
        sys.stderr.write(f"{error}\n")
        return 2
    if error is not None:
        raise error
    return 0
