"""The log of what happened: durable, bounded, and waited for.

In: events, within whatever transaction they belong to. Out: events by id. The file is the buffer of
every reader: nobody's slowness costs memory here.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Mapping
from typing import Any

from poold.model.events import Event
from poold.store.database import Database

KEEP_EVENTS = 10_000
KEEP_SECONDS = 14 * 86400.0
_PRUNE_EVERY = 256  # so many events may be there above KEEP_EVENTS
_LONGEST_TEXT = 1000


class Events:
    """One log. `clock` counts seconds since the epoch."""

    def __init__(
        self, database: Database, clock: Callable[[], float], *, keep: int = KEEP_EVENTS
    ) -> None:
        self._database = database
        self._clock = clock
        self._keep = keep
        self._waiters: set[asyncio.Future[None]] = set()
        self._prune()

    def add(
        self,
        kind: str,
        text: str,
        *,
        pool: str = "",
        replica: str = "",
        host: str = "",
        change: int | None = None,
        data: Mapping[str, object] | None = None,
    ) -> None:
        """Record that something happened; undone with the transaction that it is part of."""
        row = self._database.run(
            "event_add",
            at=self._clock(),
            kind=kind,
            text=text[:_LONGEST_TEXT],
            pool=pool,
            replica=replica,
            host=host,
            change_id=change,
            data=json.dumps(data or {}),
        )
        if row % _PRUNE_EVERY == 0:
            self._prune()
        # Readers run when this task waits next, and nobody waits within a transaction.
        for waiter in tuple(self._waiters):
            if not waiter.done():
                waiter.set_result(None)

    def after(self, event: int, *, pool: str | None = None, limit: int) -> tuple[Event, ...]:
        """Return the oldest events with a higher id, oldest first."""
        rows = self._database.rows("events_after", after=event, pool=pool, limit=limit)
        return tuple(map(_event, rows))

    def newest(self, *, pool: str | None = None, limit: int) -> tuple[Event, ...]:
        """Return the newest events, oldest first."""
        rows = self._database.rows("events_newest", pool=pool, limit=limit)
        return tuple(map(_event, reversed(rows)))

    def bounds(self) -> tuple[int, int]:
        """Return the ids of the oldest event kept (0: none) and of the last one ever added."""
        row = self._database.row("events_bounds")
        return (row["first"], row["last"]) if row else (0, 0)

    async def wait(self, event: int) -> None:
        """Return once an event with a higher id was added."""
        while self.bounds()[1] <= event:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)

    def _prune(self) -> None:
        self._database.tidy("events_prune", oldest=self._clock() - KEEP_SECONDS, keep=self._keep)


def _event(row: sqlite3.Row) -> Event:
    fields: dict[str, Any] = dict(row)
    fields["change"] = fields.pop("change_id")
    fields["data"] = json.loads(fields["data"])
    return Event(**fields)
