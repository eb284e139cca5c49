"""Minding the replicas of this host: their ends by event, their silence by a probe.

Flows in: the records of replicas as they change, the liveness checks of their pools. Flows out:
events for whoever is told, and which replicas give no sign of life. It removes nothing and decides
nothing: an event only says that it is worth a look.

The end of a replica is the end of its first process or of its conmon, seen by pidfd: no child
process, no polling, nothing to do while all is well, one descriptor each. `podman events` would be
a second podman of 46 MB that has to be restarted and that says nothing of a container whose conmon
was killed.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Optional, Protocol, runtime_checkable

from poold.agent.messages import Event, LivenessCheck
from poold.agent.records import Record, Records
from poold.errors import Problem

Tell = Callable[[Event], None]
Attempt = Callable[[Record, LivenessCheck], Awaitable[str]]  # "" is a sign of life
NameLock = Callable[[str], AbstractAsyncContextManager[None]]

log = logging.getLogger(__name__)


@runtime_checkable
class Watchful(Protocol):
    """A handler that notices things by itself."""

    async def watch(self, tell: Tell) -> None:
        """Tell events until cancelled."""


@dataclass
class _Minded:
    """A replica that is watched, and by which tasks; `death` None: it could not be watched."""

    record: Record
    death: Optional[asyncio.Task[None]] = None
    check: Optional[LivenessCheck] = None
    asking: Optional[asyncio.Task[None]] = None


class Minder:
    """Minds the replicas on record. For one event loop; idle outside of `watch`."""

    def __init__(
        self,
        records: Records,
        lost: Callable[[str], Awaitable[str]],
        attempt: Attempt,
        name_lock: NameLock,
    ) -> None:
        """`lost` returns when a container has ended, and how; `name_lock` as the actions' own."""
        self._records = records
        self._lost = lost
        self._attempt = attempt
        self._lock = name_lock
        self._tell: Optional[Tell] = None
        self._minded: dict[str, _Minded] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._checks: Mapping[tuple[str, str], LivenessCheck] = {}
        self._silent: dict[str, str] = {}
        records.listen(self._changed)

    async def watch(self, tell: Tell) -> None:
        """Mind every replica, adopted ones included, until cancelled."""
        self._tell = tell
        try:
            self.look_again()
            await asyncio.Event().wait()
        finally:
            self._tell = None
            for name in list(self._minded):
                self._leave(name)
            while self._ending:
                await asyncio.wait(set(self._ending))

    def look_again(self) -> None:
        """Go by the records as they are: another agent's process may have written some."""
        if self._tell is None:
            return
        records = self._records.all()
        for name in self._minded.keys() - records.keys():
            self._leave(name)
        for name, record in records.items():
            self._changed(name, record)

    def use(self, fleet: str, checks: Mapping[str, LivenessCheck]) -> None:
        """Take over a fleet's liveness checks, by pool."""
        others = {key: check for key, check in self._checks.items() if key[0] != fleet}
        self._checks = {**others, **{(fleet, pool): check for pool, check in checks.items()}}
        self.look_again()

    def silence(self, container_id: str) -> str:
        """Say why a replica counts as dead though it runs; "" for one that lives."""
        return self._silent.get(container_id, "")

    # -- who is minded ----------------------------------------------------------------------------

    def _changed(self, name: str, record: Optional[Record]) -> None:
        """Mind the container that is on record now; a frozen one ends on purpose."""
        if self._tell is None:
            return
        known = self._minded.get(name)
        wanted = record is not None and not record.frozen
        if known is not None and not (
            wanted and record and record.container_id == known.record.container_id
        ):
            self._leave(name)
            known = None
        if record is None or not wanted:
            return
        if known is None:
            known = self._minded[name] = _Minded(record)
        if known.death is None:
            known.death = self._begin(self._await_end(known))
        # What is frozen answers nothing; its end is an event like any other's.
        check = None if record.spare else self._checks.get((record.fleet, record.pool))
        if check != known.check:
            self._end(known.asking)
            self._silent.pop(record.container_id, None)
            known.check = check
            known.asking = self._begin(self._ask_on(record, check)) if check else None

    def _leave(self, name: str) -> None:
        minded = self._minded.pop(name)
        self._end(minded.death)
        self._end(minded.asking)
        self._silent.pop(minded.record.container_id, None)

    def _begin(self, work: Awaitable[None]) -> asyncio.Task[None]:
        return asyncio.ensure_future(work)

    def _end(self, task: Optional[asyncio.Task[None]]) -> None:
        if task is not None and not task.done():
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    def _say(self, kind: Literal["ended", "unresponsive", "answers-again"], record: Record,
             reason: str) -> None:  # fmt: skip
        if self._tell is not None:
            self._tell(Event(kind, record.name, record.container_id, time.time(), reason))

    # -- ends -------------------------------------------------------------------------------------

    async def _await_end(self, minded: _Minded) -> None:
        """Tell the end of a container that nobody ended on purpose.

        An action that ends it holds its name meanwhile, and changes its record before it lets go:
        then this task is cancelled while it waits for the name. What cannot be watched is tried
        again with the next listing.
        """
        record = minded.record
        try:
            reason = await self._lost(record.container_id)
        except Problem as problem:
            log.warning("cannot watch %s: %s", record.name, problem)
            minded.death = None
            return
        async with self._lock(record.name):
            self._say("ended", record, reason)

    # -- silence ----------------------------------------------------------------------------------

    async def _ask_on(self, record: Record, check: LivenessCheck) -> None:
        """Ask for ever; not while an action holds the name, which may freeze the replica."""
        count = Attempts(check.failures)
        await asyncio.sleep(check.interval_seconds * random.random())  # noqa: S311 - not all at once
        while True:
            async with self._lock(record.name):
                said = await self._once(record, check)
            news = count.after(said)
            if news == "dead":
                reason = f"not answering, {check.failures} times in a row: {said}"
                self._silent[record.container_id] = reason
                self._say("unresponsive", record, reason)
            elif news == "alive":
                self._silent.pop(record.container_id, None)
                self._say("answers-again", record, "")
            await asyncio.sleep(check.interval_seconds)

    async def _once(self, record: Record, check: LivenessCheck) -> str:
        """Ask once; what keeps the agent from asking says nothing about the replica."""
        try:
            return await self._attempt(record, check)
        except Problem as problem:
            log.warning("cannot ask %s whether it lives: %s", record.name, problem)
            return ""


class Attempts:
    """Counts attempts: the news is "dead" once after so many failures, "alive" once after that."""

    def __init__(self, failures: int) -> None:
        self._allowed = failures
        self._failed = 0

    def after(self, said: str) -> Literal["", "dead", "alive"]:
        """Count one attempt; "" was a sign of life."""
        was_dead = self._failed >= self._allowed
        self._failed = self._failed + 1 if said else 0
        if was_dead:
            return "" if said else "alive"
        return "dead" if self._failed >= self._allowed else ""
