"""What operators said of hosts, and letting go of one that will not answer again.

In: marks, and a host whose names are to be freed. Out: the same, durably. Whether a host may be
let go of is not decided here.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from poold.model.fleet import HostName, ReplicaName
from poold.store.database import Database

Mark = Literal["cordoned", "fenced"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostMark:
    """No new replica is placed there; `fenced`: and what ran there was declared dead."""

    host: HostName
    mark: Mark
    at: float
    actor: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Released:
    """The names that a host held, and those of them or others that were pinned to it."""

    names: tuple[ReplicaName, ...]
    unpinned: tuple[ReplicaName, ...]


class HostMarks:
    """Part of the store. `clock` counts seconds since the epoch."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    def all(self) -> Mapping[HostName, HostMark]:
        """Return the marked hosts."""
        return self._database.made("host_marks_list", _marks)

    def of(self, host: HostName) -> HostMark | None:
        """Return a host's mark."""
        return self.all().get(host)

    def fenced(self) -> frozenset[HostName]:
        """Return the hosts whose replicas were declared dead."""
        return frozenset(host for host, mark in self.all().items() if mark.mark == "fenced")

    def put(self, host: HostName, mark: Mark, *, actor: str, reason: str) -> None:
        """Mark a host, or change its mark."""
        self._database.run(
            "host_mark_put", host=host, mark=mark, at=self._clock(), actor=actor, reason=reason
        )

    def drop(self, host: HostName) -> None:
        """Unmark a host."""
        self._database.run("host_mark_drop", host=host)

    def known(self) -> frozenset[HostName]:
        """Return every host of which anything is remembered."""
        return frozenset(HostName(row["host"]) for row in self._database.rows("host_traces"))

    def names(self, host: HostName) -> tuple[ReplicaName, ...]:
        """Return the names that are a host's."""
        return tuple(ReplicaName(r["name"]) for r in self._database.rows("host_names", host=host))

    def release(self, host: HostName) -> Released:
        """Free a host's names and pins, and forget what was asked of it: nobody will answer.

        Only after somebody asserted that nothing runs there any more.
        """
        with self._database.transaction():
            pins = self._database.rows("host_pins", host=host)
            released = Released(self.names(host), tuple(ReplicaName(r["name"]) for r in pins))
            for query in ("host_pins_drop", "host_assignments_drop", "host_intents_drop"):
                self._database.run(query, host=host)
        return released

    def forget(self, host: HostName) -> Released:
        """Release a host and forget that it was ever there."""
        with self._database.transaction():
            released = self.release(host)
            for query in ("host_garbage_drop", "host_introductions_drop", "host_mark_drop"):
                self._database.run(query, host=host)
            self._database.run("quarantine_drop", pool=None, digest=None, host=host)
        return released


def _marks(rows: Iterable[sqlite3.Row]) -> Mapping[HostName, HostMark]:
    return {HostName(row["host"]): HostMark(**row) for row in rows}
