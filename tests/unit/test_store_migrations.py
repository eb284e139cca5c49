"""A state that an older poold wrote is taken over whole, or left as it was."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from poold.agent.messages import Remove, Sealed, Started
from poold.errors import Permanent, Problem
from poold.model.application import Application
from poold.model.fleet import Manifest, Quarantine
from poold.store import Assignment, Garbage, Intent, Move, Store, Wish
from poold.store.calls import Remembered
from poold.store.database import migrations
from poold.store.rolls import begin_roll

VERSIONS = [number for number, _ in migrations()]
APPLICATION = Application(image="i", port=1)
ALERT = ("fingerprint", "firing", "2026-01-01T00:00:00Z")


def fill(state_dir):
    """Write a row of everything that there is, as this version writes it."""
    store = Store(state_dir, clock=lambda: 1000.0)
    manifest = Manifest(
        pool="hello", build="b", fingerprint=APPLICATION.fingerprint(), image="i", image_id="x",
        archive_sha256="a", archive_bytes=1, packed_sha256="p", packed_bytes=1, engine="e",
        runtime="r", criu="c", kernel="k", machine="m", cpu_flags=("fpu",), created_at=1.0,
    )  # fmt: skip
    sealed = Sealed(manifest.digest(), manifest)
    store.see_pool("hello")
    store.first_wished("hello")
    store.introduce("hello", "a")
    store.put_wish(Wish(name="hello1", pool="hello", host="a"))
    started = Started("hello1", "c1", "a:1", "restore", 0.5, {"restore": 0.5}, 2.0)
    store.put_assignment(
        Assignment(name="hello1", pool="hello", host="a", since=1.0, rung="cold", started=started)
    )
    store.put_intent(
        Intent(
            action="i1", pool="hello", host="a", subject="s",
            request=Remove("f", "hello1", "c1"), created_at=1.0,
        )
    )  # fmt: skip
    change = store.accept(pool="hello", kind="move", wish={"to": "b"}, actor="t", reason="why")
    store.put_move(
        Move(
            name="hello1", pool="hello", change=change.id, source="a", target="b", step="send",
            action="m1", sealed=sealed,
        )
    )  # fmt: skip
    store.put_garbage(Garbage(digest="sha256:d", host="a", pool="hello"))
    store.add_generation("hello", sealed, "a", APPLICATION)
    store.hosts.put("b", "cordoned", actor="t", reason="kernel")
    store.calls.add(
        actor="t", origin="o", operation="move", path="/v1", request={"to": "b"}, pool="hello",
        reason="why", key="k", answer=Remembered(fingerprint="f", change=change.id, status=202),
    )  # fmt: skip
    problem = Permanent("criu.cpu", "cannot restore hello1").to_json()
    store.quarantine.put(
        Quarantine(
            pool="hello", generation=1, digest=sealed.digest, host="b", since=1.0, until=9.0,
            failures=1, problem=problem,
        )
    )  # fmt: skip
    store.alerts.acted_on(*ALERT)
    (generation,) = store.generations("hello")
    store.rolls.put_hold("hello", generation, configured="f", actor="t")
    begin_roll(
        store, pool="hello", kind="roll", target=generation, surge=1, unavailable=0, actor="t",
        reason="",
    )  # fmt: skip
    store.close()
    return state_dir / "poold.sqlite3"


def tables(connection):
    """Return every table's columns."""
    found = connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    ).fetchall()
    return {
        name: [row[1] for row in connection.execute(f"PRAGMA table_info({name})")]
        for (name,) in found
    }


def rows(connection, wanted):
    """Return the rows of these columns."""
    return {
        table: connection.execute(f"SELECT {', '.join(columns)} FROM {table}").fetchall()
        for table, columns in wanted.items()
    }


def older(state_dir, version, full):
    """Make a state of an older version with what of `full` it knew; return its tables' columns."""
    state_dir.mkdir(mode=0o700)
    with (
        closing(sqlite3.connect(full)) as source,
        closing(sqlite3.connect(state_dir / "poold.sqlite3")) as target,
    ):
        for number, sql in migrations():
            if number <= version:
                target.executescript(sql)
        known = tables(target)
        for table, found in rows(source, known).items():
            marks = ", ".join("?" for _ in known[table])
            names = ", ".join(known[table])
            target.executemany(f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({marks})", found)
        if "revisions" in known:  # the rows above raised them again
            target.execute("DELETE FROM revisions")
            for row in source.execute("SELECT pool, number FROM revisions"):
                target.execute("INSERT INTO revisions VALUES (?, ?)", row)
        target.execute(f"PRAGMA user_version = {version}")
        target.commit()
    return known


def schema(file):
    with closing(sqlite3.connect(file)) as connection:
        return sorted(connection.execute("SELECT type, name, sql FROM sqlite_schema").fetchall())


def test_every_table_is_filled(tmp_path):
    """A table that is added without a row in `fill` fails here."""
    with closing(sqlite3.connect(fill(tmp_path / "now"))) as connection:
        found = rows(connection, tables(connection))
    assert [table for table, filled in found.items() if not filled] == []


@pytest.mark.parametrize("version", VERSIONS)
def test_the_data_of_an_older_version_is_taken_over(tmp_path, version):
    """Every row is there afterwards and can be read, and the schema is that of a new state."""
    full = fill(tmp_path / "now")
    known = older(tmp_path / "old", version, full)
    store = Store(tmp_path / "old", clock=lambda: 1000.0)
    (wish,) = store.wishes("hello")
    (assignment,) = store.assignments("hello")
    (intent,) = store.intents()
    (move,) = store.moves()
    (generation,) = store.generations("hello")
    assert (wish.host, assignment.started.address) == ("a", "a:1")
    assert intent.request == Remove("f", "hello1", "c1")
    assert move.sealed.digest == generation.digest == generation.manifest.digest()
    assert {change.state for change in store.changes()} == {"pending"}
    assert store.see_pool("hello").introduced == {"a"}
    readers = (store.hosts.all(), store.quarantine.all(), store.rolls.get("hello"))
    assert all(readers) == (version >= 5)
    assert store.alerts.is_known(*ALERT) == (version >= 7)
    assert store.calls.find("t", "k") is not None or "calls" not in known
    store.accept(pool="hello", kind="checkpoint", wish={}, actor="t", reason="")  # and goes on
    assert store.calls.revision("hello") > 0
    store.close()
    assert schema(tmp_path / "old" / "poold.sqlite3") == schema(full)
    with (
        closing(sqlite3.connect(full)) as before,
        closing(sqlite3.connect(tmp_path / "old" / "poold.sqlite3")) as after,
    ):
        risen = {"revisions", "changes", "events"}  # by the wish above
        same = {table: columns for table, columns in known.items() if table not in risen}
        assert rows(after, same) == rows(before, same)


def test_a_migration_that_fails_leaves_the_state_as_it_was(tmp_path):
    """The older version goes on with it: half a migration is none."""
    full = fill(tmp_path / "now")
    known = older(tmp_path / "old", 1, full)
    file = tmp_path / "old" / "poold.sqlite3"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE calls (somebody_elses INTEGER)")
        before = rows(connection, known)
    for _ in range(2):
        with pytest.raises(Problem, match="calls already exists") as problem:
            Store(tmp_path / "old")
        assert problem.value.code == "store.failed"
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        assert "events" not in tables(connection)
        assert rows(connection, known) == before


def test_a_newer_state_is_left_alone(tmp_path):
    """Not a byte of the file that a newer poold wrote is changed, and nothing is added."""
    file = fill(tmp_path / "now")
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA user_version = 99")
        connection.execute("PRAGMA journal_mode = DELETE")
    before = file.read_bytes()
    with pytest.raises(Problem, match=r"schema 99, this one knows \d+\)") as problem:
        Store(tmp_path / "now")
    assert problem.value.code == "store.newer-schema"
    assert file.read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "now").iterdir()) == ["lock", "poold.sqlite3"]
