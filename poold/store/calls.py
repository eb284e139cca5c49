"""Accepted changing calls: the audit trail, and what a key of a repeated call was used for.

In: a call and its answer, in the transaction that accepted it. Out: the trail, and answers by key.
It does not know what a call means.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from poold.model.events import AcceptedCall
from poold.store.database import Database

KEY_SECONDS = 24 * 3600.0
KEEP_CALLS = 50_000  # keys are bounded by it as well


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """What a key was used for: a change, or an answer of another form."""

    fingerprint: str
    change: int | None
    status: int
    body: str = ""


class Calls:
    """The trail of one store. `clock` counts seconds since the epoch."""

    def __init__(
        self, database: Database, clock: Callable[[], float], *, keep: int = KEEP_CALLS
    ) -> None:
        self._database = database
        self._clock = clock
        self._keep = keep

    def find(self, actor: str, key: str) -> Remembered | None:
        """Return what the actor used a key for during the last day."""
        oldest = self._clock() - KEY_SECONDS
        row = self._database.row("call_by_key", actor=actor, key=key, oldest=oldest)
        if row is None:
            return None
        return Remembered(
            fingerprint=row["fingerprint"],
            change=row["change_id"],
            status=row["status"],
            body=row["body"] or "",
        )

    def add(
        self,
        *,
        actor: str,
        origin: str,
        operation: str,
        path: str,
        request: Mapping[str, object],
        pool: str,
        reason: str,
        key: str | None,
        answer: Remembered,
    ) -> None:
        """Record an accepted call, and forget what is too old or too much."""
        with self._database.transaction():
            now = self._clock()
            self._database.run("calls_forget_keys", oldest=now - KEY_SECONDS)
            self._database.run(
                "call_add",
                at=now,
                actor=actor,
                origin=origin,
                operation=operation,
                path=path,
                request=json.dumps(request),
                pool=pool,
                reason=reason,
                change_id=answer.change,
                key=key,
                fingerprint=answer.fingerprint if key else None,
                status=answer.status if key else None,
                body=answer.body if key else None,
            )
            self._database.run("calls_prune", keep=self._keep)

    def newest(self, *, pool: str | None = None, limit: int) -> tuple[AcceptedCall, ...]:
        """Return the newest calls first."""
        rows = self._database.rows("calls_newest", pool=pool, limit=limit)
        return tuple(map(_call, rows))

    def revision(self, pool: str) -> int:
        """Return a number that rises with everything wished of a pool; 0 before the first."""
        row = self._database.row("revision_get", pool=pool)
        return int(row["number"]) if row else 0

    def host_revision(self, host: str) -> int:
        """Return a number that rises with everything said of a host.

        0 before the first; and again when that is so long ago that its change is forgotten.
        """
        row = self._database.row("host_revision_get", host=host)
        return int(row["id"]) if row else 0

    def pool_of(self, replica: str) -> str | None:
        """Return the pool that wishes for a replica."""
        row = self._database.row("wish_get", name=replica)
        return str(row["pool"]) if row else None


def _call(row: sqlite3.Row) -> AcceptedCall:
    fields: dict[str, Any] = dict(row)
    fields["change"] = fields.pop("change_id")
    fields["request"] = json.loads(fields["request"])
    return AcceptedCall(**fields)
