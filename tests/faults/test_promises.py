"""Each promise can be broken, and is then named with what breaks it; a sound view breaks none."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest
from promises import NOT_APPLICABLE, PROMISES, broken, promise_4_balancers
from view import Books, Container, HostSeen, Kept, Slot, View, kept_since, read_books, wished_since

from poold.model.fleet import Change, Generation, Manifest, Replica, Spare
from poold.store import Store

DIGEST = "sha256:" + "1" * 64
HEX = "1" * 64
ONE = Container(name="hello1", id="c1", running=True, fleet="test", state="running")
FOREIGN = Container(name="hello2", id="f1", running=True, state="running")
SEALED = {"manifest": True, "archive": True, "staged": True, "pool": "hello"}
HOST_A = HostSeen(
    name="a",
    containers=(ONE,),
    records={"hello1": {"digest": DIGEST, "method": "restore"}},
    generations={HEX: SEALED},
    listening=frozenset({22, 20000}),
    forwarded=frozenset({20000}),
    namespaces=1,
    mounts=1,
    conmons=1,
    runtime=frozenset({"c1"}),
    argv=("python3 agent serve",),
)
HOST_B = HostSeen(name="b", containers=(FOREIGN,), namespaces=1, mounts=1, conmons=1)
MANIFEST = Manifest(
    pool="hello", build="b1", fingerprint="f", image="i", image_id="id", archive_sha256="x",
    archive_bytes=1, packed_sha256="y", packed_bytes=1, engine="memory 1", runtime="none",
    criu="none", kernel="6", machine="x86_64", cpu_flags=(), created_at=1.0,
)  # fmt: skip
GENERATION = Generation(
    pool="hello", number=1, digest=DIGEST, manifest=MANIFEST, builder="a", proven_at=1.0
)
SCALE = Change(id=1, pool="hello", kind="scale", wish={"replicas": 1}, actor="test", created_at=1.0)
BOOKS = Books(
    wishes=frozenset({"hello1"}),
    assignments={"hello1": "a"},
    changes={1: ("scale", "settled", {"replicas": 1})},
    generations={("hello", 1): DIGEST},
)
SOUND = View(
    fleet="test",
    now=100.0,
    hosts=(HOST_A, HOST_B),
    replicas=(
        Replica(
            name="hello1", pool="hello", state="ready", host="a", address="10.0.0.1:20000",
            container_id="c1",
        ),
    ),
    generations=(GENERATION,),
    books=BOOKS,
    kept=(Kept(name="hello1", host="a", container_id="c1"),),
    accepted=(SCALE,),
    wished=frozenset({"hello1"}),
    foreign=(Kept(name="hello2", host="b", container_id="f1"),),
    secrets=("hush",),
    told=("serving",),
)  # fmt: skip
SOUND = replace(SOUND, before=SOUND)


def a(**changed):
    """Return the sound view with host a seen otherwise."""
    return replace(SOUND, hosts=(replace(HOST_A, **changed), HOST_B))


def b(**changed):
    """Return the sound view with host b seen otherwise."""
    return replace(SOUND, hosts=(HOST_A, replace(HOST_B, **changed)))


def books(**changed):
    """Return the sound view with other books."""
    return replace(SOUND, books=replace(BOOKS, **changed))


def replica(**changed):
    """Return the sound view with hello1 shown otherwise."""
    return replace(SOUND, replicas=(replace(SOUND.replicas[0], **changed),))


SPARE = Container(
    name="poold-spare-1", id="s1", running=True, fleet="test", state="paused", frozen=True
)


def spared(spare=SPARE, one=ONE):
    """Return the sound view with a spare on host a."""
    record = {"digest": DIGEST, "method": "restore", "spare": True}
    here = a(
        containers=(one, spare),
        records={**HOST_A.records, "poold-spare-1": record},
        listening=frozenset({22, 20000, 20001}),
        forwarded=frozenset({20000, 20001}),
        namespaces=2,
        mounts=2,
        conmons=2,
        runtime=frozenset({"c1", "s1"}),
    )
    known = Spare("poold-spare-1", "a", "ready", "s1", "10.0.0.1:20001", 1, 1.0)
    return replace(here, spares=(known,))


BREAKING = {
    "1 two hosts": b(containers=(FOREIGN, ONE)),
    "1 not reserved": replace(
        replica(state="unknown"), books=replace(BOOKS, assignments={}), quiet=False
    ),
    "2 not ready": replica(state="starting"),
    "2 unknown container": b(containers=(FOREIGN, replace(ONE, name="hello7", id="c7"))),
    "2 lost container": a(containers=()),
    "2 other container": a(containers=(replace(ONE, id="c9"),)),
    "2 namespace": a(namespaces=2),
    "2 mount": a(mounts=2),
    "2 conmon": a(conmons=0),
    "2 runtime": a(runtime=frozenset({"c1", "c2"})),
    "2 slot": a(
        slots=(Slot(id="s1", ports=(20099,), kept=False),),
        namespaces=2,
        mounts=2,
        listening=frozenset({20000, 20099}),
    ),
    "2 slot's port": a(
        slots=(Slot(id="s1", ports=(20099,), kept=True),),
        namespaces=2,
        mounts=2,
        listening=frozenset({20000, 20098}),
    ),
    "2 spare that serves": spared(spare=replace(SPARE, frozen=False)),
    "2 replica that does not": spared(one=replace(ONE, frozen=True)),
    "2 spare nobody knows": replace(spared(), spares=()),
    "2 spare that is gone": replace(spared(), hosts=SOUND.hosts),
    "2 port": a(listening=frozenset({20000, 20001})),
    "2 rule": a(forwarded=frozenset({20000, 20005})),
    "2 record": b(records={"hello3": {}}),
    "2 action": a(actions=("restore-1",)),
    "2 scratch": a(work=("restore-1",)),
    "2 image": b(images=("x.tar",)),
    "2 half": b(parts=("generations/1/archive.tar.zst.part",)),
    "2 generation": b(generations={"2" * 64: SEALED}),
    "2 garbage": books(garbage=frozenset({(DIGEST, "b")})),
    "3 bits": a(generations={HEX: {**SEALED, "archive": False}}),
    "3 unproven": a(records={"hello1": {"digest": "sha256:" + "3" * 64, "method": "restore"}}),
    "5 lost": books(changes={}),
    "5 altered": books(changes={1: ("scale", "settled", {"replicas": 2})}),
    "5 wish": books(wishes=frozenset()),
    "6 pending": books(pending={1: 99.0}),
    "6 intent": books(intents={"restore of hello1 on a": 99.0}),
    "6 late": replace(books(intents={"restore of hello1 on a": 1.0}), quiet=False),
    "6 move": books(moves=frozenset({"hello1"})),
    "6 no reason": books(problems={1: None}),
    "7 manifest": a(generations={HEX: {**SEALED, "manifest": False}}),
    "7 number": books(generations={("hello", 1): "sha256:" + "4" * 64}),
    "7 lost": replace(SOUND, generations=()),
    "8 gone": a(containers=(replace(ONE, id="c2"),)),
    "8 stopped": a(containers=(replace(ONE, running=False),)),
    "9 log": replace(SOUND, told=("env hush",)),
    "9 argv": a(argv=("podman run --env X=hush",)),
    "9 mode": a(readable_by_others=("/var/lib/poold-agent/generations",)),
    "9 store": books(readable_by_others=("poold.sqlite3",)),
    "10 lock": books(locked=False),
    "11 gone": b(containers=()),
    "11 stopped": b(containers=(replace(FOREIGN, running=False),)),
    "11 renamed": b(containers=(replace(FOREIGN, name="x"),)),
}


def test_a_sound_fleet_breaks_nothing():
    """A fleet at rest keeps every promise, and so does one that is merely busy."""
    assert broken(SOUND) == []
    assert broken(replace(SOUND, quiet=False)) == []
    slot = Slot(id="s1", ports=(20099,), kept=True)
    waiting = a(slots=(slot,), namespaces=2, mounts=2, listening=frozenset({20000, 20099}))
    assert broken(waiting) == []
    assert broken(spared()) == []


@pytest.mark.parametrize("case", BREAKING)
def test_each_promise_can_be_broken(case):
    """What is wrong is told under the promise that it breaks."""
    number = case.partition(" ")[0]
    assert any(what.startswith(f"promise_{number}_") for what in broken(BREAKING[case]))


def test_every_promise_is_tried():
    """No promise is left without a view that breaks it, but the one that cannot be broken yet."""
    tried = {case.partition(" ")[0] for case in BREAKING}
    numbers = {promise.__name__.split("_")[1] for promise in PROMISES}
    assert numbers - tried == {"4"}
    assert NOT_APPLICABLE
    assert promise_4_balancers(SOUND) == []


ROLLS = {  # what was asked for, of which generation hello1 was -> whether it had to stay
    "nothing": ({}, 1, True),
    "a roll to another one": ({2: ("roll", "settled", {"to": 2})}, 1, False),
    "a roll to its own": ({2: ("roll", "failed", {"to": 1})}, 1, True),
    "a roll to what is built yet": ({2: ("roll", "settled", {"to": None})}, 1, False),
    "the same, started cold": ({2: ("roll", "settled", {"to": None})}, None, False),
    "back to its own, and on": (
        {2: ("rollback", "failed", {"to": 1}), 3: ("roll", "settled", {"to": 2})}, 1, False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ROLLS)
def test_a_roll_replaces_what_is_not_of_its_target_and_nothing_else(case):
    """Whatever else is replaced is a replica that was touched."""
    changes, generation, stays = ROLLS[case]
    before = replica(generation=generation)
    pools = dict.fromkeys({**BOOKS.changes, **changes}, "hello")
    after = books(changes={**BOOKS.changes, **changes}, pools=pools)
    assert bool(kept_since(before, after)) == stays
    ended = replace(before, books=after.books)
    assert kept_since(ended, after) != (), "a roll that had ended before replaces nothing any more"


def test_a_roll_goes_to_what_is_proven_meanwhile():
    """Nothing that runs is sure to stay then."""
    after = books(
        changes={**BOOKS.changes, 2: ("roll", "settled", {"to": 1})},
        generations={**BOOKS.generations, ("hello", 2): "sha256:" + "2" * 64},
        pools={2: "hello"},
    )
    assert kept_since(replica(generation=1), after) == ()


def test_the_books_are_read_beside_their_writer(tmp_path):
    """The store's rows are seen as they are while a daemon holds it, and its lock is noticed."""
    store = Store(tmp_path)
    change = store.accept(pool="hello", kind="scale", wish={"replicas": 2}, actor="x", reason="")
    seen = read_books(tmp_path)
    assert seen.locked
    assert seen.changes == {change.id: ("scale", "pending", {"replicas": 2})}
    assert list(seen.pending) == [change.id]
    store.close()
    assert not read_books(tmp_path).locked
    with pytest.raises(sqlite3.OperationalError):
        read_books(tmp_path / "nowhere")


def test_what_is_wished_follows_from_what_was_accepted():
    """Changes since name what came and what went; those before and others say nothing."""
    changes = {
        2: ("scale", "settled", {"names": ["hello1", "hello2", "hello3"], "removed": []}),
        3: ("remove", "settled", {"name": "hello1", "removed": ["hello1"]}),
        4: ("restore", "pending", {"name": "hello5", "names": ["hello5"]}),
        5: ("move", "failed", {"name": "hello2", "from": "a", "to": "b"}),
    }
    after = replace(BOOKS, changes={**BOOKS.changes, **changes})
    assert wished_since(BOOKS, after) == {"hello2", "hello3", "hello5"}
    assert wished_since(after, after) == BOOKS.wishes
