"""What the rows of the store mean: each function makes values of all rows of one reading query.

Out: values that nobody changes, since the database hands out the same ones until something is
written.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from typing import TypeVar

from poold.agent.codec import decode, decode_request
from poold.agent.messages import Sealed, Started
from poold.model.fleet import Generation, HostName, Manifest, PoolName, ReplicaName
from poold.store.records import Assignment, Garbage, Intent, Move, Wish

T = TypeVar("T")


def _load(kind: type[T], text: str | None) -> T | None:
    return None if text is None else decode(kind, json.loads(text))


def introduced(rows: Iterable[sqlite3.Row]) -> frozenset[HostName]:
    """Return the hosts that were looked through."""
    return frozenset(HostName(row["host"]) for row in rows)


def pool_names(rows: Iterable[sqlite3.Row]) -> tuple[PoolName, ...]:
    """Return pools by name."""
    return tuple(PoolName(row["name"]) for row in rows)


def replica_names(rows: Iterable[sqlite3.Row]) -> tuple[ReplicaName, ...]:
    """Return replicas' names."""
    return tuple(ReplicaName(row["name"]) for row in rows)


def counts(rows: Iterable[sqlite3.Row]) -> Mapping[HostName, int]:
    """Return how many of something each host has."""
    return {HostName(row["host"]): row["count"] for row in rows}


def wishes(rows: Iterable[sqlite3.Row]) -> tuple[Wish, ...]:
    """Return wished replicas."""
    return tuple(Wish(**row) for row in rows)


def garbage(rows: Iterable[sqlite3.Row]) -> tuple[Garbage, ...]:
    """Return what hosts are to be rid of."""
    return tuple(Garbage(**row) for row in rows)


def assignments(rows: Iterable[sqlite3.Row]) -> tuple[Assignment, ...]:
    """Return who runs where, with how it came up."""
    return tuple(map(assignment, rows))


def intents(rows: Iterable[sqlite3.Row]) -> tuple[Intent, ...]:
    """Return requests whose outcome is open."""
    return tuple(map(_intent, rows))


def generations(rows: Iterable[sqlite3.Row]) -> tuple[Generation, ...]:
    """Return proven generations with their manifests."""
    return tuple(map(_generation, rows))


def moves(rows: Iterable[sqlite3.Row]) -> tuple[Move, ...]:
    """Return moves and how far they are."""
    return tuple(map(_move, rows))


def assignment(row: sqlite3.Row) -> Assignment:
    """Return one of them."""
    fields = dict(row)
    fields["failed_rungs"] = tuple(json.loads(fields["failed_rungs"]))
    fields["started"] = _load(Started, fields["started"])
    return Assignment(**fields)


def _intent(row: sqlite3.Row) -> Intent:
    fields = dict(row)
    request = json.loads(fields["request"])
    if "application" in request:
        # An earlier version wrote it, before replicas could be restored by anything but podman.
        request["application"] = {"engine": "podman", "slots": 0, **request["application"]}
    if fields["verb"] in ("start", "build"):  # and before an image could be asked for by its id
        request = {"image_id": "", **request}
    fields["request"] = decode_request(fields.pop("verb"), request)
    return Intent(**fields)


def _generation(row: sqlite3.Row) -> Generation:
    manifest = decode(Manifest, json.loads(row["manifest"]))
    return Generation(
        pool=row["pool"],
        number=row["number"],
        digest=row["digest"],
        manifest=manifest,
        builder=row["builder"],
        proven_at=row["proven_at"],
    )


def _move(row: sqlite3.Row) -> Move:
    fields = dict(row)
    fields["change"] = fields.pop("change_id")
    fields["sealed"] = _load(Sealed, fields["sealed"])
    fields["problem"] = json.loads(fields["problem"]) if fields["problem"] else None
    fields["phases"] = json.loads(fields["phases"])
    return Move(**fields)
