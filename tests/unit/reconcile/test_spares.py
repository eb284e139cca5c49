"""Spares in the plan: claimed first, made last, given up before anything else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings, strategies as st

from poold.agent.messages import ContainerFact, Started
from poold.model.application import Application
from poold.model.fleet import Digest, Generation, HostName, Manifest, Pool, Quarantine
from poold.reconcile.actions import BringUp, MakeSpare, SendGeneration, TakeDown
from poold.reconcile.explain import explain
from poold.reconcile.plan import plan
from poold.reconcile.snapshot import HostView, Retry, Snapshot
from poold.reconcile.spares import shown
from poold.store import Assignment, Wish

APP = Application(image="hello:1", port=8080)
POOL = Pool(
    name="hello", application=APP, hosts=("a", "b"), builder="a", replica_name="hello{n}", max=9,
    spares=2, spare_max_age_seconds=100.0,
)  # fmt: skip
MIB = 1 << 20
NOW = 1000.0


def generation(number, **fields):
    manifest = Manifest(
        pool="hello", build=f"build-{number}", fingerprint=APP.fingerprint(), image="hello:1",
        image_id="sha256:i", archive_sha256="a", archive_bytes=100 * MIB, packed_sha256="p",
        packed_bytes=1, engine="", runtime="", criu="", kernel="", machine="", cpu_flags=(),
        created_at=0.0, **fields,
    )  # fmt: skip
    return Generation("hello", number, f"sha256:{number:064}", manifest, "a", 100.0 * number)


ONE, TWO = generation(1), generation(2)


def spare(name, of=ONE, *, ready=True, age=10.0, pool="hello"):
    return ContainerFact(
        name=f"poold-spare-{name}", container_id=f"c-{name}", ours=True, pool=pool, role="spare",
        running=ready, status="running" if ready else "exited", digest=of.digest,
        method="restore", started_at=NOW - age, ready=ready,
    )  # fmt: skip


def replica(name, of=ONE):
    return ContainerFact(
        name=name, container_id=f"c-{name}", ours=True, pool="hello", role="replica",
        running=True, status="running", digest=of.digest, method="restore", ready=True,
    )  # fmt: skip


def host(name, *facts, staged=(ONE,), **fields):
    digests = frozenset(g.digest for g in staged)
    fields = {"state": "up", "memory_free_bytes": 4096 * MIB, **fields}
    return HostView(name=name, containers=facts, held=digests, staged=digests, **fields)


def snapshot(*hosts, wished=(), assigned=(), generations=(ONE,), pool=POOL, **fields):
    started = Started("", "", "", "restore", 0.1)
    return Snapshot(
        name="hello", pool=pool, introduced=frozenset({"a", "b"}),
        wishes=tuple(Wish(name=n, pool="hello") for n in wished),
        assignments=tuple(
            Assignment(
                name=n, pool="hello", host=h, since=1.0, rung=f"restore:{ONE.digest}",
                started=replace(started, name=n, container_id=f"c-{n}"),
            )
            for n, h in dict(assigned).items()
        ),
        generations=generations, hosts={h.name: h for h in hosts}, **fields,
    )  # fmt: skip


def acts(snapshot_, kind=object, now=NOW):
    return [action for action in plan(snapshot_, now).actions if isinstance(action, kind)]


def down(snapshot_, now=NOW):
    return {(a.name[12:], a.reason) for a in acts(snapshot_, TakeDown, now)}


def test_a_pool_at_rest_gets_its_spares_one_at_a_time_on_each_host():
    """Missing ones are prepared on both hosts; a host that makes one makes no second meanwhile."""
    bare = snapshot(host("a"), host("b", spare(1)))
    assert acts(bare) == [MakeSpare("a", ONE.digest, 1), MakeSpare("b", ONE.digest, 1)]
    busy = replace(bare, busy={"spare:a": "preparing a spare on a"})
    assert acts(busy) == [MakeSpare("b", ONE.digest, 1)]
    full = snapshot(host("a", spare(1), spare(2)), host("b", spare(3), spare(4)))
    assert acts(full) == []
    assert plan(bare, NOW).sentence == (
        "hello 0/0: preparing a spare on a from generation 1, "
        "preparing a spare on b from generation 1"
    )


def test_spares_wait_until_every_replica_was_seen_to():
    """While a replica comes up, moves or a generation is built, nothing is prepared."""
    coming = snapshot(host("a"), host("b"), wished=["hello1"])
    assert [type(action) for action in acts(coming)] == [BringUp]
    under_way = replace(
        snapshot(host("a"), host("b"), wished=["hello1"], assigned={"hello1": "a"}),
        busy={"replica:hello1": "restoring hello1"},
    )
    assert acts(under_way) == []
    building = replace(snapshot(host("a"), host("b")), busy={"build:x": "building"})
    assert acts(building) == []


def test_whoever_came_up_has_the_cores_first():
    """No spare is prepared within a second of it; a clock that was set is not waited for."""
    pool = replace(POOL, hosts=("a",))
    up = snapshot(host("a", replica("hello1")), wished=["hello1"], assigned={"hello1": "a"})
    (assignment,) = up.assignments

    def came_up(at, **fields):
        started = replace(assignment.started, started_at=at)
        one = replace(assignment, started=started)
        return replace(
            snapshot(host("a", replica("hello1"), **fields), wished=["hello1"], pool=pool),
            assignments=(one,),
        )

    assert plan(came_up(NOW - 0.25), NOW).actions == ()
    assert plan(came_up(NOW - 0.25), NOW).wake_at == NOW + 0.75
    assert plan(came_up(NOW + 60.0, ahead_seconds=60.5), NOW).wake_at == NOW + 0.5
    for at in (NOW - 1.0, NOW + 60.0):
        assert acts(came_up(at)) == [MakeSpare("a", ONE.digest, 1)]
    nobody = replace(came_up(NOW - 0.25), pool=replace(pool, spares=0))
    assert plan(nobody, NOW).wake_at is None


def test_a_wish_claims_a_spare_and_the_next_one_the_next():
    """The oldest goes first, each once; who finds none is restored."""
    given_ = snapshot(
        host("a", spare(1, age=5), spare(2, age=50)), wished=["hello1", "hello2", "hello3"],
        pool=replace(POOL, hosts=("a",)),
    )  # fmt: skip
    ups = acts(given_, BringUp)
    assert [(up.name, up.spare) for up in ups] == [
        ("hello1", "poold-spare-2"), ("hello2", "poold-spare-1"), ("hello3", ""),
    ]  # fmt: skip
    assert {up.rung for up in ups} == {f"restore:{ONE.digest}"}
    assert "claiming a spare for hello1 on a" in plan(given_, NOW).sentence


def test_a_name_goes_where_a_spare_waits():
    """Among hosts with as few of the pool the one with a spare is taken; spreading comes first."""
    given_ = snapshot(host("a"), host("b", spare(1)), wished=["hello1"])
    (up,) = acts(given_, BringUp)
    assert (up.host, up.spare) == ("b", "poold-spare-1")
    spread = snapshot(
        host("a"), host("b", replica("hello1"), spare(1)),
        wished=["hello1", "hello2"], assigned={"hello1": "b"},
    )  # fmt: skip
    (up,) = acts(spread, BringUp)
    assert (up.host, up.spare) == ("a", "")


@pytest.mark.parametrize(
    "why",
    ["claimed", "going", "unsure", "dead", "old", "other generation", "quarantined"],
)
def test_what_may_not_be_there_is_not_offered(why):
    """A spare is claimed only where nothing speaks against it."""
    kind = {"dead": {"ready": False}, "old": {"age": 200.0}, "other generation": {"of": TWO}}
    one = spare(1, **kind.get(why, {}))
    here = host("a", one, unsure=frozenset({one.name} if why == "unsure" else ()))
    barred = {("a", ONE.digest): Quarantine("hello", 1, ONE.digest, "a", since=1.0, until=NOW + 9)}
    given_ = snapshot(
        here, wished=["hello1"], pool=replace(POOL, hosts=("a",)),
        claimed=frozenset({one.name} if why == "claimed" else ()),
        busy={f"replica:{one.name}": "removing it"} if why == "going" else {},
        quarantine=barred if why == "quarantined" else {},
    )  # fmt: skip
    (up,) = acts(given_, BringUp)
    assert up.spare == ""


def test_a_new_generation_replaces_the_spares():
    """Kept while the new one is on its way to the host; gone and made anew once it is there."""
    both = (TWO, ONE)
    away = snapshot(
        host("a", spare(1), staged=both), host("b", spare(2), spare(3), staged=[ONE]),
        generations=both,
    )  # fmt: skip
    assert [(a.name, a.host) for a in acts(away, TakeDown)] == [("poold-spare-1", "a")]
    assert [a.target for a in acts(away, SendGeneration)] == ["b"]
    here = snapshot(host("a", staged=both), host("b", spare(2), staged=both), generations=both)
    assert down(here) == {("2", "its generation is not the current one")}
    assert acts(here, MakeSpare) == [MakeSpare("a", TWO.digest, 2), MakeSpare("b", TWO.digest, 2)]


def test_old_spares_are_replaced_one_at_a_time():
    """There is one to claim meanwhile; it is looked at when the next one is due."""
    given_ = snapshot(
        host("a", spare(1, age=150), spare(2, age=120)), pool=replace(POOL, hosts=("a",))
    )
    assert down(given_) == {("1", "it grew old")}
    fewer = snapshot(host("a", spare(2, age=120)), pool=replace(POOL, hosts=("a",)))
    assert acts(fewer) == [MakeSpare("a", ONE.digest, 1)]
    young = snapshot(
        host("a", spare(1, age=30), spare(2, age=60)), pool=replace(POOL, hosts=("a",))
    )
    assert plan(young, NOW).actions == ()
    assert plan(young, NOW).wake_at == NOW + 40.0


def test_a_spares_age_is_by_its_hosts_clock():
    """A host whose clock is an hour behind has no older spares, and never ends replacing them."""
    behind = host("a", spare(1, age=3600 + 10), spare(2, age=3600 + 20), ahead_seconds=-3600.0)
    assert plan(snapshot(behind, pool=replace(POOL, hosts=("a",))), NOW).actions == ()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"pool": replace(POOL, spares=0)}, "the pool wishes for none"),
        ({"pool": replace(POOL, hosts=("b",), builder="b")}, "a is no host of the pool any more"),
        ({"pool": None}, "its pool left the configuration"),
        ({"closed": "a is cordoned by me"}, "a is cordoned by me"),
        ({"closed": "a is fenced by me", "fenced": True}, "a is fenced by me"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_spares_nobody_will_need_go(fields, reason):
    """None wished, the host is not the pool's any more, the operator wants nothing there."""
    pool = fields.get("pool", POOL)
    view = host("a", spare(1), **{k: v for k, v in fields.items() if k != "pool"})
    given_ = snapshot(view, host("b", spare(2), spare(3)), pool=pool)
    gone = {each for each in down(given_) if each[0] == "1"}
    assert gone == {("1", reason)}


def test_a_host_that_is_closed_for_a_while_keeps_its_spares():
    """It went away too often lately: that ends by itself, and then they are needed."""
    shaky = host("a", spare(1), closed="a was lost 3 times", closed_until=NOW + 60)
    given_ = snapshot(shaky, pool=replace(POOL, hosts=("a",)))
    assert plan(given_, NOW).actions == ()


def test_surplus_and_room_for_replicas():
    """The oldest go where there are too many, or where replicas need the host's room."""
    many = snapshot(
        host("a", spare(1, age=30), spare(2), spare(3, age=20)), pool=replace(POOL, hosts=("a",))
    )
    assert down(many) == {("1", "more than the pool wishes for")}
    tight = snapshot(
        host("a", replica("hello1"), spare(1, age=30), spare(2), max_replicas=2),
        wished=["hello1"], assigned={"hello1": "a"}, pool=replace(POOL, hosts=("a",)),
    )  # fmt: skip
    assert down(tight) == {("1", "its room is needed")}
    full = snapshot(
        host("a", replica("hello1"), spare(2), max_replicas=2),
        wished=["hello1"], assigned={"hello1": "a"}, pool=replace(POOL, hosts=("a",)),
    )  # fmt: skip
    assert plan(full, NOW).actions == ()


def test_a_spare_keeps_no_replica_from_its_host():
    """A host full of spares takes a replica: it becomes one of them."""
    given_ = snapshot(
        host("a", spare(1), spare(2), max_replicas=2), wished=["hello1"],
        pool=replace(POOL, hosts=("a",)),
    )  # fmt: skip
    (up,) = acts(given_)
    assert (up.name, up.spare) == ("hello1", "poold-spare-1")


def test_memory_pressure_takes_spares_before_anything_else():
    """Less is free than one replica takes: the oldest goes; none is made without room for two."""
    pool = replace(POOL, hosts=("a",))
    short = snapshot(host("a", spare(1, age=30), spare(2), memory_free_bytes=99 * MIB), pool=pool)
    assert down(short) == {("1", "memory is short on a")}
    little = snapshot(host("a", spare(1), memory_free_bytes=199 * MIB), pool=pool)
    assert plan(little, NOW).actions == ()
    enough = snapshot(host("a", spare(1), memory_free_bytes=200 * MIB), pool=pool)
    assert acts(enough) == [MakeSpare("a", ONE.digest, 1)]
    unknown = snapshot(host("a", spare(1), memory_free_bytes=None), pool=pool)
    assert acts(unknown) == [MakeSpare("a", ONE.digest, 1)]


def test_a_dead_spare_goes_unless_one_is_being_made():
    """Half a spare in a listing is perhaps the one whose action is under way."""
    pool = replace(POOL, hosts=("a",))
    dead = snapshot(host("a", spare(1, ready=False), spare(2)), pool=pool)
    assert down(dead) == {("1", "it is exited")}
    made = replace(dead, busy={"spare:a": "preparing a spare on a"})
    assert plan(made, NOW).actions == ()


def test_nothing_is_decided_where_a_host_cannot_be_heard():
    """What is unknown stays as it is."""
    cut = host("a", spare(1, of=TWO), state="unknown")
    given_ = snapshot(cut, pool=replace(POOL, hosts=("a",)))
    assert plan(given_, NOW).actions == ()


def test_a_spare_that_could_not_be_made_is_tried_again_later():
    """One host's failure does not keep the other from its spares."""
    failed = Retry(at=NOW + 5, failed_at=NOW, failures=1, definite=True, problem={"message": "no"})
    given_ = replace(snapshot(host("a"), host("b")), retries={"spare:a": failed})
    assert acts(given_) == [MakeSpare("b", ONE.digest, 1)]
    assert len(acts(given_, now=NOW + 6)) == 2


TOGETHER = replace(POOL, spares_per="pool")


@pytest.mark.parametrize(
    ("hosts", "made", "gone"),
    [
        ([host("a"), host("b")], ["a", "b"], []),
        ([host("a", replica("hello1"), replica("hello2")), host("b")], ["b"], []),
        ([host("a", spare(1)), host("b")], ["b"], []),
        ([host("a", spare(1), spare(2)), host("b")], [], []),
        ([host("a", spare(1)), host("b", spare(2))], [], []),
        ([host("a", spare(1)), host("b", spare(2), spare(3, age=20))], [], ["3"]),
        ([host("a", staged=()), host("b")], ["b"], []),
        ([host("a", closed="cordoned"), host("b", spare(1))], ["b"], []),
        ([host("a", spare(1), state="unknown"), host("b")], ["b"], []),
        ([host("a", max_replicas=0), host("b", max_replicas=1)], ["b"], []),
        ([host("a", spare(1, age=200)), host("b", spare(2))], [], ["1"]),
        ([host("a", spare(1, ready=False)), host("b", spare(2))], [], ["1"]),
    ],
    ids=[
        "none yet", "where replicas are few", "the second elsewhere", "they stay", "one each",
        "one too many", "nothing to restore", "cordoned", "out of reach", "no room", "old", "dead",
    ],
)  # fmt: skip
def test_spares_of_the_pool_are_on_all_hosts_together(hosts, made, gone):
    """They stay where they are; the others go where the next replicas will be placed."""
    on_a = [fact.name for fact in hosts[0].containers if fact.role == "replica"]
    given_ = snapshot(
        *hosts, pool=TOGETHER, wished=on_a, assigned=dict.fromkeys(on_a, "a"),
        generations=(ONE,),
    )  # fmt: skip
    if not hosts[0].staged:  # as on a host of another kind
        given_ = replace(given_, busy={f"generation:{ONE.digest}@a": "sending"})
    assert [action.host for action in acts(given_, MakeSpare)] == made
    assert sorted(name for name, _ in down(given_)) == gone
    assert POOL.spares_in_all == 4
    assert TOGETHER.spares_in_all == 2


NAMES = ["hello1", "hello2", "hello3", "hello4"]


@st.composite
def worlds(draw):
    facts = {"a": [], "b": []}
    for number in range(draw(st.integers(0, 6))):
        where = draw(st.sampled_from(["a", "b"]))
        facts[where].append(
            spare(
                number,
                draw(st.sampled_from([ONE, TWO])),
                ready=draw(st.booleans()),
                age=draw(st.sampled_from([1.0, 99.0, 101.0])),
            )
        )
    assigned = {}
    for name in NAMES:
        where = draw(st.sampled_from(["", "a", "b"]))
        if where:
            assigned[name] = where
            if draw(st.booleans()):
                facts[where].append(replica(name))
    every = [fact.name for found in facts.values() for fact in found if fact.role == "spare"]
    some = st.frozensets(st.sampled_from(every)) if every else st.just(frozenset())
    hosts = [
        host(
            name, *found,
            staged=draw(st.sampled_from([(), (ONE,), (TWO, ONE)])),
            state=draw(st.sampled_from(["up", "up", "unknown"])),
            max_replicas=draw(st.integers(0, 6)),
            memory_free_bytes=draw(st.sampled_from([None, 50 * MIB, 150 * MIB, 900 * MIB])),
            unsure=draw(some),
            closed=draw(st.sampled_from(["", "", "cordoned"])),
        )
        for name, found in facts.items()
    ]  # fmt: skip
    return snapshot(
        *hosts,
        wished=draw(st.lists(st.sampled_from(NAMES), unique=True)),
        assigned=assigned,
        generations=draw(st.sampled_from([(), (ONE,), (TWO, ONE)])),
        pool=replace(
            POOL, spares=draw(st.integers(0, 3)), spares_per=draw(st.sampled_from(["host", "pool"]))
        ),
        claimed=draw(some),
    )


@settings(max_examples=300, deadline=None)
@given(worlds())
def test_no_snapshot_makes_a_plan_that_breaks_a_rule_of_spares(given_):
    """Each is claimed once or removed, never both; none is made beyond the wish or the room."""
    actions = plan(given_, NOW).actions
    by_name = {
        fact.name: (view, fact)
        for view in given_.hosts.values()
        for fact in view.containers
        if fact.role == "spare"
    }
    claims = [a.spare for a in actions if isinstance(a, BringUp) and a.spare]
    removals = [a.name for a in actions if isinstance(a, TakeDown) and a.name in by_name]
    touched = claims + removals
    assert len(touched) == len(set(touched)), "nothing is done with one twice"
    assert not given_.claimed.intersection(touched), "nor with one that is being claimed"
    for action in actions:
        if isinstance(action, BringUp) and action.spare:
            view, fact = by_name[action.spare]
            assert (view.name, fact.digest) == (action.host, action.digest)
            assert fact.ready
            assert view.state == "up"
            assert fact.name not in view.unsure
        if isinstance(action, MakeSpare):
            view = given_.hosts[HostName(action.host)]
            here = [f for f in view.containers if f.role == "spare"]
            here = [f for f in here if f.name not in given_.claimed]
            assert given_.pool is not None
            assert len(here) < given_.pool.spares
            assert view.state == "up"
            assert Digest(action.digest) in view.staged
            assert given_.loads()[view.name] + len(here) < view.max_replicas
            assert not any(isinstance(other, BringUp) for other in actions)
    subjects = [action.subject for action in actions]
    assert len(subjects) == len(set(subjects))


def test_spares_are_shown_with_what_is_done_to_them():
    """Ready, claimed, going, dead, or on a host that cannot be asked."""
    given_ = snapshot(
        host("a", spare(1), spare(2), spare(3), spare(4, ready=False)),
        host("b", spare(5), state="unknown", reason="b is cut off"),
        claimed=frozenset({"poold-spare-2"}), busy={"replica:poold-spare-3": "removing it"},
    )  # fmt: skip
    seen = [(one.name[12:], one.host, one.state, one.reason) for one in shown(given_)]
    assert seen == [
        ("1", "a", "ready", ""), ("2", "a", "claimed", ""), ("3", "a", "removing", ""),
        ("4", "a", "failed", "exited"), ("5", "b", "ready", "b is cut off"),
    ]  # fmt: skip
    assert {one.generation for one in shown(given_)} == {1}


def test_an_explanation_counts_spares_and_says_why_there_are_no_more():
    """How many of how many wait on a host, and what the last try ended in."""
    failed = Retry(at=NOW + 5, failed_at=NOW, failures=1, definite=True, problem={"message": "no"})
    given_ = replace(
        snapshot(host("a", spare(1)), host("b", memory_free_bytes=MIB)), retries={"spare:a": failed}
    )
    told = explain(given_, plan(given_, NOW), NOW, revision=1, events=())
    texts = [one.text for one in told.because if one.topic == "host"]
    assert texts == [
        "a is up: 0 replicas of this pool, 0 of others; 1 of 2 spares",
        "preparing a spare on a failed: no; tried again in 5 s",
        "b is up: 0 replicas of this pool, 0 of others; 0 of 2 spares",
        "no more spares are made on b: memory is short there",
    ]
