"""One look at a fleet: what its hosts hold beside what its daemon says and has written down.

Values only, with the functions that make them of JSON and of the daemon's store. Who runs the
daemon and reaches the hosts is the caller's matter.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from poold.model.fleet import Change, Generation, Replica, Spare


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A container as its engine lists it; `fleet` is poold's label, "" on other people's."""

    name: str
    id: str
    running: bool
    fleet: str = ""
    started_at: float = 0.0
    state: str = ""
    frozen: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """What waits for a replica to be restored into it; `kept`: the agent that made it lives."""

    id: str
    ports: tuple[int, ...]
    kept: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSeen:
    """All that was found on a host. None for a count: there is no such thing with this engine."""

    name: str
    boot_id: str = ""
    engine: bool = True  # it could be asked for its containers
    containers: tuple[Container, ...] = ()
    slots: tuple[Slot, ...] = ()
    records: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    generations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by hex digest
    actions: tuple[str, ...] = ()
    work: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    listening: frozenset[int] = frozenset()
    forwarded: frozenset[int] = frozenset()
    namespaces: int | None = None
    mounts: int | None = None
    conmons: int | None = None
    runtime: frozenset[str] | None = None  # ids that the OCI runtime knows as not stopped
    readable_by_others: tuple[str, ...] = ()
    argv: tuple[str, ...] = ()

    @classmethod
    def of_json(cls, name: str, seen: Mapping[str, Any]) -> HostSeen:
        """Read what `look.py` printed."""
        return cls(
            name=name,
            boot_id=seen["boot_id"],
            engine=seen["engine"],
            containers=tuple(Container(**each) for each in seen["containers"]),
            slots=tuple(Slot(**{**each, "ports": tuple(each["ports"])}) for each in seen["slots"]),
            records=seen["records"],
            generations=seen["generations"],
            actions=tuple(seen["actions"]),
            work=tuple(seen["work"]),
            images=tuple(seen["images"]),
            parts=tuple(seen["parts"]),
            listening=frozenset(seen["listening"]),
            forwarded=frozenset(seen["forwarded"]),
            namespaces=len(seen["namespaces"]),
            mounts=len(seen["mounts"]),
            conmons=seen["conmons"],
            runtime=frozenset(seen["runc"]),
            readable_by_others=tuple(seen["readable_by_others"]),
            argv=tuple(seen["argv"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """What the daemon has written down; read from its store without disturbing it."""

    wishes: frozenset[str] = frozenset()
    assignments: Mapping[str, str] = field(default_factory=dict)  # name -> host
    changes: Mapping[int, tuple[str, str, Mapping[str, Any]]] = field(
        default_factory=dict
    )  # id -> kind, state, wish
    pools: Mapping[int, str] = field(default_factory=dict)  # of changes; "" for those of no pool
    problems: Mapping[int, Mapping[str, Any] | None] = field(default_factory=dict)  # of failed ones
    pending: Mapping[int, float] = field(default_factory=dict)  # id -> created_at
    intents: Mapping[str, float] = field(default_factory=dict)  # verb and host -> created_at
    moves: frozenset[str] = frozenset()  # names
    garbage: frozenset[tuple[str, str]] = frozenset()  # digest, host
    generations: Mapping[tuple[str, int], str] = field(default_factory=dict)  # retired ones too
    readable_by_others: tuple[str, ...] = ()
    locked: bool = True  # by the daemon that writes it


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A running replica that nothing since may have touched."""

    name: str
    host: str
    container_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One fleet at one moment.

    `quiet`: the daemon had the time to do everything; only then must nothing be left over. `kept`,
    `accepted`, `wished` and `before` are what the test knows of the time before.
    """

    fleet: str
    now: float = 0.0
    quiet: bool = True
    hosts: tuple[HostSeen, ...] = ()
    replicas: tuple[Replica, ...] = ()
    spares: tuple[Spare, ...] = ()
    generations: tuple[Generation, ...] = ()  # of the API: not retired
    books: Books = Books()
    kept: tuple[Kept, ...] = ()
    accepted: tuple[Change, ...] = ()
    wished: frozenset[str] | None = None  # names, by the accepted changes; None: not known
    before: View | None = None
    foreign: tuple[Kept, ...] = ()
    secrets: tuple[str, ...] = ()
    told: tuple[str, ...] = ()  # logs, metrics, whatever is written for others
    publish_ports: range = range(20000, 21000)
    deadline_seconds: float = 60.0

    def host(self, name: str) -> HostSeen | None:
        """Return a host that was looked at."""
        return next((host for host in self.hosts if host.name == name), None)


def kept_since(
    before: View | None, after: View, gone: set[str] | frozenset[str] = frozenset()
) -> tuple[Kept, ...]:
    """Return what ran before a death, was wished then and since, and not asked to move or roll.

    A capture that failed leaves its replica as it was, or a host found it dead: moves are told
    apart by their changes, which name the replica. A roll replaces the replicas of its pool, but
    those that are of its target already.
    """
    if before is None:
        return ()
    open_since = {
        number: (kind, wish)
        for number, (kind, _, wish) in after.books.changes.items()
        if number in before.books.pending or number not in before.books.changes
    }
    moved = {str(wish.get("name")) for kind, wish in open_since.values() if kind == "move"}
    grew = after.books.generations.keys() - before.books.generations.keys()
    targets: dict[str | None, set[object]] = {}
    for number, (kind, wish) in open_since.items():
        if kind in ("roll", "rollback"):
            # a roll goes to what became current meanwhile
            goals = {wish.get("to"), None} if grew else {wish.get("to")}
            targets.setdefault(after.books.pools.get(number), set()).update(goals)
    lasting = (before.books.wishes & after.books.wishes) - moved - before.books.moves
    return tuple(
        Kept(name=one.name, host=one.host, container_id=one.container_id or "")
        for one in before.replicas
        if one.state == "ready" and one.name in lasting and one.host and one.host not in gone
        if targets.get(one.pool, set()) <= {one.generation} - {None}
    )


def wished_since(before: Books, after: Books) -> frozenset[str]:
    """Return the names that the changes accepted since make of what was wished before."""
    wished = set(before.wishes)
    for number in sorted(after.changes.keys() - before.changes.keys()):
        _, _, wish = after.changes[number]
        wished -= set(wish.get("removed", ()))
        wished |= set(wish.get("names", ()))
    return frozenset(wished)


def database_bytes(state_dir: Path) -> int:
    """Return the size of the store's pages in use, whether still in the log or not."""
    uri = f"file:{state_dir / 'poold.sqlite3'}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, timeout=10)
    try:
        names = ("page_count", "freelist_count", "page_size")
        pages, free, size = (connection.execute(f"PRAGMA {n}").fetchone()[0] for n in names)
        return (pages - free) * size
    finally:
        connection.close()


def read_books(state_dir: Path) -> Books:
    """Read the store beside its writer."""
    path = state_dir / "poold.sqlite3"
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)
    try:
        connection.execute("BEGIN")
        rows = lambda sql: connection.execute(sql).fetchall()  # noqa: E731
        changes = rows("SELECT id, kind, state, wish, problem, created_at, pool FROM changes")
        return Books(
            wishes=frozenset(name for (name,) in rows("SELECT name FROM wishes")),
            assignments=dict(rows("SELECT name, host FROM assignments")),
            changes={row[0]: (row[1], row[2], json.loads(row[3])) for row in changes},
            problems={
                row[0]: json.loads(row[4]) if row[4] else None
                for row in changes
                if row[2] == "failed"
            },
            pools={row[0]: row[6] or "" for row in changes},
            pending={row[0]: row[5] for row in changes if row[2] == "pending"},
            intents={
                f"{verb} of {subject} on {host}": at
                for verb, subject, host, at in rows(
                    "SELECT verb, subject, host, created_at FROM intents"
                )
            },
            moves=frozenset(name for (name,) in rows("SELECT name FROM moves")),
            garbage=frozenset(rows("SELECT digest, host FROM garbage")),
            generations={
                (pool, number): digest
                for pool, number, digest in rows("SELECT pool, number, digest FROM generations")
            },
            readable_by_others=tuple(
                str(file)
                for file in (state_dir, *state_dir.iterdir())
                if file.stat().st_mode & 0o077
            ),
            locked=_is_locked(state_dir / "lock"),
        )
    finally:
        connection.close()


def _is_locked(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
