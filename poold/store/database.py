"""One SQLite file, its lock, its migrations and its queries by name.

In: a folder. Out: a connection whose transactions are on the disk when they return, or a Problem.
It does not know what the rows mean.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from poold.errors import Permanent, Problem, Refused, Temporary

LOG = logging.getLogger(__name__)
T = TypeVar("T")
SQL = resources.files(__package__) / "sql"
_NEEDED_TO_OPEN_BYTES = 1 << 20  # for the log and its index, and some rows
_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


class Lock:
    """The right to write, held by one process per folder until it closes it or dies."""

    def __init__(self, path: Path) -> None:
        with _translated(path):
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as problem:
            holder = os.pread(self._fd, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._fd)
            raise Refused(
                "store.locked",
                f"cannot use the state in {path.parent}: process {holder} holds it",
                hint="stop the other daemon, or give this one another state_dir",
            ) from problem
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Give the right back; idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Database:
    """A connection of the only writer. Not for use from several threads."""

    def __init__(self, state_dir: Path) -> None:
        _make_folder(state_dir)
        self._lock = Lock(state_dir / "lock")
        self._path = state_dir / "poold.sqlite3"
        self._queries = _read_queries()
        self._depth = 0
        self._undone = 0
        self._made: dict[tuple[object, ...], Any] = {}
        self._made_at = (0, 0)
        self._after_commit: list[Callable[[], None]] = []
        try:
            self._connection = self._open()
        except BaseException:
            self._lock.close()
            raise

    def _open(self) -> sqlite3.Connection:
        with _translated(self._path):
            # Created by hand, so that the file is never readable by others, not for a moment.
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            connection = sqlite3.connect(self._path, isolation_level=None, timeout=5.0)
            try:
                _refuse_newer(connection, self._path)  # before anything of the file is changed
                connection.row_factory = sqlite3.Row
                for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
                    connection.execute(f"PRAGMA {pragma}")
                _migrate(connection)
            except BaseException:
                connection.close()
                raise
        return connection

    def close(self) -> None:
        """Close the file and give the lock back."""
        self._connection.close()
        self._lock.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make everything inside durable at once, or nothing. Nested ones join the outer."""
        if self._depth:
            yield
            return
        try:
            with self._outermost():
                yield
        except BaseException:
            self._after_commit.clear()
            raise
        with ExitStack() as doing:  # all of them, whatever one of them raises
            for each in reversed(self._after_commit):
                doing.callback(each)
            self._after_commit = []

    def after_commit(self, doing: Callable[[], None]) -> None:
        """Do something once all of this is durable: now, outside of any transaction.

        It is left out where the transaction is undone.
        """
        if self._depth:
            self._after_commit.append(doing)
        else:
            doing()

    @contextmanager
    def _outermost(self) -> Iterator[None]:
        with _translated(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                self._undone += 1
                # A failed COMMIT (full disk) may have rolled back by itself.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            finally:
                self._depth -= 1

    def run(self, query: str, **values: Any) -> int:
        """Run a writing query; returns the id of the row it inserted."""
        with self.transaction():
            return self._connection.execute(self._queries[query], values).lastrowid or 0

    def tidy(self, query: str, **values: Any) -> None:
        """Run a writing query that can wait: a full disk is only logged."""
        try:
            self.run(query, **values)
        except Temporary as problem:
            if self._depth:
                raise  # the caller's transaction may be undone already
            LOG.warning("%s", problem, extra={"action": "not_tidied", "query": query})

    def rows(self, query: str, **values: Any) -> list[sqlite3.Row]:
        """Return all rows of a reading query."""
        with _translated(self._path):
            return self._connection.execute(self._queries[query], values).fetchall()

    def made(self, query: str, make: Callable[[list[sqlite3.Row]], T], **values: Any) -> T:
        """Return what is made of the rows of a reading query: the same until something is written.

        Nobody else writes. What `make` returns must not be changed; it is one function a query.
        """
        # What a transaction wrote and then undid counts as well, on the way there and back.
        at = (self._connection.total_changes, self._undone)
        if at != self._made_at:
            self._made.clear()
            self._made_at = at
        key = (query, *values.values())
        if key not in self._made:
            self._made[key] = make(self.rows(query, **values))
        found: T = self._made[key]
        return found

    def row(self, query: str, **values: Any) -> sqlite3.Row | None:
        """Return the first row of a reading query."""
        return next(iter(self.rows(query, **values)), None)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as problem:
        raise Permanent(
            "store.no-folder",
            f"cannot make the state folder {folder}: {problem.strerror}",
            hint="give the daemon a state_dir it may write to",
        ) from problem


def _read_queries() -> dict[str, str]:
    parts = _NAME.split((SQL / "queries.sql").read_text())
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def migrations() -> list[tuple[int, str]]:
    """Return the numbered migrations, oldest first."""
    files = (SQL / "migrations").iterdir()
    found = [(int(f.name[:4]), f.read_text()) for f in files if f.name.endswith(".sql")]
    return sorted(found)


def _refuse_newer(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    known = migrations()[-1][0]
    if version > known:
        raise Refused(
            "store.newer-schema",
            f"cannot use {path}: it was written by a newer poold "
            f"(schema {version}, this one knows {known})",
            hint="run the newer version, or give this one another state_dir",
        )


def _migrate(connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    for number, sql in migrations():
        if number > version:
            _migrate_one(connection, number, sql)


def _migrate_one(connection: sqlite3.Connection, number: int, sql: str) -> None:
    # user_version is part of the transaction: a migration is there whole or not at all.
    try:
        connection.executescript(
            f"BEGIN IMMEDIATE;\n{sql}\n;PRAGMA user_version = {number};\nCOMMIT;"
        )
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as problem:
        raise _problem(path, problem) from problem
    except OSError as problem:
        raise Permanent(
            "store.failed", f"cannot use the state in {path}: {problem.strerror}"
        ) from problem


def _is_full(folder: Path) -> bool:
    """Whether SQLite cannot even grow the file that its readers share: it says I/O error then."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < _NEEDED_TO_OPEN_BYTES


def _problem(path: Path, problem: sqlite3.Error) -> Problem:
    code = getattr(problem, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _is_full(path.parent)):
        return Temporary(
            "store.disk-full",
            f"cannot write {path}: the disk is full",
            hint="free some space; nothing that was accepted is lost",
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return Permanent(
            "store.damaged",
            f"cannot read {path}: {problem}",
            hint="move the file away: running replicas are found again without it",
        )
    return Permanent("store.failed", f"cannot use {path}: {problem}")
