"""Whatever HAProxy shows, the plan leads to the set, and never over somebody's request."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, strategies as st

from poold.balancers.base import Server
from poold.balancers.haproxy.answers import Figures, ServerState
from poold.balancers.haproxy.plan import Place, Seen, Step, ours, place_of, plan, shown
from poold.errors import Refused
from poold.model.application import Application
from poold.model.balancing import BalancerName, Behind
from poold.model.fleet import HostName, Pool, PoolName

PLACE = Place(backend="hello", slots="", options="check", weight=100, drain_seconds=30)
SLOTS = replace(PLACE, slots="slot")
ADMIN = {"ready": 0, "drain": 0x08, "maint": 0x01}


def server(number: int, *, port: int = 0) -> Server:
    """Return hello1 at 10.0.0.1:20001."""
    return Server(name=f"hello{number}", address="10.0.0.1", port=port or 20000 + number)


def entry(
    name: str, port: int, admin: str = "ready", *, sessions: int | None = 0, weight: int = 100
) -> Seen:
    """Return what HAProxy shows of a server."""
    state = ServerState(
        backend="hello",
        name=name,
        address="10.0.0.1",
        port=port,
        operational=2,
        admin=ADMIN[admin],
        weight=weight,
        check=6,
    )
    return Seen(state=state, sessions=sessions, queue=0)


def lines(
    place: Place, wanted: list[Server], seen: list[Seen], since: dict[str, float] | None = None
) -> list[str]:
    """Return the commands of a plan at second 100."""
    return [step.line for step in plan(place, wanted, seen, since or {}, 100).steps]


def test_a_new_server_is_checked_before_it_is_ready() -> None:
    """Added with weight and options, checks on, then traffic."""
    assert lines(PLACE, [server(1)], []) == [
        "add server hello/hello1 10.0.0.1:20001 check weight 100",
        "enable health hello/hello1",
        "set server hello/hello1 state ready",
    ]


def test_what_is_as_it_should_be_needs_nothing() -> None:
    """The set as it is shown: no command."""
    assert lines(PLACE, [server(1)], [entry("hello1", 20001)]) == []


@pytest.mark.parametrize(
    ("seen", "next_"),
    [
        (entry("hello1", 20001, sessions=3), ["set server hello/hello1 state drain"]),
        (entry("hello1", 20001, "drain", sessions=3), []),
        (entry("hello1", 20001, "drain", sessions=None), []),
        (entry("hello1", 20001, "drain"), ["set server hello/hello1 state maint"]),
        (replace(entry("hello1", 20001, "drain"), queue=1), []),
        (entry("hello1", 20001, "maint"), ["del server hello/hello1"]),
        (entry("hello1", 20001, "maint", sessions=2), []),
        (entry("hello1", 20001, "maint", sessions=None), []),
    ],
)
def test_the_way_out_one_step_after_the_other(seen: Seen, next_: list[str]) -> None:
    """Nothing goes on before it was read that nothing is under way."""
    assert lines(PLACE, [], [seen], {"hello1": 99}) == next_


@pytest.mark.parametrize("admin", ["ready", "drain"])
def test_the_deadline_ends_draining(admin: str) -> None:
    """Past it maintenance comes, whatever is under way, and then the cut."""
    busy = entry("hello1", 20001, admin, sessions=2)
    assert lines(PLACE, [], [busy], {"hello1": 60}) == ["set server hello/hello1 state maint"]
    still = entry("hello1", 20001, "maint", sessions=2)
    assert lines(PLACE, [], [still], {"hello1": 60}) == ["shutdown sessions server hello/hello1"]


def test_a_name_at_another_address_follows_its_replica() -> None:
    """At once, through maintenance: the checks of the old address do not keep it down."""
    moved = entry("hello1", 20009, sessions=1)
    way = [
        "set server hello/hello1 addr 10.0.0.1 port 20001",
        "set server hello/hello1 state ready",
    ]
    assert lines(PLACE, [server(1)], [moved]) == ["set server hello/hello1 state maint", *way]
    assert lines(PLACE, [server(1)], [entry("hello1", 20009, "maint")]) == way


def test_an_address_in_two_slots_is_one_too_many() -> None:
    """One of them stays."""
    seen = [entry("slot1", 20001), entry("slot2", 20001)]
    assert lines(SLOTS, [server(1)], seen) == ["set server hello/slot2 state drain"]


def test_a_slot_that_had_the_address_gets_it_again() -> None:
    """What a reload left in maintenance is used before others."""
    seen = [entry("slot1", 9, "maint"), entry("slot2", 20001, "maint")]
    assert lines(SLOTS, [server(1)], seen) == ["set server hello/slot2 state ready"]


def test_who_cannot_be_there_is_named_and_others_go_on() -> None:
    """A bad address, or no slot left, concerns one replica."""
    named = Server(name="hello1", address="web1.example", port=1)
    decision = plan(PLACE, [named, server(2)], [], {}, 0)
    assert [p.code for p in decision.problems] == ["balancer.bad-address"]
    assert {step.server for step in decision.steps} == {"hello2"}
    full = plan(SLOTS, [server(1), server(2)], [entry("slot1", 9, "maint")], {}, 0)
    assert [(p.code, "hello2" in p.message) for p in full.problems] == [("balancer.full", True)]


def test_only_what_is_ours_is_looked_at() -> None:
    """Others' servers, other pools' replicas and other backends are left alone."""
    pool = Pool(
        PoolName("hello"),
        Application(image="i", port=8080),
        (HostName("a"),),
        HostName("a"),
        "hello{n}",
        balancer=Behind(BalancerName("front")),
    )
    there = ["hello1", "hello01", "hellox", "backup", "slot1", "slot01", "slotx", "hello12"]
    states = [entry(name, 1).state for name in there]
    states.append(replace(states[0], backend="other"))
    figures = [
        Figures(
            backend="hello",
            name="hello1",
            status="UP",
            sessions=4,
            queue=1,
            requests=9,
            is_backend=False,
        )
    ]
    found = ours(pool, place_of(pool), states, figures)
    assert [(each.name, each.sessions) for each in found] == [("hello1", 4), ("hello12", None)]
    assert [each.name for each in ours(pool, SLOTS, states, figures)] == ["slot1"]
    with pytest.raises(Refused):
        place_of(replace(pool, balancer=None))


# -- against a model of HAProxy -------------------------------------------------------------------


@dataclass
class Model:
    """HAProxy as far as the plan knows it; it asserts what must never be asked of it."""

    entries: dict[str, Seen]
    ended: int = 0
    overdue: set[str] = field(default_factory=set)
    moving: set[str] = field(default_factory=set)

    def do(self, step: Step) -> None:
        """Do one step, as HAProxy would."""
        name, each = step.server, self.entries.get(step.server)
        if step.kind == "add":
            assert each is None
            port = int(step.line.split()[3].rpartition(":")[2])
            added = entry(name, port, "maint")
            self.entries[name] = replace(added, state=replace(added.state, check=2))
            return
        assert each is not None
        state = each.state
        match step.kind:
            case "delete":
                assert state.in_maintenance
                assert each.sessions == 0
                del self.entries[name]
                return
            case "address":
                assert state.in_maintenance
                assert each.sessions == 0 or not name.startswith("slot")
                state = replace(state, port=int(step.line.split()[-1]))
            case "maintenance":
                idle = state.draining and each.sessions == 0
                assert idle or name in self.overdue | self.moving
                state = replace(state, admin=1)
            case "drain":
                state = replace(state, admin=8)
            case "ready":
                state = replace(state, admin=0)
            case "checks":
                state = replace(state, check=6)
            case "weight":
                state = replace(state, weight=int(step.line.split()[-1]))
            case "cut":
                assert name in self.overdue
                self.ended += each.sessions or 0
                each = replace(each, sessions=0)
        self.entries[name] = replace(each, state=state)


ENTRIES = st.builds(
    entry,
    st.just(""),
    st.integers(20001, 20006),
    st.sampled_from(["ready", "drain", "maint"]),
    sessions=st.integers(0, 2),
    weight=st.sampled_from([1, 100]),
)


@given(
    found=st.lists(ENTRIES, max_size=5),
    numbers=st.sets(st.integers(1, 6), max_size=5),
    slots=st.booleans(),
    endless=st.booleans(),
)
def test_every_beginning_leads_to_the_set(
    found: list[Seen], numbers: set[int], slots: bool, endless: bool
) -> None:
    """Sessions end one a round, or never until the deadline: the set is shown, then silence."""
    place, prefix = (SLOTS, "slot") if slots else (PLACE, "hello")
    if slots:  # as many as are needed, whatever has to drain before
        found += [entry("", 9, "maint")] * 11
    entries = {
        f"{prefix}{n}": replace(each, state=replace(each.state, name=f"{prefix}{n}"))
        for n, each in enumerate(found, 1)
    }
    wanted = [server(number) for number in numbers]
    model, since = Model(entries), dict[str, float]()
    for second in range(60):
        seen = list(model.entries.values())
        decision = plan(place, wanted, seen, since, second)
        since = {name: since.get(name, second) for name in decision.leaving}
        model.overdue = {n for n, at in since.items() if second - at >= place.drain_seconds}
        model.moving = {step.server for step in decision.steps if step.kind == "address"}
        for step in decision.steps:
            model.do(step)
        if not endless:
            for name, each in model.entries.items():
                model.entries[name] = replace(each, sessions=max(0, (each.sessions or 0) - 1))
    last = list(model.entries.values())
    decision = plan(place, wanted, last, since, 60)
    assert (decision.steps, decision.leaving, decision.problems) == ((), frozenset(), ())
    there = shown(place, last, decision.leaving)
    assert {(one.port, one.state, one.weight) for one in there} == {
        (one.port, "up", 100) for one in wanted
    }
    assert len(there) == len(wanted)
    if not endless:
        assert model.ended == 0


@pytest.mark.parametrize("place", [PLACE, SLOTS])
def test_who_comes_is_there_before_anybody_goes(place: Place) -> None:
    """The only server may be replaced by another one: in between nobody would be there."""
    seen = [entry("hello1" if place is PLACE else "slot1", 20001)]
    seen += [] if place is PLACE else [entry("slot2", 9, "maint")]
    steps = plan(place, [server(2)], seen, {}, 0).steps
    kinds = [step.kind for step in steps]
    assert kinds.index("ready") < kinds.index("drain")
