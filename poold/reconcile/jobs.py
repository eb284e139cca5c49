"""Actions under way, one task each: begun once a subject, ended or let go of.

In: what to do, for which pool and subject, at which hosts. Out: what is busy; whoever needs to know
is told when one ends, whatever it ended in. It does not know what the actions do.

Cancelled, an action goes on where it is: only the waiting for it ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from poold.errors import Permanent, Problem
from poold.model.fleet import HostName, PoolName
from poold.reconcile.backoff import Backoff

LOG = logging.getLogger(__name__)
Doing = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Job:
    text: str
    hosts: frozenset[HostName]
    task: asyncio.Task[None]


class Jobs:
    """The table of what is under way. `after_bug_seconds`: the rest after an unforeseen failure."""

    def __init__(
        self, backoff: Backoff, *, after_bug_seconds: float, ended: Callable[[PoolName], None]
    ) -> None:
        self._backoff = backoff
        self._after_bug_seconds = after_bug_seconds
        self._ended = ended
        self._jobs: dict[tuple[PoolName, str], _Job] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def busy(self, pool: PoolName) -> dict[str, str]:
        """Return the subjects of a pool that something is done with, and what."""
        return {s: job.text for (owner, s), job in self._jobs.items() if owner == pool}

    def begin(
        self, pool: PoolName, subject: str, text: str, doing: Doing, hosts: Collection[HostName]
    ) -> None:
        """Do something, unless something is being done with the subject already."""
        if (pool, subject) not in self._jobs:
            task = asyncio.create_task(self._do(pool, subject, doing), name=f"{pool}: {text}")
            self._jobs[pool, subject] = _Job(text, frozenset(hosts), task)

    def cancel(self, at: Callable[[HostName], bool]) -> None:
        """Let go of what is under way at certain hosts, at once."""
        for key, job in tuple(self._jobs.items()):
            if any(at(host) for host in job.hosts):
                self._jobs.pop(key).task.cancel()

    async def close(self) -> None:
        """Let go of everything."""
        tasks = [job.task for job in self._jobs.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._jobs.clear()

    async def drain(self) -> None:
        """Wait until nothing is under way."""
        while self._jobs:
            await asyncio.wait([job.task for job in self._jobs.values()])

    async def _do(self, pool: PoolName, subject: str, doing: Doing) -> None:
        try:
            await doing()
        except Exception as error:
            if isinstance(error, Problem) and error.code.startswith("store."):
                problem: Problem = error  # no bug: it says itself what is wrong with the disk
                LOG.error("%s", error, extra={"action": "store_failed", "pool": pool})  # noqa: TRY400
            else:
                LOG.exception("an action failed", extra={"action": "bug", "pool": pool})
                problem = Permanent("daemon.failed", f"cannot finish {subject}: {error}")
            self._backoff.failed(pool, subject, problem, definite=False)
            await asyncio.sleep(self._after_bug_seconds)  # the store may be what fails, and fast
        finally:
            mine = self._jobs.get((pool, subject))
            if mine is not None and mine.task is asyncio.current_task():  # not its successor's
                self._jobs.pop((pool, subject))
            self._ended(pool)
