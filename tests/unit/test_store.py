"""The store: durable, locked, migrated, and honest about what it cannot do."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest

from poold.agent.messages import Placement, Remove, Restore, Sealed, Start, Started
from poold.agent.space import read_reserve
from poold.errors import Permanent, Refused, Temporary
from poold.model.application import Application, HttpProbe
from poold.model.fleet import Manifest
from poold.store import Assignment, Garbage, Intent, Move, Store, Wish
from poold.store.database import migrations


def manifest(build="build-1"):
    return Manifest(
        pool="hello", build=build, fingerprint="sha256:f", image="i", image_id="sha256:i",
        archive_sha256="a", archive_bytes=1, packed_sha256="p", packed_bytes=1, engine="e",
        runtime="r", criu="c", kernel="k", machine="m", cpu_flags=("fpu",), created_at=1.0,
        phases={"start": 1.5},
    )  # fmt: skip


def sealed(build="build-1"):
    made = manifest(build)
    return Sealed(made.digest(), made)


@pytest.fixture
def store(tmp_path):
    """Open a new store with a clock that stands still."""
    opened = Store(tmp_path / "state", clock=lambda: 1000.0)
    yield opened
    opened.close()


def accept(store, **fields):
    defaults = {
        "pool": "hello",
        "kind": "scale",
        "wish": {"replicas": 1},
        "actor": "t",
        "reason": "",
    }
    return store.accept(**{**defaults, **fields})


def test_a_second_daemon_is_refused_and_told_who_holds_the_store(store, tmp_path):
    """Promise 10: one writer, and its pid is named."""
    with pytest.raises(Refused, match=f"process {os.getpid()} holds it") as refused:
        Store(tmp_path / "state")
    assert refused.value.code == "store.locked"


def test_a_lock_dies_with_its_process(tmp_path):
    """Kill -9 of the holder frees the store; what it committed is there, what it had not is not."""
    program = textwrap.dedent(
        f"""
        import sys, time
        from pathlib import Path
        from poold.store import Store, Wish
        store = Store(Path({str(tmp_path / "state")!r}))
        store.put_wish(Wish(name="hello1", pool="hello"))
        with store.transaction():
            store.put_wish(Wish(name="hello2", pool="hello"))
            print("ready", flush=True)
            time.sleep(60)
        """
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"ready\n"
        with pytest.raises(Refused, match=f"process {child.pid}"):
            Store(tmp_path / "state")
        child.send_signal(signal.SIGKILL)
    store = Store(tmp_path / "state")
    assert [w.name for w in store.wishes()] == ["hello1"]
    store.close()


def test_nobody_else_can_read_it(store, tmp_path):
    """Folder 0700, files 0600."""
    folder = tmp_path / "state"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(f.stat().st_mode) == 0o600 for f in folder.iterdir())


def test_a_newer_schema_is_refused_untouched(tmp_path):
    """A store of a later version is not guessed at, and the lock is given back."""
    Store(tmp_path / "state").close()
    file = tmp_path / "state" / "poold.sqlite3"
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    for _ in range(2):
        with pytest.raises(Refused, match="a newer poold") as refused:
            Store(tmp_path / "state")
        assert refused.value.code == "store.newer-schema"


def test_migrations_are_numbered_without_a_gap():
    """Each migration raises the version by one: one that came late would never be run."""
    numbers = [number for number, _ in migrations()]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_file_that_is_no_database_is_a_clear_problem(tmp_path):
    """Damage is said as damage, with the way out."""
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / "poold.sqlite3").write_bytes(
        b"not a database at all, but long enough to be read" * 99
    )
    with pytest.raises(Permanent) as problem:
        Store(folder)
    assert problem.value.code == "store.damaged"


def test_a_state_folder_that_cannot_be_made_is_a_clear_problem(tmp_path):
    """A file in the way is named."""
    (tmp_path / "file").write_text("")
    with pytest.raises(Permanent, match="cannot make the state folder"):
        Store(tmp_path / "file" / "state")


def test_a_full_disk_refuses_the_wish_and_loses_nothing(store, tmp_path):
    """SQLITE_FULL is temporary; the transaction is gone whole, the store goes on."""
    store.put_wish(Wish(name="hello1", pool="hello"))
    store._database._connection.execute("PRAGMA max_page_count = 1")
    with pytest.raises(Temporary) as problem, store.transaction():  # noqa: PT012
        store.put_wish(Wish(name="hello2", pool="hello"))
        for _ in range(200):
            accept(store, wish={"text": "x" * 4000})
    assert problem.value.code == "store.disk-full"
    store._database._connection.execute("PRAGMA max_page_count = 1000000")
    store.put_wish(Wish(name="hello3", pool="hello"))
    assert [w.name for w in store.wishes()] == ["hello1", "hello3"]


def test_a_disk_down_to_its_reserve_refuses_wishes_and_records_what_was_accepted(store):
    """What is left is for what was promised; the setting and the figures are named."""
    change = accept(store)
    store.reserve = read_reserve("1000000t")
    with pytest.raises(Temporary, match=r"cannot accept a wish: .* MiB are free") as problem:
        accept(store)
    assert problem.value.code == "store.disk-full"
    assert "daemon.disk_reserve" in problem.value.hint
    store.end_change(change.id, "settled", progress="done")
    assert [one.state for one in store.changes()] == ["settled"]


def test_a_transaction_is_whole_or_nothing(store):
    """A failure inside takes everything back, nested parts included."""
    with pytest.raises(ZeroDivisionError), store.transaction():  # noqa: PT012
        store.put_wish(Wish(name="hello1", pool="hello"))
        with store.transaction():
            accept(store)
        1 / 0  # noqa: B018
    assert store.wishes() == ()
    assert store.changes() == ()


def test_what_is_put_comes_back_equal(store, tmp_path):
    """Wishes, assignments, intents, moves, generations and garbage survive a reopening."""
    application = Application(image="i", port=1, readiness=HttpProbe(path="/x"), env={"A": "1"})
    placement = Placement("f", "hello", "hello1", "10.0.0.1", "20000-20999")
    wish = Wish(name="hello1", pool="hello", host="a")
    assignment = Assignment(
        name="hello1", pool="hello", host="a", since=1.0, rung="cold", failed_rungs=("x", "y"),
        reason="why", generation=3,
        started=Started("hello1", "c1", "a:1", "restore", 0.5, {"restore": 0.5}, 2.0),
    )  # fmt: skip
    intents = [
        Intent(action=f"i{n}", pool="hello", host="a", subject="s", request=r, created_at=1.0 * n)
        for n, r in enumerate(
            [Restore(placement, application, "sha256:d"), Remove("f", "hello1", "c1")]
        )
    ]
    change = accept(store, kind="move")
    move = Move(
        name="hello1", pool="hello", change=change.id, source="a", target="b", step="send",
        action="m1", attempt=2, container_id="c1", sealed=sealed(), frozen_at=5.0,
        problem={"code": "x"}, phases={"capture": 1.0},
    )  # fmt: skip
    store.put_wish(wish)
    store.put_assignment(assignment)
    for intent in intents:
        store.put_intent(intent)
    store.put_move(move)
    store.put_garbage(Garbage(digest="sha256:d", host="a", pool="hello"))
    number = store.add_generation("hello", sealed(), "a")
    store.close()
    again = Store(tmp_path / "state", clock=lambda: 1000.0)
    assert again.wishes("hello") == (wish,)
    assert again.assignment("hello1") == assignment
    assert again.intents() == tuple(intents)
    assert again.moves() == (move,)
    assert again.garbage("hello") == (Garbage(digest="sha256:d", host="a", pool="hello"),)
    (generation,) = again.generations("hello")
    assert (generation.number, generation.manifest) == (number, manifest())
    again.close()


def test_a_name_has_one_host(store):
    """Promise 1 in the schema: a second assignment replaces the first, another pool's does not."""
    first = Assignment(name="hello1", pool="hello", host="a", since=1.0)
    store.put_assignment(first)
    with pytest.raises(Temporary, match="cannot use the name hello1 for other") as taken:
        store.put_assignment(replace(first, pool="other", host="b"))
    assert (taken.value.code, "put hello back" in taken.value.hint) == ("replica.name-taken", True)
    assert store.assignments() == (first,)
    store.put_assignment(replace(first, host="b"))
    assert [a.host for a in store.assignments()] == ["b"]
    store.drop_assignment("hello1", "a")
    assert [a.host for a in store.assignments()] == ["b"], "only its host may free it"


def test_a_name_that_another_pool_has_is_not_wished(store):
    """Wished there or still reserved on a host that did not let go: the wish is not taken."""
    store.put_assignment(Assignment(name="hello1", pool="hello", host="a", since=1.0))
    assert not store.put_wish(Wish(name="hello1", pool="other"))
    assert store.put_wish(Wish(name="hello1", pool="hello"))
    assert not store.put_wish(Wish(name="hello1", pool="other", host="b"))
    assert store.wishes() == (Wish(name="hello1", pool="hello"),)
    assert store.holder("hello1", besides="other") == "hello"
    assert store.holder("hello1", besides="hello") is None
    store.drop_wish("hello1")
    store.drop_assignment("hello1", "a")
    assert store.put_wish(Wish(name="hello1", pool="other", host="b"))


def test_a_move_counts_where_it_goes(store):
    """A host that a replica is moving to has it already, once."""
    store.put_assignment(Assignment(name="hello1", pool="hello", host="a", since=1.0))
    change = accept(store, kind="move")
    move = Move(
        name="hello1", pool="hello", change=change.id, source="a", target="b", step="send",
        action="m1",
    )  # fmt: skip
    store.put_move(move)
    assert store.load_without("other") == {"a": 1, "b": 1}
    store.put_assignment(Assignment(name="hello1", pool="hello", host="b", since=1.0))
    assert store.load_without("other") == {"b": 1}
    assert store.load_without("hello") == {}


def test_generations_are_numbered_once(store):
    """The same digest keeps its number; a retired number is never given again."""
    assert store.add_generation("hello", sealed(), "a") == 1
    assert store.add_generation("hello", sealed(), "a") == 1
    assert store.add_generation("hello", sealed("build-2"), "a") == 2
    store.retire_generation("hello", 2, sealed("build-2").digest, ["a", "b"])
    assert [g.number for g in store.generations("hello")] == [1]
    assert {g.host for g in store.garbage("hello")} == {"a", "b"}
    assert store.add_generation("hello", sealed("build-3"), "a") == 3


def test_changes_are_listed_newest_first_and_end_once(store):
    """A verdict is final."""
    first, second = accept(store), accept(store, pool="other")
    assert [c.id for c in store.changes()] == [second.id, first.id]
    assert store.changes(pool="hello") == (first,)
    store.end_change(first.id, "settled", progress="done", phases={"x": 1.0})
    store.end_change(first.id, "failed", progress="no")
    ended = store.change(first.id)
    assert (ended.state, ended.progress, ended.phases, ended.settled_at) == (
        "settled", "done", {"x": 1.0}, 1000.0,
    )  # fmt: skip
    assert store.change(99) is None


async def test_news_raise_the_seq_and_wake_who_waits(store):
    """A waiter gets the next sentence, and at the timeout the change as it is."""
    change = accept(store)
    waiter = asyncio.create_task(
        store.wait_change(change.id, after_seq=change.seq, timeout_seconds=5)
    )
    await asyncio.sleep(0)
    store.tell(change.id, "building")
    news = await waiter
    assert (news.progress, news.seq) == ("building", change.seq + 1)
    same = await store.wait_change(change.id, after_seq=news.seq, timeout_seconds=0.01)
    assert same == news


async def test_many_news_at_once_are_thinned_out(store):
    """At most four a second are counted; the latest sentence is shown all the same."""
    change = accept(store)
    for number in range(100):
        store.tell(change.id, f"{number} %")
    news = store.change(change.id)
    assert news.progress == "99 %"
    assert news.seq == change.seq + 1


async def test_the_last_of_many_news_reaches_who_waits(store):
    """What is said right after other news and then for long is told to followers too."""
    change = accept(store)
    store.tell(change.id, "verifying")
    first = await store.wait_change(change.id, after_seq=change.seq, timeout_seconds=5)
    store.tell(change.id, "restoring")
    news = await store.wait_change(change.id, after_seq=first.seq, timeout_seconds=5)
    assert (news.progress, news.seq) == ("restoring", first.seq + 1)


async def test_the_end_of_a_change_wakes_who_waits(store):
    """Settled is news, however high the asked seq."""
    change = accept(store)
    waiter = asyncio.create_task(store.wait_change(change.id, after_seq=99, timeout_seconds=5))
    await asyncio.sleep(0)
    store.end_change(change.id, "settled", progress="done")
    assert (await waiter).state == "settled"
    with pytest.raises(Refused, match="cannot find change 12345"):
        await store.wait_change(12345, after_seq=0, timeout_seconds=0)


async def test_a_restarted_daemon_counts_news_above_what_it_told_before(store, tmp_path):
    """A client that waits across the restart is not left waiting for old numbers."""
    change = accept(store)
    store.tell(change.id, "building")
    told = store.change(change.id).seq
    store.close()
    again = Store(tmp_path / "state", clock=lambda: 1000.0)
    assert again.change(change.id).seq > told
    again.close()


def test_listeners_hear_of_wishes(store):
    """The loop is woken by the pool's name."""
    heard = []
    store.listen(heard.append)
    store.notify("hello")
    assert heard == ["hello"]


async def test_the_end_of_a_change_that_is_undone_is_no_news(store):
    """Its sentence and seq stay: the seq never goes back, and nobody is woken for nothing."""
    change = accept(store)
    store.tell(change.id, "building")
    before = store.change(change.id)
    waiter = asyncio.create_task(
        store.wait_change(change.id, after_seq=before.seq, timeout_seconds=0.05)
    )
    await asyncio.sleep(0)
    with pytest.raises(ZeroDivisionError), store.transaction():  # noqa: PT012
        store.end_change(change.id, "settled", progress="done")
        1 / 0  # noqa: B018
    assert store.change(change.id) == before
    assert await waiter == before


async def test_a_change_that_ends_within_more_wakes_who_waits_after_the_commit(store):
    """Nested ends are news of the outermost transaction."""
    change = accept(store)
    waiter = asyncio.create_task(store.wait_change(change.id, after_seq=99, timeout_seconds=5))
    await asyncio.sleep(0)
    with store.transaction():
        store.end_change(change.id, "settled", progress="done")
        assert not any(each.done() for each in store._changes._waiters)
    assert (await waiter).state == "settled"


def test_what_follows_a_commit_waits_for_the_outermost(store):
    """It is done once and in order, at once without a transaction, and not for one undone."""
    done = []
    with store.transaction():
        with store.transaction():
            store.after_commit(lambda: done.append(1))
        store.after_commit(lambda: done.append(2))
        assert done == []
    assert done == [1, 2]
    with pytest.raises(ZeroDivisionError), store.transaction():  # noqa: PT012
        store.after_commit(lambda: done.append(3))
        1 / 0  # noqa: B018
    store.put_wish(Wish(name="hello1", pool="hello"))
    store.after_commit(lambda: done.append(4))
    assert done == [1, 2, 4]


def test_a_failure_after_the_commit_does_not_keep_the_rest_from_being_done(store):
    """Who waits for a change hears of its end, whatever another one's follow-up raised."""
    done = []
    with pytest.raises(ZeroDivisionError), store.transaction():  # noqa: PT012
        store.put_wish(Wish(name="hello1", pool="hello"))
        store.after_commit(lambda: 1 / 0)
        store.after_commit(lambda: done.append(1))
    assert (done, len(store.wishes())) == ([1], 1)


@pytest.mark.parametrize("name", ["lock", "poold.sqlite3"])
def test_a_folder_in_the_way_of_a_file_is_a_clear_problem(tmp_path, name):
    """The operator reads which file cannot be used, not a traceback."""
    (tmp_path / "state" / name).mkdir(parents=True)
    with pytest.raises(Permanent, match=f"cannot use the state in .*{name}"):
        Store(tmp_path / "state")


def test_what_was_read_is_read_again_only_when_something_was_written(store):
    """Within a transaction, after it and after one that was undone: never what is not so."""
    assert store.wishes("hello") is store.wishes("hello")
    wish, other = Wish(name="hello1", pool="hello"), Wish(name="hello2", pool="hello")
    with store.transaction():
        assert store.wishes("hello") == ()
        store.put_wish(wish)
        assert store.wishes("hello") == (wish,)
    before = store.wishes("hello")
    assert (before, store.wishes("other")) == ((wish,), ())

    def undone():
        with store.transaction():
            store.put_wish(other)
            assert store.wishes("hello") == (wish, other)
            raise ValueError

    with pytest.raises(ValueError):
        undone()
    assert store.wishes("hello") == (wish,)
    assert store.hosts.all() is store.hosts.all()
    store.hosts.put("a", "cordoned", actor="t", reason="")
    assert list(store.hosts.all()) == ["a"]


def test_what_an_older_poold_left_open_or_served_is_read(store):
    """Its requests name no image by its id, and it did not write down of which one it served."""
    asked = Start(Placement("f", "hello", "hello1", "127.0.0.1", "1-2"), Application("i", 1), "id")
    intent = Intent(action="i1", pool="hello", host="a", subject="s", request=asked, created_at=1.0)
    store.put_intent(intent)
    store.see_pool("hello")
    store.rolls.serve("hello", "sha256:f", "sha256:id")
    served = store.see_pool("hello")
    assert (served.served, served.served_image) == ("sha256:f", "id")
    assert store.intents() == (intent,)
    with store._database.transaction():
        connection = store._database._connection
        connection.execute("UPDATE intents SET request = json_remove(request, '$.image_id')")
        connection.execute("UPDATE pools SET served = 'sha256:f'")
        store.rolls.drop("hello")  # what was read before is read anew
    (found,) = store.intents()
    assert found.request == replace(asked, image_id="")
    served = store.see_pool("hello")
    assert (served.served, served.served_image) == ("sha256:f", "")


def test_the_latest_time_that_was_written_is_known(tmp_path):
    """A daemon whose clock is behind it goes on from there."""
    now = [50.0]
    store = Store(tmp_path, clock=lambda: now[0])
    assert store.latest() == 0.0
    store.accept(pool="hello", kind="checkpoint", wish={}, actor="t", reason="")
    assert store.latest() == 50.0
    now[0] = 70.0
    store.accept(pool="hello", kind="scale", wish={}, actor="t", reason="", done=True)
    assert store.latest() == 70.0
    store.close()
