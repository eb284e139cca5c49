"""What to tell HAProxy next: pure, from what is wanted and what it shows to command lines.

In: the set, what was read, who has been leaving since when. Out: the steps for now, and who is
leaving. A step that depends on the outcome of another one is not planned: HAProxy is read again in
between, so that nothing is ever removed on the strength of what it was told.

The way out: drain -> no session and no queue -> maintenance -> deleted, or free as a slot. Past the
drain deadline it goes into maintenance with what it has, and that is cut.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from poold.balancers.base import Server, ShownServer, State
from poold.balancers.haproxy import commands
from poold.balancers.haproxy.answers import Figures, ServerState
from poold.errors import Problem, Refused, Temporary
from poold.model.fleet import Pool

Kind = Literal[
    "add", "address", "checks", "weight", "ready", "drain", "maintenance", "cut", "delete"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """An entry of ours, as it was read; its counts are None where they were not told."""

    state: ServerState
    sessions: int | None = None
    queue: int | None = None

    @property
    def name(self) -> str:
        """What the entry is called."""
        return self.state.name

    @property
    def place(self) -> tuple[str, int]:
        """Where it leads."""
        return self.state.address, self.state.port

    @property
    def is_idle(self) -> bool:
        """Whether it is known that nothing is under way on it."""
        return self.sessions == 0 and self.queue == 0

    @property
    def is_free(self) -> bool:
        """Whether a slot leads nowhere."""
        return self.state.in_maintenance and self.is_idle


@dataclass(frozen=True, slots=True)
class Step:
    """One command line, and the entry that it concerns."""

    kind: Kind
    server: str
    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The steps for now, who is leaving, and who cannot be put there."""

    steps: tuple[Step, ...]
    leaving: frozenset[str]
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A pool's part of an HAProxy."""

    backend: str
    slots: str
    options: str
    weight: int
    drain_seconds: float


def place_of(pool: Pool) -> Place:
    """Return the pool's part of its balancer."""
    behind = pool.balancer
    if behind is None:
        raise Refused("balancer.none", f"cannot publish {pool.name}: it has no balancer")
    return Place(
        backend=behind.backend or pool.name,
        slots=behind.slots,
        options=behind.options,
        weight=behind.weight,
        drain_seconds=behind.drain_seconds,
    )


def ours(
    pool: Pool, place: Place, states: Collection[ServerState], figures: Collection[Figures]
) -> tuple[Seen, ...]:
    """Return the pool's entries: its slots, or servers whose names are the pool's replicas'.

    Others in the same backend, a backup server for example, are not ours to touch.
    """
    counts = {one.name: one for one in figures if not one.is_backend}
    slot = re.compile(re.escape(place.slots) + r"[1-9][0-9]*")
    found = []
    for state in states:
        mine = slot.fullmatch(state.name) if place.slots else pool.number(state.name)
        if state.backend == place.backend and mine:
            count = counts.get(state.name)
            sessions, queue = (count.sessions, count.queue) if count else (None, None)
            found.append(Seen(state=state, sessions=sessions, queue=queue))
    return tuple(found)


def plan(
    place: Place,
    wanted: Collection[Server],
    seen: Collection[Seen],
    leaving: Mapping[str, float],
    now: float,
) -> Decision:
    """Decide. `leaving`: since when entries were not wanted any more, in `now`'s seconds."""
    decide = _plan_slots if place.slots else _plan_servers
    return decide(place, wanted, seen, leaving, now)


def shown(
    place: Place, seen: Collection[Seen], leaving: Collection[str]
) -> tuple[ShownServer, ...]:
    """Return what is there in everybody's words; a free slot is nothing."""
    return tuple(
        ShownServer(
            name=each.name,
            address=each.state.address,
            port=each.state.port,
            state=_state(each.state),
            weight=each.state.weight,
            leaving=each.name in leaving,
            sessions=each.sessions,
            queue=each.queue,
        )
        for each in seen
        if not (place.slots and each.is_free)
    )


def _state(state: ServerState) -> State:
    if state.in_maintenance:
        return "maintenance"
    if state.draining:
        return "draining"
    return "up" if state.operational in (1, 2) else "down"


# -- servers that are added and deleted -----------------------------------------------------------


def _plan_servers(
    place: Place,
    wanted: Collection[Server],
    seen: Collection[Seen],
    leaving: Mapping[str, float],
    now: float,
) -> Decision:
    by_name = {server.name: server for server in wanted}
    gone, steps, going, problems = set[str](), list[Step](), list[Step](), list[Problem]()
    for each in seen:
        server = by_name.get(each.name)
        if server is not None and each.place == (server.address, server.port):
            steps += _keep(place, each)
            continue
        if server is not None:
            steps += _lead_elsewhere(place, each, server, problems)
            continue
        gone.add(each.name)
        going += _let_go(place, each, now - leaving.get(each.name, now))
        if each.is_free:
            going.append(_delete(place, each.name))
    there = {each.name for each in seen}
    for server in sorted(wanted, key=lambda s: (len(s.name), s.name)):
        if server.name not in there:
            try:
                steps += _add(place, server)
            except Problem as problem:
                problems.append(problem)
    # Who comes is there before anybody goes: the only one may be replaced.
    return Decision(steps=(*steps, *going), leaving=frozenset(gone), problems=tuple(problems))


def _add(place: Place, server: Server) -> Iterator[Step]:
    """Begin with the checks: a server is up until one of them fails."""
    backend, name = place.backend, server.name
    line = commands.add(
        backend, name, server.address, server.port, weight=place.weight, options=place.options
    )
    yield Step("add", name, line)
    if "check" in place.options.split():
        yield Step("checks", name, commands.checks(backend, name))
    yield Step("ready", name, commands.ready(backend, name))


def _lead_elsewhere(
    place: Place, each: Seen, server: Server, problems: list[Problem]
) -> Iterator[Step]:
    """Have a server follow its replica, at once: a name lives once, so nobody is where it led.

    What is under way at the old address ends there. Only out of maintenance it is up again
    whatever the checks said of the old one.
    """
    backend, name = place.backend, each.name
    try:
        line = commands.move(backend, name, server.address, server.port)
    except Problem as problem:
        problems.append(problem)
        return
    if not each.state.in_maintenance:
        yield Step("maintenance", name, commands.maintenance(backend, name))
    yield Step("address", name, line)
    yield from _repair(place, each)
    yield Step("ready", name, commands.ready(backend, name))


def _delete(place: Place, name: str) -> Step:
    return Step("delete", name, commands.delete(place.backend, name))


# -- slots ----------------------------------------------------------------------------------------


def _plan_slots(
    place: Place,
    wanted: Collection[Server],
    seen: Collection[Seen],
    leaving: Mapping[str, float],
    now: float,
) -> Decision:
    waiting = {(server.address, server.port): server for server in wanted}
    gone, steps, going = set[str](), list[Step](), list[Step]()
    problems, free = list[Problem](), list[Seen]()
    # Slots that take traffic first: the same address in a second one is one too many.
    for each in sorted(seen, key=lambda s: s.state.in_maintenance):
        server = None if each.is_free else waiting.pop(each.place, None)
        if server is not None:
            steps += _keep(place, each)
        elif each.is_free:
            free.append(each)
        else:
            gone.add(each.name)
            going += _let_go(place, each, now - leaving.get(each.name, now))
    for server in sorted(waiting.values(), key=lambda s: (len(s.name), s.name)):
        try:
            here = (server.address, server.port)
            slot = next((s for s in free if s.place == here), None) or _first(free, server)
            steps += _fill(place, slot, server)
            free.remove(slot)
        except Problem as problem:
            problems.append(problem)
    return Decision(steps=(*steps, *going), leaving=frozenset(gone), problems=tuple(problems))


def _first(free: list[Seen], server: Server) -> Seen:
    if free:
        return free[0]
    raise Temporary(
        "balancer.full",
        f"cannot give {server.name} a slot: all are taken",
        hint="raise the number in its server-template",
        retry_after_seconds=5,
    )


def _fill(place: Place, slot: Seen, server: Server) -> Iterator[Step]:
    backend, name = place.backend, slot.name
    line = commands.move(backend, name, server.address, server.port)
    if slot.place != (server.address, server.port):
        yield Step("address", name, line)
    yield from _keep(place, slot)


# -- both -----------------------------------------------------------------------------------------


def _keep(place: Place, each: Seen) -> Iterator[Step]:
    """Repair what is not as it should be on a server that leads where it should."""
    yield from _repair(place, each)
    if each.state.in_maintenance or each.state.draining:
        yield Step("ready", each.name, commands.ready(place.backend, each.name))


def _repair(place: Place, each: Seen) -> Iterator[Step]:
    if each.state.weight != place.weight:
        yield Step("weight", each.name, commands.weigh(place.backend, each.name, place.weight))
    if each.state.checks_are_off:
        yield Step("checks", each.name, commands.checks(place.backend, each.name))


def _let_go(place: Place, each: Seen, for_seconds: float) -> Iterator[Step]:
    backend, name, state = place.backend, each.name, each.state
    overdue = for_seconds >= place.drain_seconds
    if not state.in_maintenance:
        if overdue or (state.draining and each.is_idle):
            yield Step("maintenance", name, commands.maintenance(backend, name))
        elif not state.draining:
            yield Step("drain", name, commands.drain(backend, name))
    elif overdue and each.sessions:
        yield Step("cut", name, commands.cut(backend, name))
