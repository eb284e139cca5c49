"""What is retired: never what is needed, and always what is beyond the pool's limits."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings, strategies as st

from poold.model.application import Application
from poold.model.fleet import Generation, Manifest, Pool, Quarantine
from poold.reconcile.actions import Retire
from poold.reconcile.plan import plan
from poold.reconcile.snapshot import HostView, Snapshot
from poold.store import Assignment, Wish

DAY = 86400.0
APPLICATION = Application(image="hello:1", port=8080)
POOL = Pool(
    name="hello", application=APPLICATION, hosts=("a", "b"), builder="a", replica_name="hello{n}"
)


def generation(number, *, bytes_=10, days_old=0.0, fits=True):
    manifest = Manifest(
        pool="hello", build=f"build-{number}",
        fingerprint=APPLICATION.fingerprint() if fits else "sha256:other", image="hello:1",
        image_id="sha256:i", archive_sha256="a", archive_bytes=bytes_ - 1, packed_sha256="p",
        packed_bytes=1, engine="", runtime="", criu="", kernel="", machine="", cpu_flags=(),
        created_at=0.0,
    )  # fmt: skip
    return Generation("hello", number, f"sha256:{number:064}", manifest, "a", -days_old * DAY)


def snapshot(*generations, pool=POOL, assigned=(), quarantined=(), **fields):
    held = frozenset(g.digest for g in generations)
    return Snapshot(
        name="hello", pool=pool, introduced=frozenset("ab"), generations=generations,
        wishes=tuple(Wish(name=n, pool="hello") for n, _ in assigned),
        assignments=tuple(
            Assignment(name=n, pool="hello", host="a", since=0.0, rung=f"restore:{g.digest}")
            for n, g in assigned
        ),
        hosts={
            name: HostView(name=name, state="up", held=held, staged=held, of_pool=held)
            for name in "ab"
        },
        quarantine={
            ("b", g.digest): Quarantine("hello", g.number, g.digest, "b", 0.0, 1.0)
            for g in quarantined
        },
        **fields,
    )  # fmt: skip


def retired(given_):
    """Return the numbers that the plan retires now; nothing else may be written down."""
    books = plan(given_, 0.0).books
    assert all(isinstance(book, Retire) for book in books)
    return [book.number for book in books]


def test_each_limit_by_itself():
    """By count, by age, by size: the newest stay."""
    all_ = [generation(n, bytes_=10, days_old=4 - n) for n in (4, 3, 2, 1)]
    for limits, expected in (
        ({"keep_generations": 9}, []),
        ({"keep_generations": 2}, [2, 1]),
        ({"keep_generations": 9, "keep_days": 2.5}, [1]),
        ({"keep_generations": 9, "keep_days": 0.5}, [3, 2, 1]),
        ({"keep_generations": 9, "keep_bytes": 30}, [1]),
        ({"keep_generations": 9, "keep_bytes": 1}, [3, 2, 1]),
        ({"keep_generations": 3, "keep_days": 9.0, "keep_bytes": 20}, [2, 1]),
    ):
        assert retired(snapshot(*all_, pool=replace(POOL, **limits))) == expected, limits


def test_the_last_good_one_stays_beside_a_quarantined_current_one():
    """Whatever the limits: a host cannot restore the newest, so the one before it is needed."""
    all_ = [generation(n, days_old=99) for n in (3, 2, 1)]
    tight = replace(POOL, keep_generations=1, keep_days=1.0, keep_bytes=1)
    assert retired(snapshot(*all_, pool=tight)) == [2, 1]
    assert retired(snapshot(*all_, pool=tight, quarantined=all_[:1])) == [1]


def test_the_current_one_stays_behind_newer_ones_that_do_not_fit():
    """The configuration went back to an older image: its generation is the current one again."""
    all_ = [generation(3, fits=False), generation(2, fits=False), generation(1, days_old=99)]
    tight = replace(POOL, keep_generations=1, keep_days=1.0)
    assert retired(snapshot(*all_, pool=tight)) == [2]


GENERATIONS = st.lists(
    st.builds(
        lambda bytes_, days, fits: (bytes_, days, fits),
        st.integers(1, 100), st.floats(0, 60), st.booleans(),
    ),
    max_size=6,
).map(
    lambda rows: tuple(
        generation(len(rows) - at, bytes_=b, days_old=d, fits=f)
        for at, (b, d, f) in enumerate(sorted(rows, key=lambda row: row[1]))
    )
)  # fmt: skip


@settings(max_examples=300)
@given(
    GENERATIONS,
    st.integers(1, 4),
    st.none() | st.floats(0.1, 60),
    st.none() | st.integers(1, 300),
    st.data(),
)
def test_whatever_the_limits_what_is_needed_stays_and_the_rest_goes(all_, count, days, size, data):
    """In use, current, last good: never. Beyond a limit and none of these: from every host."""
    some = st.lists(st.sampled_from(all_), unique_by=lambda g: g.number) if all_ else st.just([])
    used, quarantined, sent = data.draw(some), data.draw(some), data.draw(some)
    pool = replace(POOL, keep_generations=count, keep_days=days, keep_bytes=size)
    given_ = snapshot(
        *all_, pool=pool, quarantined=quarantined,
        assigned=[(f"hello{n}", g) for n, g in enumerate(used, 1)],
        busy={f"generation:{g.digest}@b": "sending" for g in sent},
    )  # fmt: skip
    if not all_:
        return
    books = plan(given_, 0.0).books
    gone = {book.number for book in books if isinstance(book, Retire)}
    usable = given_.usable()
    good = [g for g in usable if g not in quarantined]
    needed = {g.number for g in (*used, *sent, *usable[:1], *good[:1])}
    assert not gone & needed
    for at, each in enumerate(all_):
        beyond = (
            at >= count
            or (days is not None and -each.proven_at > days * DAY)
            or (size is not None and each.manifest.archive_bytes + 1 > size)
        )
        if beyond and each.number not in needed:
            assert each.number in gone
    for book in books:
        if isinstance(book, Retire):
            assert book.hosts == ("a", "b")


async def test_a_generation_too_old_is_removed_from_all_hosts(fleet):
    """Time alone retires it, once there is a newer one; the folder goes on both hosts."""
    fleet.change_pool(keep_generations=5, keep_days=2.0)
    fleet.control.checkpoint("hello", actor="t")
    await fleet.settle()
    (first,) = fleet.store.generations("hello")
    fleet.now += 3 * DAY
    await fleet.settle()
    assert [g.number for g in fleet.store.generations("hello")] == [1], "it is the last good one"
    fleet.control.checkpoint("hello", actor="t")
    await fleet.settle()
    await fleet.until(lambda: fleet.store.garbage("hello") == ())
    assert [g.number for g in fleet.store.generations("hello")] == [2]
    assert all(first.digest not in host.staged for host in fleet.hosts.values())
