"""Deciding about rolls: whatever succeeds, fails or is lost in whatever order, the limits hold.

A fleet of values: plans are carried out by writing down what they would leave behind.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given, settings, strategies as st

from poold.agent.messages import ContainerFact, Started
from poold.model.application import Application
from poold.model.fleet import Change, Generation, Manifest, Pool, Quarantine, RollSettings
from poold.reconcile import rolling
from poold.reconcile.actions import BringUp, Forget, Retire, Serve, TakeDown, TurnRoll, restore_rung
from poold.reconcile.plan import plan
from poold.reconcile.snapshot import HostView, Retry, Snapshot
from poold.store import Assignment, Hold, Roll, Wish

OLD, NEW = Application(image="hello:1", port=8080), Application(image="hello:2", port=8080)
DONE = {"finished", "dropped"}


def generation(number, application):
    manifest = Manifest(
        pool="hello", build=f"build-{number}", fingerprint=application.fingerprint(),
        image=application.image, image_id="i", archive_sha256="a", archive_bytes=1,
        packed_sha256="p", packed_bytes=1, engine="", runtime="", criu="", kernel="", machine="",
        cpu_flags=(), created_at=0.0,
    )  # fmt: skip
    return Generation("hello", number, f"sha256:{number:064}", manifest, "a", 100.0 * number)


ONE, TWO = generation(1, OLD), generation(2, NEW)


class Model:
    """A pool of values in which a roll to generation 2 has just been accepted."""

    def __init__(self, count, *, surge, unavailable, maximum, room, of_new=0, fail=()):
        self.count, self.surge, self.unavailable = count, surge, unavailable
        self.room, self.fail = room, set(fail)
        self.pool = Pool(
            name="hello", application=NEW, hosts=("a", "b"), builder="a",
            replica_name="hello{n}", max=maximum,
        )  # fmt: skip
        self.wishes = [f"hello{n}" for n in range(1, count + 1)]
        self.assignments, self.containers, self.made = {}, {}, Counter()
        self.flying = []
        self.turned = []
        for at, name in enumerate(self.wishes):
            host = "ab"[at % 2]
            self.assignments[name] = Assignment(name=name, pool="hello", host=host, since=1.0)
            self._up(name, TWO if at < of_new else ONE)
        self.changes = (Change(9, "hello", "roll", {}, "t", 1.0),)
        self.roll = Roll(pool="hello", change=9, surge=surge, unavailable=unavailable)

    def _up(self, name, source):
        assert name not in self.containers, f"{name} is there twice"
        self.made[name] += 1
        key = f"{name}-{self.made[name]}"
        self.containers[name] = key
        self.assignments[name] = replace(
            self.assignments[name], failed_rungs=(),
            generation=source.number if source else None,
            started=Started(name, key, "", "restore" if source else "cold", 0.1, {}, 1.0),
        )  # fmt: skip

    def snapshot(self):
        extras = frozenset(self.roll.extras if self.roll else ()) - set(self.wishes)
        names = [*self.wishes, *sorted(extras)]
        hosts = {}
        for at, host in enumerate("ab"):
            facts = tuple(
                ContainerFact(
                    name=name, container_id=key, ours=True, pool="hello", role="replica",
                    running=True, status="running", ready=True,
                )
                for name, key in self.containers.items()
                if self.assignments[name].host == host
            )  # fmt: skip
            held = frozenset({ONE.digest, TWO.digest})
            hosts[host] = HostView(
                name=host, state="up", containers=facts, held=held, staged=held,
                max_replicas=self.room[at],
            )  # fmt: skip
        return Snapshot(
            name="hello", pool=self.pool, introduced=frozenset("ab"),
            wishes=tuple(Wish(name=name, pool="hello") for name in names),
            assignments=tuple(self.assignments.values()), generations=(TWO, ONE), hosts=hosts,
            busy={action.subject: "under way" for action in self.flying},
            changes=self.changes, roll=self.roll, extras=extras,
        )  # fmt: skip

    def step(self, random):
        """Write books, or begin what is planned and end one thing; False: nothing is left."""
        decided = plan(self.snapshot(), 1000.0)
        for book in decided.books:
            self._write(book)
        if decided.books:
            return True
        for action in decided.actions:
            if isinstance(action, BringUp):
                self.assignments[action.name] = Assignment(
                    name=action.name, pool="hello", host=action.host, since=1.0, rung=action.rung,
                    failed_rungs=action.failed_rungs, reason=action.reason,
                )  # fmt: skip
            self.flying.append(action)
        if not self.flying:
            return False
        action = self.flying.pop(random.randrange(len(self.flying)))
        if random.random() < 0.8:  # else it was lost, and nothing happened
            self._end(action)
        return True

    def _write(self, book):
        match book:
            case TurnRoll(turn, roll, _):
                self.turned.append(turn)
                self.roll = None if turn in DONE else roll
                if turn in (*DONE, "paused"):
                    self.changes = ()
            case Forget(name, _):
                del self.assignments[name]
            case Serve() | Retire():
                raise AssertionError(book)

    def _end(self, action):
        match action:
            case TakeDown():
                assert self.containers[action.name] == action.container_id
                del self.containers[action.name]
            case BringUp():
                source = {TWO.digest: TWO, ONE.digest: ONE, None: None}[action.digest]
                if source is TWO and action.name in self.fail:
                    before = self.assignments[action.name]
                    rungs = (*before.failed_rungs, action.rung)
                    self.assignments[action.name] = replace(
                        before, failed_rungs=rungs, reason="it does not come to life"
                    )
                else:
                    self._up(action.name, source)
            case _:
                raise AssertionError(action)


@st.composite
def models(draw):
    """Any pool, with limits that may be kept and room that may be missing."""
    count = draw(st.integers(0, 5))
    surge, unavailable = draw(st.sampled_from([(1, 0), (0, 1), (2, 0), (3, 1), (1, 2), (0, 3)]))
    names = st.sampled_from([f"hello{n}" for n in range(1, 8)])
    return Model(
        count, surge=surge, unavailable=unavailable, maximum=count + draw(st.integers(0, 3)),
        room=(draw(st.integers(3, 5)), draw(st.integers(2, 4))),
        of_new=draw(st.integers(0, count)), fail=draw(st.sets(names, max_size=2)),
    )  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(models(), st.randoms(use_true_random=False))
def test_limits_are_kept_and_it_ends(model, random):
    """Never too few, never too many, none twice; at the end all are new, or it says why not."""
    has_room = model.pool.max > model.count and sum(model.room) > model.count
    fewest = model.count - (
        model.unavailable or (0 if model.surge and has_room else 1)
    )  # without room for an extra replica one is missing
    for _ in range(400):
        alive = len(model.containers)
        assert alive >= fewest, model.turned
        assert alive <= model.count + model.surge, model.turned
        assert len(model.snapshot().wishes) <= model.count + model.surge
        if not model.step(random):
            break
    else:
        raise AssertionError(f"it does not end: {model.turned}")
    assert set(model.containers) == set(model.wishes)
    assert set(model.assignments) == set(model.wishes)
    numbers = {one.generation for one in model.assignments.values()}
    if model.roll is None:
        # An extra one that failed paused it, and those under way made it true all the same.
        assert model.turned[-1] == ("dropped" if "paused" in model.turned else "finished")
        assert numbers <= {2}
        assert all(model.made[name] <= 2 for name in model.wishes)
    else:
        assert model.roll.state == "paused"
        assert any(name in model.roll.reason for name in model.fail)
        assert model.fail
    assert model.turned.count("paused") <= 1


@settings(max_examples=60, deadline=None)
@given(models(), st.randoms(use_true_random=False), st.integers(0, 30))
def test_it_follows_what_is_wished(model, random, when):
    """Replicas wished for or not any more meanwhile do not keep it from its end."""
    for at in range(500):
        if at == when:
            more = random.random() < 0.5
            if more:
                free = next(n for n in range(1, 20) if f"hello{n}" not in model.wishes)
                model.wishes.append(f"hello{free}")
                model.pool = replace(model.pool, max=max(model.pool.max, len(model.wishes)))
                model.room = (9, 9)
            elif model.wishes:
                model.wishes.remove(random.choice(model.wishes))
        if not model.step(random) and at > when:
            break
    else:
        raise AssertionError(f"it does not end: {model.turned}")
    assert set(model.containers) == set(model.wishes)
    if model.roll is None:
        sound = [name for name in model.wishes if name not in model.fail]
        assert {model.assignments[name].generation for name in sound} <= {2}
    else:
        assert model.roll.state == "paused"


def test_a_held_pool_serves_the_generation_it_is_held_at():
    """It comes first, older ones of its application follow, newer ones are left out."""
    generations = (generation(4, OLD), TWO, ONE)
    hold = Hold(
        pool="hello", number=1, digest=ONE.digest, configured=NEW.fingerprint(), at=1.0, actor="t"
    )
    pool = Pool(name="hello", application=OLD, hosts=("a",), builder="a", replica_name="hello{n}")
    held = Snapshot(name="hello", pool=pool, generations=generations, hold=hold)
    assert [g.number for g in held.usable()] == [1]
    other = replace(generation(2, OLD), builder="b")  # made for its own kind, after the first
    beside = replace(held, generations=(*generations[:1], other, ONE))
    assert [g.number for g in beside.usable()] == [1]
    assert [g.number for g in beside.usable_on(HostView(name="b"))] == [1, 2]
    free = replace(held, hold=None)
    assert [g.number for g in free.usable()] == [4, 1]


def test_what_it_waits_for_is_said():
    """A replica that is not ready for other reasons is not made up for by a second one."""
    model = Model(3, surge=0, unavailable=1, maximum=5, room=(5, 5))
    del model.containers["hello2"]
    model.assignments["hello2"] = replace(
        model.assignments["hello2"], started=None, failed_rungs=("cold",)
    )
    snapshot = replace(model.snapshot(), busy={"replica:hello2": "restoring hello2"})
    snapshot = replace(snapshot, roll=replace(model.roll, generation=2, digest=TWO.digest))
    assert plan(snapshot, 1000.0).books == ()
    assert rolling.waits_for(snapshot, 1000.0) == "waiting for hello2"


def test_it_waits_for_nothing_that_cannot_come():
    """A replica whose name somebody else's container has pauses the roll, with the reason."""
    model = Model(3, surge=1, unavailable=0, maximum=5, room=(5, 5), of_new=3)
    model.roll = replace(model.roll, generation=2, digest=TWO.digest)
    key = model.containers.pop("hello2")
    del model.assignments["hello2"]
    snapshot = model.snapshot()
    pinned = tuple(replace(w, host="b") if w.name == "hello2" else w for w in snapshot.wishes)
    snapshot = replace(snapshot, wishes=pinned)
    stranger = ContainerFact(
        name="hello2", container_id=key, ours=False, pool="", role="", running=True, status=""
    )
    host = snapshot.hosts["b"]
    taken = replace(host, containers=(*host.containers, stranger))
    snapshot = replace(snapshot, hosts={**snapshot.hosts, "b": taken})
    (turn,) = plan(snapshot, 1000.0).books
    assert (turn.turn, turn.roll.state) == ("paused", "paused")
    assert turn.text == "hello2 is not ready: a container on b that is not ours has its name"
    away = replace(snapshot, hosts={**snapshot.hosts, "b": replace(taken, state="unknown")})
    assert plan(away, 1000.0).books == ()


def test_it_waits_for_no_replica_that_no_rung_brings_up():
    """While another way is left it waits; when none is it pauses, and says what failed last."""
    model = Model(3, surge=1, unavailable=0, maximum=5, room=(5, 5), of_new=3)
    model.roll = replace(model.roll, generation=2, digest=TWO.digest)
    del model.containers["hello2"]
    problem = {"message": "cannot start hello2: it exits"}
    retry = Retry(at=1060.0, failed_at=999.0, failures=1, definite=True, problem=problem)
    barred = Quarantine(
        pool="hello", generation=2, digest=TWO.digest, host="b", since=1.0, until=2000.0,
        failures=1, problem=problem, found_with={},
    )  # fmt: skip
    snapshot = replace(
        model.snapshot(),
        retries={"replica:hello2": retry},
        quarantine={("b", TWO.digest): barred},
    )

    def turns(rungs):
        dead = replace(model.assignments["hello2"], started=None, failed_rungs=rungs)
        assignments = (model.assignments["hello1"], dead, model.assignments["hello3"])
        return [book.text for book in plan(replace(snapshot, assignments=assignments), 1e3).books]

    assert turns(()) == []
    assert turns(("cold",)) == ["hello2 is not ready: cannot start hello2: it exits"]


def test_it_begins_for_what_is_just_coming_up_from_another_generation():
    """It will be ready as an old one soon, and nothing would roll it any more then."""
    model = Model(1, surge=1, unavailable=0, maximum=3, room=(5, 5))
    model.pool = replace(model.pool, roll=RollSettings(auto=True))
    model.roll = None
    coming = Assignment(
        name="hello1", pool="hello", host="a", since=1.0, rung=restore_rung(ONE.digest)
    )
    served = {"configured": NEW.fingerprint(), "served": OLD.fingerprint()}

    def rolls(assignment, **more):
        snapshot = replace(
            model.snapshot(), roll=None, assignments=(assignment,), **{**served, **more}
        )
        (book,) = plan(snapshot, 1000.0).books
        return book.rolls

    assert rolls(coming) == "the application changed"
    assert rolls(replace(coming, rung=restore_rung(TWO.digest))) == ""
    assert rolls(replace(coming, rung="")) == ""
    assert rolls(coming, served="") == "", "the first generation ever replaces nothing"
