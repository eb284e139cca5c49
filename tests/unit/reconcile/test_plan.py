"""plan(snapshot, now): no promise is broken by any snapshot; and the design's own examples."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings, strategies as st

from poold.agent.messages import ContainerFact, Started
from poold.model.application import Application
from poold.model.fleet import Change, Generation, Manifest, Pool, RollSettings
from poold.reconcile.actions import (
    AdvanceMove,
    BringUp,
    Disown,
    DropGeneration,
    Forget,
    MakeGeneration,
    SendGeneration,
    SendImage,
    TakeDown,
)
from poold.reconcile.plan import plan
from poold.reconcile.snapshot import HostView, Retry, Snapshot
from poold.store import Assignment, Garbage, Move, Wish

APPLICATION = Application(image="hello:1", port=8080)
POOL = Pool(
    name="hello", application=APPLICATION, hosts=("a", "b"), builder="a",
    replica_name="hello{n}", max=5,
)  # fmt: skip


STARTED = Started("hello1", "c1", "10.0.0.1:20000", "restore", 0.1, {"restore": 0.1}, 1.0)


def generation(number, fingerprint=None, runtime="", image_id="sha256:i"):
    manifest = Manifest(
        pool="hello", build=f"build-{number}", fingerprint=fingerprint or APPLICATION.fingerprint(),
        image="hello:1", image_id=image_id, archive_sha256="a", archive_bytes=1,
        packed_sha256="p", packed_bytes=1, engine="", runtime=runtime, criu="", kernel="",
        machine="", cpu_flags=(), created_at=0.0,
    )  # fmt: skip
    return Generation("hello", number, f"sha256:{number:064}", manifest, "a", 100.0 * number)


def fact(name, *, ours=True, ready=True, role="replica", container_id=""):
    return ContainerFact(
        name=name, container_id=container_id or f"c-{name}", ours=ours,
        pool="hello" if ours else "",
        role=role if ours else "foreign", running=ready, status="running" if ready else "exited",
        ready=ready,
    )  # fmt: skip


def host(name, *facts, staged=(), state="up", **fields):
    digests = frozenset(g.digest for g in staged)
    return HostView(
        name=name, state=state, containers=facts, held=digests, staged=digests, **fields
    )


def snapshot(*hosts, wished=(), assigned=(), generations=(), **fields):
    defaults = {"introduced": frozenset({"a", "b"})}
    return Snapshot(
        name="hello", pool=fields.pop("pool", POOL),
        wishes=tuple(Wish(name=n, pool="hello") for n in wished),
        assignments=tuple(
            Assignment(name=n, pool="hello", host=h, since=1.0) for n, h in dict(assigned).items()
        ),
        generations=generations, hosts={h.name: h for h in hosts}, **{**defaults, **fields},
    )  # fmt: skip


def test_the_example_of_the_style_guide():
    """Two hosts, b without generation 7, from one to three: send, restore here, wait for b."""
    seven = generation(7)
    given_ = snapshot(
        host("a", fact("hello1"), staged=[seven]), host("b"),
        wished=["hello1", "hello2", "hello3"], assigned={"hello1": "a"}, generations=(seven,),
    )  # fmt: skip
    decided = plan(given_, 0.0)
    assert decided.actions == (
        SendGeneration(7, seven.digest, "a", "b"),
        BringUp("hello3", "a", seven.digest, 7),
    )
    sent = snapshot(
        host("a", fact("hello1"), staged=[seven]), host("b", staged=[seven]),
        wished=["hello1", "hello2", "hello3"], assigned={"hello1": "a", "hello3": "a"},
        generations=(seven,), busy={"replica:hello3": "restoring hello3"},
    )  # fmt: skip
    assert plan(sent, 0.0).actions == (BringUp("hello2", "b", seven.digest, 7),)


def test_redundant_ones_go_before_missing_ones_come():
    """Removal is planned first; the name is freed only when the host confirmed."""
    one = generation(1)
    given_ = snapshot(
        host("a", fact("hello1"), fact("hello2"), staged=[one]), host("b", staged=[one]),
        wished=["hello1", "hello3"], assigned={"hello1": "a", "hello2": "a"}, generations=(one,),
    )  # fmt: skip
    down, up = plan(given_, 0.0).actions
    assert isinstance(down, TakeDown)
    assert (down.name, down.container_id) == ("hello2", "c-hello2")
    assert isinstance(up, BringUp)
    assert (up.name, up.host) == ("hello3", "b")
    gone = replace(given_, hosts={**given_.hosts, "a": host("a", fact("hello1"), staged=[one])})
    assert plan(gone, 0.0).books == (Forget("hello2", "a"),)


def test_an_unreachable_host_keeps_its_names():
    """Nothing is planned for what runs on a host that cannot be asked."""
    one = generation(1)
    given_ = snapshot(
        host("a", staged=[one]), host("b", fact("hello1"), state="unknown", reason="cut"),
        wished=["hello1"], assigned={"hello1": "b"}, generations=(one,),
    )  # fmt: skip
    decided = plan(given_, 0.0)
    assert decided.actions == ()
    assert decided.replicas[0].state == "unknown"
    assert decided.sentence == "hello 0/1: hello1 unknown: cut"


def test_a_build_container_is_left_to_its_build():
    """Owned by a running or an open action it stays; left over it goes."""
    proof = replace(fact("poold-proof-1", role="proof"), build="build-1")
    owned = host("a", proof, running_actions=frozenset({"build-1"}))
    assert plan(snapshot(owned, host("b")), 0.0).actions == ()
    ours = snapshot(host("a", proof), host("b"), own_actions=frozenset({"build-1"}))
    assert plan(ours, 0.0).actions == ()
    (left,) = plan(snapshot(host("a", proof), host("b")), 0.0).actions
    assert isinstance(left, TakeDown)


def test_a_change_is_not_failed_by_an_older_failure_before_it_was_tried_again():
    """hello1 failed before the wish: the change waits for what the next try gives."""
    retry = Retry(at=50.0, failed_at=10.0, failures=3, definite=True, problem={"message": "cannot"})
    change = Change(1, "hello", "scale", {"names": ["hello1"], "removed": []}, "t", 20.0)
    given_ = replace(
        snapshot(host("a"), host("b", fact("hello1", ours=False)), wished=["hello1"]),
        assignments=(
            Assignment(name="hello1", pool="hello", host="a", since=1.0, failed_rungs=("cold",)),
        ),
        retries={"replica:hello1": retry, f"build:{APPLICATION.fingerprint()}": retry},
        changes=(change,),
    )
    assert plan(given_, 30.0).replicas[0].state == "failed"
    assert plan(given_, 30.0).verdicts == ()
    later = replace(
        given_, retries={**given_.retries, "replica:hello1": replace(retry, failed_at=25.0)}
    )
    (verdict,) = plan(later, 30.0).verdicts
    assert verdict.state == "failed"


def test_the_sentence_says_a_few_things_and_counts_the_rest():
    """What is under way comes first, in order; then what stands still."""
    away = host("b", state="unknown", reason="cut")
    for count, tail in ((2, "…2, hello9 unknown: cut"), (4, "…4, 1 more"), (6, "…4, 3 more")):
        busy = {f"replica:hello{n}": f"restoring …{n}" for n in range(count, 0, -1)}
        given_ = snapshot(
            host("a"), away, wished=["hello9"], assigned={"hello9": "b"}, busy=busy,
            generations=(generation(1),),
        )  # fmt: skip
        said = plan(given_, 0.0).sentence
        assert said.startswith("hello 0/1: restoring …1, restoring …2")
        assert said.endswith(tail)


# -- any snapshot --------------------------------------------------------------------------------

NAMES = [f"hello{n}" for n in range(1, 5)]
BUSY = (
    {}, {f"replica:{NAMES[0]}": "restoring"},
    {f"replica:{NAMES[0]}": "restoring", f"stray:{NAMES[0]}@b": "removing"},
)  # fmt: skip
MARKS = (
    {}, {}, {}, {"closed": "cordoned"}, {"closed": "fenced", "fenced": True},
    {"closed": "flapping", "closed_until": 150.0},
)  # fmt: skip
GENERATIONS = (
    generation(4, runtime="crun 1.28"),
    generation(3, runtime="runc 1.3"),
    generation(2, "sha256:other"),
    generation(1),
    generation(0, runtime="runc 1.3", image_id="sha256:old"),
)
KNOWN = ((), GENERATIONS, GENERATIONS[1:], GENERATIONS[2:3], GENERATIONS[4:])
MEANT = ({}, {"hello:1": ""}, {"hello:1": "i"}, {"hello:1": "next"})  # by the image's name
ROLLING = replace(POOL, roll=RollSettings(auto=True))
FACTS = ({}, {"runtime": "runc 1.3"}, {"runtime": "crun 1.28"})


@st.composite
def snapshots(draw):
    """Anything that the store and the hosts could say, sensible or not."""
    hosts = []
    for name in ("a", "b"):
        names = draw(st.lists(st.sampled_from([*NAMES, "poold-build-1"]), unique=True))
        facts = []
        for each in names:
            role = "build" if each.startswith("poold") else draw(
                st.sampled_from(["replica", "replica", "captured"])
            )  # fmt: skip
            facts.append(
                fact(
                    each, ours=draw(st.booleans()), ready=draw(st.booleans()), role=role,
                    container_id=f"{name}-{each}",
                )
            )  # fmt: skip
        hosts.append(
            host(
                name, *facts, staged=draw(st.lists(st.sampled_from(GENERATIONS))),
                state=draw(st.sampled_from(["up", "up", "up", "connecting", "unknown"])),
                unsure=draw(st.frozensets(st.sampled_from(NAMES), max_size=1)),
                max_replicas=draw(st.integers(0, 4)), others=draw(st.integers(0, 1)),
                facts=draw(st.sampled_from(FACTS)), image_ids=draw(st.sampled_from(MEANT)),
                **draw(st.sampled_from(MARKS)),
            )
        )  # fmt: skip
    wishes = draw(st.lists(st.sampled_from(NAMES), unique=True))
    pins = {n: draw(st.sampled_from([None, None, "a", "b"])) for n in wishes}
    assigned = draw(st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["a", "b", "gone"])))
    moving = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=1))
    rungs = st.sampled_from(["cold", *(f"restore:{g.digest}" for g in GENERATIONS)])
    problem = {"message": "cannot", "code": "x"}
    retries = {
        f"{kind}:{n}": Retry(
            at=draw(st.floats(0, 200)), failed_at=50.0, failures=draw(st.integers(1, 6)),
            definite=draw(st.booleans()), problem=problem,
        )
        for kind in ("replica", "removal")
        for n in draw(st.lists(st.sampled_from(NAMES), max_size=2))
    }  # fmt: skip
    return Snapshot(
        name="hello",
        pool=draw(st.sampled_from([POOL, ROLLING, POOL, None])),
        introduced=draw(st.sampled_from([frozenset("ab"), frozenset("a"), frozenset()])),
        first_wished=draw(st.booleans()),
        wishes=tuple(Wish(name=n, pool="hello", host=pins[n]) for n in wishes),
        assignments=tuple(
            Assignment(
                name=n, pool="hello", host=h, since=1.0,
                failed_rungs=tuple(draw(st.lists(rungs, unique=True))),
            )
            for n, h in assigned.items()
        ),
        generations=draw(st.sampled_from(KNOWN)),
        moves=tuple(
            Move(name=n, pool="hello", change=1, source="a", target="b", step="send", action="m")
            for n in moving
        ),
        garbage=tuple(
            Garbage(digest=g.digest, host="b", pool="hello")
            for g in draw(st.lists(st.sampled_from(GENERATIONS), max_size=1))
        ),
        changes=(Change(2, "hello", "scale", {"names": wishes, "removed": []}, "t", 1.0),),
        hosts={h.name: h for h in hosts},
        busy=draw(st.sampled_from(BUSY)),
        retries=retries,
    )  # fmt: skip


@settings(max_examples=150)
@given(snapshots(), st.floats(0, 200))
def test_whatever_the_snapshot_the_rules_hold(given_, now):
    """No name twice, none busy, none elsewhere than assigned; nothing foreign; all on up hosts."""
    decided = plan(given_, now)
    assert decided == plan(given_, now)
    subjects = [action.subject for action in decided.actions]
    assert len(subjects) == len(set(subjects))
    assert not set(subjects) & set(given_.busy)
    assigned, wished = given_.assigned(), given_.wished()
    moving = {move.name for move in given_.moves}
    if given_.pool is None:
        assert decided.actions == decided.books == ()
    for action in decided.actions:
        match action:
            case BringUp():
                view = given_.hosts[action.host]
                assert view.up
                assert not view.closed
                assert action.name in wished
                assert action.name not in moving
                assert wished[action.name].host in (None, action.host) or action.name in assigned
                assert assigned.get(action.name) is None or (
                    assigned[action.name].host == action.host
                )
                assert all(h.ours(action.name) is None for h in given_.hosts.values() if h.up)
                assert not view.foreign(action.name)
                assert action.name not in view.unsure
                assert action.digest is None or action.digest in view.staged
                assert action.rung not in action.failed_rungs
                fits = {g.digest for g in given_.usable_on(view)}
                assert action.digest is None or action.digest in fits
                fingerprints = {g.digest: g.manifest.fingerprint for g in given_.generations}
                assert action.digest is None or (
                    fingerprints[action.digest] == APPLICATION.fingerprint()
                )
                images = {g.digest: g.manifest.image_id[7:] for g in given_.generations}
                served = {images[g.digest] for g in (*given_.usable()[:1], *given_.usable_on(view))}
                assert len(served) <= 1
                if action.digest is not None:
                    assert {images[action.digest]} == served
                elif served:
                    assert {action.image_id} == served
                else:
                    assert action.image_id in ("", *given_.hosts["a"].image_ids.values())
            case TakeDown():
                view = given_.hosts[action.host]
                here = view.ours(action.name)
                assert view.up
                assert here is not None
                assert here.container_id == action.container_id
                assert action.name not in moving or action.stray
                healthy = here.role == "replica" and here.ready
                kept = assigned.get(action.name)
                needed = (
                    action.name in wished and kept is not None and kept.host == action.host
                    and wished[action.name].host in (None, action.host)
                )  # fmt: skip
                assert not (healthy and needed)
            case SendGeneration():
                assert given_.hosts[action.target].up
                assert not given_.hosts[action.target].fenced
                assert action.digest in given_.hosts[action.source].held
                assert action.digest not in given_.hosts[action.target].staged
                assert action.digest in {
                    g.digest for g in given_.usable_on(given_.hosts[action.target])
                }
            case SendImage():
                assert given_.hosts[action.source].up
                assert given_.hosts[action.target].up
            case AdvanceMove():
                assert action.name in moving
            case MakeGeneration():
                view = given_.hosts[action.builder]
                assert view.up
                assert action.apart != (action.builder == POOL.builder)
                assert not action.apart or given_.usable()[0] not in given_.usable_on(view)
                if given_.usable() and not action.apart:
                    assert given_.pool.roll.auto
                    served = given_.usable()[0].manifest.image_id[7:]
                    assert view.image_ids["hello:1"] not in ("", served)
            case DropGeneration():
                assert given_.hosts[action.host].up
    for book in decided.books:
        if isinstance(book, Forget):
            view = given_.hosts[book.host]
            assert view.up
            assert view.ours(book.name) is None
            assert book.name not in view.unsure
    assert decided.sentence or decided.books


def at_rest(*facts, wish=None, assigned="a", state="up", unsure=(), **fields):
    """Return hello1 as it should be on a, but for what is given."""
    here = host("a", *facts, state=state, unsure=frozenset(unsure), staged=[generation(1)])
    given_ = snapshot(here, assigned={"hello1": assigned}, generations=(generation(1),), **fields)
    return replace(given_, wishes=(Wish(name="hello1", pool="hello", host=wish),))


MOVE = Move(name="hello1", pool="hello", change=1, source="a", target="b", step="send", action="m")


@pytest.mark.parametrize(
    "given_",
    [
        at_rest(fact("hello1", ready=False)),
        at_rest(replace(fact("hello1"), ready=False)),
        at_rest(replace(fact("hello1"), running=False)),
        at_rest(fact("hello1", role="captured")),
        at_rest(fact("hello1", ours=False)),
        at_rest(fact("hello1"), wish="b"),
        at_rest(fact("hello1"), assigned="b"),
        at_rest(fact("hello1"), state="unknown"),
        at_rest(fact("hello1"), unsure=["hello1"]),
        at_rest(fact("hello1"), moves=(MOVE,)),
        at_rest(fact("hello1"), busy={"replica:hello1": "restoring"}),
        at_rest(fact("hello1"), extras=frozenset({"hello1"})),
        replace(at_rest(fact("hello1")), wishes=()),
        replace(at_rest(fact("hello1")), assignments=()),
        at_rest(fact("hello1")).acting({"replica:hello1": "removing hello1 from b"}),
    ],
)
def test_what_is_not_as_it_should_be_is_not_at_rest(given_):
    """Each of these is looked at by every rule."""
    assert given_.resting() == {}


@pytest.mark.parametrize("started", [None, STARTED])
@pytest.mark.parametrize("wish", [None, "a"])
def test_what_is_at_rest_is_shown_as_if_it_were_looked_at(wish, started):
    """Leaving a ready replica out of the rules gives the plan that looking at it gives."""
    ready = replace(fact("hello1"), address="10.0.0.1:1" if started is None else "")
    given_ = at_rest(ready, wish=wish, busy={"replica:hello2": "restoring"})
    where = replace(given_.assignments[0], started=started, generation=1, reason="it fell back")
    given_ = replace(given_, assignments=(where,))
    looked_at = replace(given_)
    looked_at.index.resting = {}
    assert list(given_.resting()) == ["hello1"]
    assert given_.acting({"replica:hello2": "restoring"}).resting() == given_.resting()
    assert plan(given_, 0.0) == plan(looked_at, 0.0)


@settings(max_examples=150)
@given(snapshots(), st.floats(0, 200))
def test_what_comes_back_with_a_fenced_host_goes_first(given_, now):
    """What lives elsewhere is removed there at once, busy or moving; else nothing is done there."""
    decided = plan(given_, now)
    removed = {(a.host, a.name) for a in decided.actions if isinstance(a, TakeDown)}
    fenced = {h.name for h in given_.hosts.values() if h.fenced}
    for host_ in (h for h in given_.hosts.values() if h.fenced and h.up):
        for each in host_.containers:
            kept = given_.assigned().get(each.name)
            retry = given_.retries.get(f"removal:{each.name}")
            held_up = each.name in host_.unsure or (retry is not None and retry.at > now)
            if each.ours and each.role != "build" and not held_up and given_.pool is not None:
                stray = kept is not None and kept.host != host_.name
                under_way = f"stray:{each.name}@{host_.name}" in given_.busy
                wanted = stray and not under_way and not decided.books
                assert not wanted or (host_.name, each.name) in removed
    for action in decided.actions:
        match action:
            case (
                SendGeneration(source=source, target=target)
                | SendImage(source=source, target=target)
            ):
                assert not {source, target} & fenced
            case MakeGeneration(builder=name) | DropGeneration(host=name) | BringUp(host=name):
                assert name not in fenced
            case TakeDown():
                kept = given_.assigned().get(action.name)
                lives_elsewhere = kept is not None and kept.host != action.host
                assert action.stray == (action.host in fenced and lives_elsewhere)


@settings(max_examples=60)
@given(snapshots(), st.floats(0, 200), st.randoms())
def test_the_order_of_rows_does_not_matter(given_, now, random):
    """Plans depend on what is known, not on the order in which it came."""

    def shuffled(values):
        values = list(values)
        random.shuffle(values)
        return tuple(values)

    other = replace(
        given_,
        wishes=shuffled(given_.wishes),
        assignments=shuffled(given_.assignments),
        hosts={
            name: replace(view, containers=shuffled(view.containers))
            for name, view in shuffled(given_.hosts.items())
        },
    )
    one, two = plan(given_, now), plan(other, now)
    assert (one.books, one.replicas, one.sentence) == (two.books, two.replicas, two.sentence)
    assert sorted(map(repr, one.actions)) == sorted(map(repr, two.actions))


@settings(max_examples=100)
@given(snapshots())
def test_a_replica_that_is_missing_is_worked_on_or_says_why(given_):
    """No replica waits without a word."""
    decided = plan(given_, 1000.0)
    for replica in decided.replicas:
        if replica.state in ("waiting", "failed", "unknown"):
            assert replica.reason or given_.pool is None, replica


def test_a_generation_that_nobody_told_of_is_removed():
    """What an action made and could not tell of goes; what may yet be told of, or serves, stays."""
    one, stray = generation(1), generation(7)
    there = host("a", fact("hello1"), staged=[one, stray], of_pool={one.digest, stray.digest})
    rest = snapshot(there, host("b"), wished=["hello1"], assigned={"hello1": "a"})
    known = replace(rest, generations=(one,))
    assert plan(known, 0.0).books == (Disown(stray.digest, "a"),)
    assert plan(rest, 0.0).books == ()  # nothing proven is known: a lost store
    building = replace(known, busy={f"build:{APPLICATION.fingerprint()}": "building"})
    assert plan(building, 0.0).books == ()
    gone = replace(known, garbage=(Garbage(digest=stray.digest, host="a", pool="hello"),))
    assert plan(gone, 0.0).books == ()
    serving = replace(known.assignments[0], rung=f"restore:{stray.digest}")
    assert plan(replace(known, assignments=(serving,)), 0.0).books == ()
    away = replace(known, hosts={**known.hosts, "a": replace(there, state="unknown")})
    assert plan(away, 0.0).books == ()
