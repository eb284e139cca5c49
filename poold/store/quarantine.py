"""Which generations could not be restored where.

In and out: the same values, durably. When one is put here and when it is let go is decided in
`poold.reconcile.quarantine`, or by an operator.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable

from poold.model.fleet import Digest, HostName, PoolName, Quarantine
from poold.store.database import Database


class Quarantines:
    """Part of the store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self, pool: str | None = None) -> tuple[Quarantine, ...]:
        """Return them by host, the newest generation first; those whose time is over too."""
        return self._database.made("quarantine_list", _quarantines, pool=pool)

    def of(self, pool: PoolName, digest: Digest, host: HostName) -> Quarantine | None:
        """Return what is known of one generation on one host."""
        found = (q for q in self.all(pool) if q.digest == digest and q.host == host)
        return next(found, None)

    def put(self, quarantine: Quarantine) -> None:
        """Write or replace what is known of one generation on one host."""
        self._database.run(
            "quarantine_put",
            pool=quarantine.pool,
            generation=quarantine.generation,
            digest=quarantine.digest,
            host=quarantine.host,
            since=quarantine.since,
            until=quarantine.until,
            failures=quarantine.failures,
            problem=json.dumps(quarantine.problem),
            found_with=json.dumps(quarantine.found_with),
        )

    def drop(
        self, *, pool: str | None = None, digest: Digest | None = None, host: str | None = None
    ) -> None:
        """Forget those that fit everything that is given."""
        self._database.run("quarantine_drop", pool=pool, digest=digest, host=host)


def _quarantines(rows: Iterable[sqlite3.Row]) -> tuple[Quarantine, ...]:
    return tuple(
        Quarantine(
            **{
                **dict(row),
                "problem": json.loads(row["problem"]),
                "found_with": json.loads(row["found_with"]),
            }
        )
        for row in rows
    )
