"""Accepted wishes: durable in the database, their news in memory, and waiting for either.

In: new changes, sentences of progress, verdicts. Out: changes as they are now. Intermediate
progress is not written to the disk: it is worthless after a crash.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from poold.errors import Refused
from poold.model.fleet import Change, ChangeId, ChangeKind, ChangeState, Phases
from poold.store.database import Database

NEWS_INTERVAL_SECONDS = 0.25
KEEP_CHANGES = 20_000  # ended ones; what is pending is never forgotten


class Changes:
    """The log of changes. `clock` counts seconds since the epoch."""

    def __init__(
        self, database: Database, clock: Callable[[], float], *, keep: int = KEEP_CHANGES
    ) -> None:
        self._database = database
        self._keep = keep
        self._clock = clock
        self._news: dict[ChangeId, tuple[int, str]] = {}
        self._told_at: dict[ChangeId, float] = {}
        self._waiters: set[asyncio.Future[None]] = set()
        self._catching_up: set[ChangeId] = set()
        # The last life counted news in memory: continue above anything it may have shown.
        database.tidy("changes_renumber")

    def add(
        self,
        *,
        pool: str,
        kind: ChangeKind,
        wish: Mapping[str, object],
        actor: str,
        reason: str,
        done: str | None,
    ) -> Change:
        """Accept a change, within the caller's transaction.

        One with something `done`, in words, is born settled.
        """
        now = self._clock()
        row = self._database.run(
            "change_add",
            pool=pool,
            kind=kind,
            wish=json.dumps(wish),
            actor=actor,
            reason=reason,
            created_at=now,
            state="pending" if done is None else "settled",
            progress="accepted" if done is None else done,
            settled_at=None if done is None else now,
        )
        self._database.run("changes_prune", keep=self._keep)
        return self.must(ChangeId(row))

    def get(self, change: ChangeId) -> Change | None:
        """Return one change."""
        row = self._database.row("change_get", id=change)
        return self._read(row) if row else None

    def must(self, change: ChangeId) -> Change:
        """Return one change; raises Refused("change.unknown")."""
        found = self.get(change)
        if found is None:
            raise Refused("change.unknown", f"cannot find change {change}")
        return found

    def newest(self, pool: str | None, limit: int) -> tuple[Change, ...]:
        """Return the newest changes first."""
        return tuple(map(self._read, self._database.rows("changes_list", pool=pool, limit=limit)))

    def pending(self, pool: str | None = None) -> tuple[Change, ...]:
        """Return the changes that are not settled, oldest first."""
        return tuple(map(self._read, self._database.made("changes_pending", tuple, pool=pool)))

    def tell(self, change: ChangeId, progress: str) -> None:
        """Replace a change's sentence, at most four times a second for those who wait.

        The last of a quick succession reaches them too: it may be what is said for minutes.
        """
        seq, last = self._news.get(change, (0, ""))
        if progress == last:
            return
        self._news[change] = (seq, progress)
        left = self._told_at.get(change, 0.0) + NEWS_INTERVAL_SECONDS - time.monotonic()
        if last and left > 0:
            self._pass_on_later(change, left)
        else:
            self._pass_on(change)

    def _pass_on(self, change: ChangeId) -> None:
        self._catching_up.discard(change)
        if change in self._news:
            seq, progress = self._news[change]
            self._told_at[change] = time.monotonic()
            self._news[change] = (seq + 1, progress)
            self._wake()

    def _pass_on_later(self, change: ChangeId, seconds: float) -> None:
        if change not in self._catching_up:
            with contextlib.suppress(RuntimeError):  # without a loop nobody can wait for news
                asyncio.get_running_loop().call_later(seconds, self._pass_on, change)
                self._catching_up.add(change)

    def end(
        self,
        change: ChangeId,
        state: ChangeState,
        *,
        progress: str,
        problem: Mapping[str, object] | None = None,
        phases: Phases | None = None,
    ) -> bool:
        """Settle or fail a pending change; one that ended already stays as it is: False."""
        before = self.get(change)
        if before is None or before.state != "pending":
            return False
        self._database.run(
            "change_end",
            id=change,
            state=state,
            progress=progress,
            seq=before.seq + 1,
            problem=json.dumps(problem) if problem else None,
            phases=json.dumps({**before.phases, **(phases or {})}),
            settled_at=self._clock(),
        )
        return True

    def ended(self, change: ChangeId) -> None:
        """Let go of a change's news and wake those who wait; call it after the commit."""
        self._news.pop(change, None)
        self._told_at.pop(change, None)
        self._wake()

    async def wait(self, change: ChangeId, *, after_seq: int, timeout_seconds: float) -> Change:
        """Return the change once its seq is above `after_seq` or it ended, or at the timeout."""
        try:
            async with asyncio.timeout(max(0.0, timeout_seconds)):
                while True:
                    found = self.must(change)
                    if found.seq > after_seq or found.state != "pending":
                        return found
                    await self._next_news()
        except TimeoutError:
            return self.must(change)

    async def _next_news(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def _wake(self) -> None:
        for waiter in tuple(self._waiters):
            if not waiter.done():
                waiter.set_result(None)

    def _read(self, row: sqlite3.Row) -> Change:
        fields: dict[str, Any] = dict(row)
        for name in ("wish", "problem", "phases"):
            fields[name] = json.loads(fields[name]) if fields[name] else None
        change = Change(**fields)
        if change.state != "pending" or change.id not in self._news:
            return change
        count, progress = self._news[change.id]
        return replace(change, seq=change.seq + count, progress=progress)
