"""The table of replicas, for the commands that show them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from poold.cli import tables
from poold.cli.output import print_table
from poold.cli.tables import Column
from poold.model.fleet import Replica, Spare

_REPLICAS = (
    Column("NAME"),
    Column("POOL"),
    Column("STATE"),
    Column("HOST"),
    Column("ADDRESS"),
    Column("BY"),
    Column("GEN", right=True),
    Column("TOOK", right=True),
    Column("AGE", right=True),
    Column("NOTE"),
)


_MEMORY = (
    Column("MEMORY", right=True),
    Column("PRIVATE", right=True),
    Column("ITS SHARE", right=True),
    Column("MERGED", right=True),
)


def print_replicas(replicas: Sequence[Replica], *, wide: bool = False) -> None:
    """Print replicas as a table; `wide`: with their memory."""
    now = time.time()
    rows = [
        (
            replica.name,
            replica.pool,
            replica.state,
            replica.host or "",
            replica.address or "",
            _by(replica),
            "" if replica.generation is None else str(replica.generation),
            tables.duration(replica.seconds),
            tables.age(replica.started_at, now),
            *(_memory(replica) if wide else ()),
            replica.reason,
        )
        for replica in replicas
    ]
    columns = (*_REPLICAS[:-1], *(_MEMORY if wide else ()), _REPLICAS[-1])
    print_table(columns, rows, empty="no replicas")


def _memory(replica: Replica) -> tuple[str, ...]:
    found = replica.memory
    if found is None:
        return ("",) * len(_MEMORY)
    values = (found.resident, found.private, found.proportional, found.merged)
    return tuple(map(tables.size, values))


_SPARES = (
    Column("SPARE"),
    Column("STATE"),
    Column("HOST"),
    Column("ADDRESS"),
    Column("GEN", right=True),
    Column("AGE", right=True),
    Column("NOTE"),
)


def print_spares(spares: Sequence[Spare]) -> None:
    """Print spares as a table."""
    now = time.time()
    rows = [
        (
            spare.name,
            spare.state,
            spare.host,
            spare.address,
            "" if spare.generation is None else str(spare.generation),
            tables.age(spare.started_at, now),
            spare.reason,
        )
        for spare in spares
    ]
    print_table(_SPARES, rows, empty="no spares")


def _by(replica: Replica) -> str:
    """Say how it came up, and by which engine."""
    engine = f" ({replica.engine})" if replica.engine else ""
    return f"{replica.method or ''}{engine}"
