"""The daemon's end of one connection to an agent.

Flows in: requests. Flows out: answers, problems, progress, and that the connection is lost. A
connection is lost when it ends, or when nothing answers pings any more: a peer that vanished or
froze says nothing by itself. It refuses to know what carries the bytes and whether there will be
another connection.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from poold.agent.codec import decode, encode
from poold.agent.frames import LostFramingError, Source, read_frame, to_frame
from poold.agent.messages import Event, Progress, Request
from poold.errors import Permanent, Problem, Temporary, problem_from_json
from poold.hosts.base import OnEvent, OnProgress

R = TypeVar("R")

log = logging.getLogger(__name__)


class WireLostError(Exception):
    """The connection is gone; what was asked may or may not have been done."""


@dataclass(frozen=True)
class Hello:
    """The agent's first words."""

    boot_id: str
    pid: int
    python: str
    hash: str
    cpu_flags: str  # separated by spaces


@dataclass(frozen=True)
class Heartbeat:
    """A ping every so often; that many in a row without a word from the peer: lost."""

    interval_seconds: float = 1.0
    unanswered: int = 4


class _Question:
    def __init__(self, progress: OnProgress | None) -> None:
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._progress = progress

    def report(self, value: Any) -> None:
        if self._progress is not None:
            self._progress(decode(Progress, value))


class Wire:
    """One connection. `greet` once, then `run` until it is lost; `ask` meanwhile."""

    def __init__(
        self,
        source: Source,
        write: Callable[[bytes], None],
        heartbeat: Heartbeat,
        heard: OnEvent | None = None,
    ) -> None:
        self._source = source
        self._write = write
        self._heartbeat = heartbeat
        self._heard = heard
        self._numbers = itertools.count(1)
        self._questions: dict[int, _Question] = {}
        self._unanswered = 0
        self._lost: str | None = None

    async def greet(self) -> Hello:
        """Read the agent's first words; the caller bounds the wait."""
        frame = await self._read()
        if frame is None or "hello" not in frame:
            raise WireLostError("it ended before it said anything")
        return decode(Hello, frame["hello"])

    async def ask(
        self,
        request: Request[R],
        *,
        action: str,
        boot_id: str,
        deadline_seconds: float,
        progress: OnProgress | None = None,
    ) -> R:
        """Ask and wait; the agent keeps the deadline. Raises the agent's Problem, WireLostError."""
        if self._lost is not None:
            raise WireLostError(self._lost)
        number, question = next(self._numbers), _Question(progress)
        frame = to_frame(
            {
                "id": number,
                "verb": request.verb,
                "body": encode(request),
                "action": action,
                "boot_id": boot_id,
                "deadline_seconds": deadline_seconds,
            }
        )
        self._questions[number] = question
        try:
            self._send(frame)
            return cast("R", decode(request.answer, await question.answer))
        finally:
            del self._questions[number]

    async def run(self) -> str:
        """Carry answers until the connection is lost, and return why; then nothing can be asked."""
        listening = asyncio.ensure_future(self._listen())
        watching = asyncio.ensure_future(self._watch())
        try:
            done, _ = await asyncio.wait({listening, watching}, return_when=asyncio.FIRST_COMPLETED)
            self._lost = done.pop().result()
        finally:
            self._lost = self._lost or "the link was closed"
            listening.cancel()
            watching.cancel()
            for question in self._questions.values():
                if not question.answer.done():
                    question.answer.set_exception(WireLostError(self._lost))
            await asyncio.wait({listening, watching})
        return self._lost

    async def _listen(self) -> str:
        while True:
            try:
                frame = await self._read()
            except WireLostError as lost:
                return str(lost)
            if frame is None:
                return "the agent ended"
            self._unanswered = 0
            self._take(frame)

    async def _read(self) -> dict[str, Any] | None:
        try:
            return await read_frame(self._source)
        except (Problem, LostFramingError) as error:
            raise WireLostError(f"it sent what cannot be understood: {error}") from error
        except Exception as error:  # whatever the carrier raises, it is gone
            raise WireLostError(str(error) or type(error).__name__) from error

    def _take(self, frame: dict[str, Any]) -> None:
        if "pong" in frame:
            return
        if "event" in frame:
            self._hear(frame["event"])
            return
        number = frame.get("id")
        question = self._questions.get(number) if isinstance(number, int) else None
        if question is None:
            if number is None:
                log.error("the agent could not read a frame: %s", frame.get("problem"))
            return  # whoever asked has stopped waiting
        if "progress" in frame:
            self._report(question, frame["progress"])
        elif question.answer.done():
            return
        elif "problem" in frame:
            question.answer.set_exception(problem_from_json(frame["problem"]))
        else:
            question.answer.set_result(frame.get("result"))

    def _report(self, question: _Question, progress: Any) -> None:
        """Pass progress on; a listener that fails must not end the connection of all others."""
        try:
            question.report(progress)
        except Exception:
            log.exception("cannot pass progress on")

    def _hear(self, event: Any) -> None:
        """Pass an event on; the same holds for who listens to it."""
        try:
            if self._heard is not None:
                self._heard(decode(Event, event))
        except Exception:
            log.exception("cannot pass an event on")

    async def _watch(self) -> str:
        """Count pings, not seconds: a daemon that was itself stopped must not blame the peer."""
        while self._unanswered < self._heartbeat.unanswered:
            self._unanswered += 1
            try:
                self._send(to_frame({"ping": self._unanswered}))
            except WireLostError as lost:
                return str(lost)
            await asyncio.sleep(self._heartbeat.interval_seconds)
        return f"it has not answered the last {self._unanswered} pings"

    def _send(self, frame: bytes) -> None:
        try:
            self._write(frame)
        except OSError as error:
            raise WireLostError(str(error) or type(error).__name__) from error


def unreachable(host: str, reason: str) -> Temporary:
    """Say that a host's agent cannot be asked now."""
    return Temporary(
        "host.unreachable",
        f"cannot reach host {host}: {reason}",
        hint="its replicas stay reserved; poold keeps trying",
        retry_after_seconds=1.0,
    )


def link_bug(host: str, error: Exception) -> Permanent:
    """Say that reaching a host failed in a way that nobody foresaw."""
    return Permanent("host.link", f"cannot reach host {host}: {type(error).__name__}: {error}")
