"""Doing an action once: join it, look its outcome up, or do it, within a deadline.

Flows in: requests with an action id, the boot id they are meant for and a deadline. Flows out:
answers, problems and progress. The same for an agent behind a wire and one in the daemon's own
process. It refuses to know what the actions do and how the requests came.

The one who asked may go away: the action goes on and is recorded. Reading verbs are not recorded
and end with the one who asked.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
import traceback
from pathlib import Path
from typing import Any, Callable, Optional, Protocol, TypeVar, cast

from poold.agent import blobs
from poold.agent.codec import decode, encode
from poold.agent.failpoints import failpoint
from poold.agent.journal import Claim, Journal, Outcome
from poold.agent.messages import Progress, Request, StatBlob
from poold.errors import Permanent, Problem, Refused, Temporary, problem_from_json

R = TypeVar("R")
Report = Callable[[Progress], None]

READING = frozenset({"observe", "logs", "stat-blob", "find-image", "examine"})
# What an action gets to undo itself after its deadline or a SIGTERM: its engine may take 7 s to end
# a program, and removing what that left 8 s more.
CLEAN_UP_SECONDS = 20.0
_POLL_SECONDS = 0.05  # of a record that another process holds: flock has no event

log = logging.getLogger(__name__)


class Handler(Protocol):
    """What does the actions: `poold.agent.actions.Actions`, or a test's.

    Raises Problem; when it is cancelled it undoes what it began, within CLEAN_UP_SECONDS, and
    lets the cancellation through (or ends properly where undoing is worse than finishing).
    """

    async def handle(self, request: Request[R], *, action: str, report: Report) -> R:
        """Do one action and return its answer. Called once for each action id."""


class _Action:
    """An action that runs in this process, and who listens to its progress.

    `ended` is its record being written too; `doing` is the handler's part, the only one that is
    ever cancelled.
    """

    def __init__(self, question: str) -> None:
        self.question = question
        self.ended: Optional[asyncio.Task[Outcome]] = None
        self.doing: Optional[asyncio.Task[Any]] = None
        self.latest: Optional[Progress] = None
        self.listeners: list[Report] = []
        self.stopped_by: Optional[Temporary] = None

    def report(self, progress: Progress) -> None:
        self.latest = progress
        for listener in list(self.listeners):
            listener(progress)

    def stop(self, reason: Temporary) -> None:
        if self.stopped_by is None:
            self.stopped_by = reason
            if self.doing is not None:
                self.doing.cancel()


class Runner:
    """Does each action once. For one event loop."""

    def __init__(self, root: Path, handler: Handler, journal: Journal, boot_id: str) -> None:
        self.boot_id = boot_id
        self._root = root
        self._handler = handler
        self._journal = journal
        self._running: dict[str, _Action] = {}
        self._reading: set[asyncio.Task[Any]] = set()
        self._closing = False

    async def run(
        self,
        request: Request[R],
        *,
        action: str,
        boot_id: str,
        deadline_seconds: float,
        report: Report,
    ) -> R:
        """Return the outcome of the action, doing it if nobody has; raises its Problem.

        The deadline counts from now. Past it the action is cancelled, has CLEAN_UP_SECONDS to
        undo itself, and its outcome is Temporary("action.deadline").
        """
        if boot_id != self.boot_id:
            raise Temporary(
                "host.rebooted", f"cannot do action {action}: the host rebooted since it was asked"
            )
        if self._closing:
            raise Temporary("action.interrupted", f"cannot do action {action}: the agent is ending")
        deadline_at = time.monotonic() + max(deadline_seconds, 0.0)
        if request.verb in READING:
            return await self._read(request, action, deadline_at, report)
        outcome = await self._act(request, action, deadline_at, report)
        if outcome.problem is not None:
            raise problem_from_json(outcome.problem)
        return cast("R", decode(request.answer, outcome.result))

    # -- reading ----------------------------------------------------------------------------------

    async def _read(
        self, request: Request[R], action: str, deadline_at: float, report: Report
    ) -> R:
        task = asyncio.ensure_future(self._answer(request, action, report))
        self._reading.add(task)
        try:
            done, _ = await asyncio.wait({task}, timeout=deadline_at - time.monotonic())
            if not done:
                raise _past_deadline(action)
            if task.cancelled():
                raise _interrupted(action)
            return task.result()
        finally:
            self._reading.discard(task)
            if not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=CLEAN_UP_SECONDS)

    async def _answer(self, request: Request[R], action: str, report: Report) -> R:
        if isinstance(request, StatBlob):
            return cast("R", await blobs.in_thread(blobs.stat, self._root, request.path))
        try:
            return await self._handler.handle(request, action=action, report=report)
        except (Problem, asyncio.CancelledError):
            raise
        except Exception as error:
            raise _bug(request, error) from error

    # -- acting -----------------------------------------------------------------------------------

    async def _act(
        self, request: Request[Any], action: str, deadline_at: float, report: Report
    ) -> Outcome:
        question = _question(request)
        while True:
            running = self._running.get(action)
            if running is not None:
                return await self._join(running, action, question, deadline_at, report)
            claim = self._journal.claim(action, question)
            if isinstance(claim, Outcome):
                return claim
            if isinstance(claim, Claim):
                self._begin(request, action, question, deadline_at, claim)
            else:
                await _look_again(action, deadline_at)

    def _begin(
        self, request: Request[Any], action: str, question: str, deadline_at: float, claim: Claim
    ) -> None:
        running = _Action(question)
        self._running[action] = running
        timer = asyncio.get_running_loop().call_later(
            deadline_at - time.monotonic(), running.stop, _past_deadline(action)
        )
        running.ended = asyncio.ensure_future(self._do(request, action, running, claim))
        running.ended.add_done_callback(lambda _: timer.cancel())

    async def _do(
        self, request: Request[Any], action: str, running: _Action, claim: Claim
    ) -> Outcome:
        outcome = Outcome(problem=_interrupted(action).to_json())
        try:
            failpoint("action.begun", request.verb)
            outcome = await self._outcome(request, action, running)
            failpoint("action.before_recorded", request.verb)
        finally:
            self._running.pop(action, None)
            try:
                claim.finish(outcome)
            except OSError:
                log.exception("cannot record an outcome", extra={"action": action})
        failpoint("action.recorded", request.verb)
        return outcome

    async def _outcome(self, request: Request[Any], action: str, running: _Action) -> Outcome:
        running.doing = asyncio.ensure_future(
            self._handler.handle(request, action=action, report=running.report)
        )
        if running.stopped_by is not None:
            running.doing.cancel()
        await asyncio.wait({running.doing})
        if running.doing.cancelled():
            return Outcome(problem=(running.stopped_by or _interrupted(action)).to_json())
        error = running.doing.exception()
        if error is None:
            return Outcome(result=encode(running.doing.result()))
        if isinstance(error, Problem):
            return Outcome(problem=error.to_json())
        log.error("%s failed", request.verb, extra={"action": action}, exc_info=error)
        return Outcome(problem=_bug(request, error).to_json())

    async def _join(
        self, running: _Action, action: str, question: str, deadline_at: float, report: Report
    ) -> Outcome:
        """Wait for an action of this process: until the caller's deadline and its undoing."""
        if running.question != question:
            raise Refused(
                "action.id-reused", f"cannot do action {action}: its id was used for another one"
            )
        assert running.ended is not None  # noqa: S101 - set where it is put into the table
        running.listeners.append(report)
        try:
            if running.latest is not None:
                report(running.latest)
            left = max(0.0, deadline_at - time.monotonic())
            await asyncio.wait({running.ended}, timeout=left + CLEAN_UP_SECONDS)
            if not running.ended.done():
                raise _past_deadline(action, "; it is still being undone")
            return running.ended.result()
        finally:
            running.listeners.remove(report)

    # -- ending -----------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Wait for the actions under way; each has its deadline. Drops what only reads."""
        self._closing = True
        await self._drop_reading()
        while self._running:
            await asyncio.wait([each.ended for each in self._running.values() if each.ended])

    async def stop(self) -> None:
        """Cancel everything and wait for it, CLEAN_UP_SECONDS at most. Idempotent."""
        self._closing = True
        await self._drop_reading()
        for action, each in self._running.items():
            each.stop(_interrupted(action))
        tasks = [each.ended for each in self._running.values() if each.ended]
        if tasks:
            await asyncio.wait(tasks, timeout=CLEAN_UP_SECONDS)

    async def _drop_reading(self) -> None:
        for task in self._reading:
            task.cancel()
        if self._reading:
            await asyncio.wait(set(self._reading), timeout=CLEAN_UP_SECONDS)


async def _look_again(action: str, deadline_at: float) -> None:
    """Wait a moment for an action of another process, whose progress cannot be seen."""
    left = deadline_at - time.monotonic()
    if left <= 0:
        raise _past_deadline(action, "; another agent process is still at it")
    await asyncio.sleep(min(_POLL_SECONDS, left))


def _question(request: Request[Any]) -> str:
    text = json.dumps([request.verb, encode(request)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _past_deadline(action: str, more: str = "") -> Temporary:
    return Temporary("action.deadline", f"cannot finish action {action} in time{more}")


def _interrupted(action: str) -> Temporary:
    return Temporary(
        "action.interrupted", f"cannot finish action {action}: the agent was told to stop"
    )


def _bug(request: Request[Any], error: BaseException) -> Permanent:
    return Permanent(
        "agent.bug",
        f"cannot complete {request.verb}: {type(error).__name__} in the agent",
        hint="please report it, with the detail",
        detail="".join(traceback.format_exception(type(error), error, error.__traceback__))[-4000:],
    )
