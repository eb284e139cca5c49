"""What to do for one pool now: `plan(snapshot, now)`, pure and deterministic.

In: a snapshot. Out: actions (redundant things go first, then missing ones come), the pool's
replicas as they may be shown, one sentence, and which changes ended. No I/O, no clock, no asyncio.

Promise 1 is kept by three rules: a name is acted on only at the host it is assigned to; it is freed
only when that host, reachable and listed since, does not have it; nothing is decided on a name with
an action under way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from poold.agent.messages import ContainerFact
from poold.balancers.base import Server
from poold.model.fleet import Pool, Replica, ReplicaName, RollStatus
from poold.reconcile import images, importing, rolling, spares, traffic
from poold.reconcile.actions import (
    AdvanceMove,
    DropGeneration,
    Local,
    MakeGeneration,
    Remote,
    SendGeneration,
    SendImage,
    TakeDown,
    Thaw,
    build_subject,
    generation_subject,
    image_subject,
    removal_key,
    replica_subject,
    restore_rung,
)
from poold.reconcile.adding import Notes, bring_ups
from poold.reconcile.books import INTRODUCTION_SECONDS, books
from poold.reconcile.ladder import source_of
from poold.reconcile.published import Place
from poold.reconcile.quarantine import barred
from poold.reconcile.settle import Verdict, verdicts
from poold.reconcile.shown import describe, sentence, shown
from poold.reconcile.snapshot import HostView, Retry, Snapshot

THAW_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do, and how things are. `books` come alone: apply them and plan again.

    `wake_at` is when the same snapshot would give another plan. `servers` is the set that the
    pool's balancer is told, None where there is none; replicas at the places `leaving` wait until
    it let go of them. `forced` says who is stopped though it did not.
    """

    books: tuple[Local, ...] = ()
    actions: tuple[Remote, ...] = ()
    replicas: tuple[Replica, ...] = ()
    sentence: str = ""
    verdicts: tuple[Verdict, ...] = ()
    wake_at: float | None = None
    roll: RollStatus | None = None
    servers: tuple[Server, ...] | None = None
    leaving: tuple[Place, ...] = ()
    forced: tuple[str, ...] = ()


def plan(snapshot: Snapshot, now: float) -> Plan:
    """Decide for one pool."""
    written = books(snapshot, now)
    if written:
        return Plan(books=written, wake_at=now)
    notes = Notes()
    actions: list[Remote] = []
    held = traffic.Held()
    leaving = tuple(spares.given_up(snapshot, now))
    actions += leaving
    if snapshot.pool is not None:
        removals = (*_moves(snapshot, now), *_take_downs(snapshot, now))
        held = traffic.hold(snapshot, removals, now)
        actions += held.free
        actions += _garbage(snapshot, now)
        actions += importing.planned(snapshot, now)
        actions += _builds(snapshot, snapshot.pool, now)
        actions += _images(snapshot, snapshot.pool, now)
        actions += _sends(snapshot, snapshot.pool, now)
        offers = spares.offers(snapshot, now, leaving)
        actions += bring_ups(snapshot, snapshot.pool, now, notes, offers)
        actions += spares.missing(snapshot, snapshot.pool, now, actions)
    after = snapshot.acting({action.subject: describe(action) for action in actions})
    replicas = traffic.draining(shown(after, notes.waiting, notes.failed), held)
    return Plan(
        actions=tuple(actions),
        replicas=replicas,
        sentence=sentence(after, replicas, rolling.sentence(after, now)),
        verdicts=verdicts(after, replicas, notes.failed),
        wake_at=_earlier(_wake_at(snapshot, now), traffic.gives_up_at(snapshot, held)),
        roll=rolling.status(after),
        servers=traffic.servers(after, replicas, held),
        leaving=tuple(held.waiting),
        forced=held.forced,
    )


def _wake_at(snapshot: Snapshot, now: float) -> float | None:
    times = [retry.at for retry in snapshot.retries.values() if retry.at > now]
    times += [entry.until for entry in snapshot.quarantine.values() if entry.until > now]
    times += spares.grow_old_at(snapshot, now)
    times += [at for at in (spares.rests_until(snapshot, now),) if at > now]
    times += [h.closed_until for h in snapshot.hosts.values() if h.closed_until is not None]
    if not snapshot.first_wished:
        times.append(max(now + 0.1, snapshot.seen_at + INTRODUCTION_SECONDS))
    return min(times, default=None)


def _earlier(one: float | None, other: float | None) -> float | None:
    return min((at for at in (one, other) if at is not None), default=None)


def _due(snapshot: Snapshot, subject: str, now: float) -> bool:
    """Whether a subject is free, and not to be left alone after a failure."""
    retry = snapshot.retries.get(subject)
    return subject not in snapshot.busy and (retry is None or retry.at <= now)


# -- removing -------------------------------------------------------------------------------------


def _moves(snapshot: Snapshot, now: float) -> Iterator[AdvanceMove]:
    for move in snapshot.moves:
        if _due(snapshot, replica_subject(move.name), now):
            yield AdvanceMove(move.name)


def _take_downs(snapshot: Snapshot, now: float) -> Iterator[TakeDown | Thaw]:
    """Remove containers of ours that nobody wishes, and dead ones that shall come up again."""
    moving = {move.name for move in snapshot.moves}
    claimed: set[str] = set()  # two hosts may show the same name: one after the other
    resting = snapshot.resting()
    busy = snapshot.busy
    mending = bool(busy) and any(replica_subject(name) in busy for name in snapshot.wished())
    for host in sorted(snapshot.hosts.values(), key=lambda h: h.name):
        if not host.up:
            continue
        others = (c for c in host.containers if c is not resting.get(ReplicaName(c.name)))
        for fact in sorted(others, key=lambda c: c.name):
            subject = replica_subject(fact.name)
            if _is_stray(snapshot, host, fact):
                yield from _clear_out(snapshot, host, fact, now)
                continue
            if (
                not fact.ours
                or fact.role == "spare"
                or fact.name in moving
                or fact.name in host.unsure
                or subject in claimed
                or subject in snapshot.busy
                or not _due(snapshot, removal_key(fact.name), now)
            ):
                continue
            action = _take_down(snapshot, host, fact.name)
            if isinstance(action, Thaw) and not _due(snapshot, subject, now):
                continue
            if action is not None and _hangs(fact) and fact.name in snapshot.wished():
                if mending:  # one at a time: an overloaded host must not lose all it has at once
                    continue
                mending = True
            if action is not None:
                claimed.add(subject)
                yield action


def _is_stray(snapshot: Snapshot, host: HostView, fact: ContainerFact) -> bool:
    """Whether a container came back with a fenced host though its name lives elsewhere."""
    assignment = snapshot.assigned().get(ReplicaName(fact.name))
    elsewhere = assignment is not None and assignment.host != host.name
    return host.fenced and fact.ours and fact.role not in ("build", "proof", "spare") and elsewhere


def _clear_out(
    snapshot: Snapshot, host: HostView, fact: ContainerFact, now: float
) -> Iterator[TakeDown]:
    """Remove a stray, whatever is being done with the name where it lives."""
    action = TakeDown(fact.name, host.name, fact.container_id, "it lives elsewhere", stray=True)
    waits = fact.name in host.unsure or not _due(snapshot, removal_key(fact.name), now)
    if not waits and action.subject not in snapshot.busy:
        yield action


def _take_down(snapshot: Snapshot, host: HostView, name: str) -> TakeDown | Thaw | None:
    fact = host.ours(name)
    if fact is None:
        return None
    if fact.role in ("build", "proof"):
        owned = fact.build in host.running_actions or fact.build in snapshot.own_actions
        return None if owned else TakeDown(name, host.name, fact.container_id, "left by a build")
    replica = ReplicaName(name)
    assignment = snapshot.assigned().get(replica)
    wish = snapshot.wished().get(replica)
    if assignment is None or assignment.host != host.name:
        reason = "nobody's wish" if wish is None else "it is not the one that counts"
        return TakeDown(name, host.name, fact.container_id, reason)
    if wish is None or wish.host not in (None, host.name):
        return TakeDown(name, host.name, fact.container_id, "not wished any more")
    if fact.role == "captured" and not _is_stiff(snapshot.retries.get(replica_subject(name))):
        return Thaw(replica, host.name)
    if not (fact.running and fact.ready):
        return TakeDown(name, host.name, fact.container_id, f"it is {fact.status or 'not ready'}")
    if turn := rolling.replaces(snapshot, fact):
        return TakeDown(name, host.name, fact.container_id, turn)
    return None


def _hangs(fact: ContainerFact) -> bool:
    """Whether a replica was ready, runs, and does not answer any more."""
    return fact.role == "replica" and fact.running and not fact.ready and fact.method != ""


def _is_stiff(retry: Retry | None) -> bool:
    """Whether thawing a frozen replica was tried enough."""
    if retry is None or not retry.definite:
        return False
    return retry.failures >= THAW_ATTEMPTS or retry.problem.get("kind") == "refused"


def _garbage(snapshot: Snapshot, now: float) -> Iterator[DropGeneration]:
    for entry in snapshot.garbage:
        host = snapshot.hosts.get(entry.host)
        subject = generation_subject(entry.digest, entry.host)
        if host is not None and host.up and not host.fenced and _due(snapshot, subject, now):
            yield DropGeneration(entry.digest, entry.host)


# -- generations ----------------------------------------------------------------------------------


def _builds(snapshot: Snapshot, pool: Pool, now: float) -> Iterator[MakeGeneration]:
    """Have the builder go first: what it makes may do for all hosts."""
    first = next(_build(snapshot, pool, now), None)
    found = first or next(_build_apart(snapshot, pool, now), None)
    if found is not None:
        yield found


def _build_apart(snapshot: Snapshot, pool: Pool, now: float) -> Iterator[MakeGeneration]:
    """Find a host that cannot take the current generation and has none that is as new.

    It builds for all hosts like it: they can take what it makes.
    """
    usable = snapshot.usable()
    if not usable or any(key.startswith("build:") for key in snapshot.busy):
        return
    if snapshot.hold is not None:  # what is built now is newer than what the pool is held at
        return
    current, fingerprint = usable[0], pool.application.fingerprint()
    for name in sorted(pool.hosts):
        host = snapshot.hosts.get(name)
        if host is None or not host.up or host.fenced or host.closed:
            continue
        own = snapshot.usable_on(host)
        if current in own:
            continue
        asked = [
            change.created_at
            for change in snapshot.changes
            if change.kind == "checkpoint" and change.created_at <= current.proven_at
            if not own or own[0].proven_at < change.created_at
        ]
        retry = snapshot.retries.get(build_subject(fingerprint, name))
        asked_since = any(created_at > retry.failed_at for created_at in asked) if retry else True
        if (asked or (snapshot.wishes and not own)) and (
            asked_since or _due(snapshot, build_subject(fingerprint, name), now)
        ):
            of = images.for_host(snapshot, host)
            yield MakeGeneration(name, fingerprint, apart=True, image_id=of)


def _build(snapshot: Snapshot, pool: Pool, now: float) -> Iterator[MakeGeneration]:
    builder = snapshot.hosts.get(pool.builder)
    fingerprint = pool.application.fingerprint()
    subject = build_subject(fingerprint)
    if builder is None or not builder.up or builder.fenced or subject in snapshot.busy:
        return
    usable = snapshot.usable()
    newest = usable[0].proven_at if usable else None
    asked = [
        change.created_at
        for change in snapshot.changes
        if change.kind == "checkpoint" and (newest is None or newest < change.created_at)
        if snapshot.hold is None
    ]
    # Not before every host was looked at: one may have a generation that a lost store had.
    wanted = bool(snapshot.wishes) or rolling.wants_generation(snapshot)
    another = pool.roll.auto and images.renamed(snapshot) is not None
    needed = (not usable or another) and snapshot.first_wished and wanted
    retry = snapshot.retries.get(subject)
    asked_since = retry is None or any(created_at > retry.failed_at for created_at in asked)
    if (asked or needed) and (asked_since or _due(snapshot, subject, now)):
        yield MakeGeneration(pool.builder, fingerprint)


def _images(snapshot: Snapshot, pool: Pool, now: float) -> Iterator[SendImage]:
    """Use the time of the first build: the image is what takes longest to send."""
    builder = snapshot.hosts.get(pool.builder)
    if snapshot.usable() or not snapshot.wishes or builder is None or not builder.up:
        return
    if builder.fenced:
        return
    image = pool.application.image
    for name in sorted(set(pool.hosts) - {pool.builder}):
        host = snapshot.hosts.get(name)
        wanted = host is not None and host.up and not host.fenced and image not in host.images
        if wanted and _due(snapshot, image_subject(image, name), now):
            yield SendImage(image, pool.builder, name)


def _sends(snapshot: Snapshot, pool: Pool, now: float) -> Iterator[SendGeneration]:
    failed = {(each.host, rung) for each in snapshot.assignments for rung in each.failed_rungs}
    going = {(entry.digest, entry.host) for entry in snapshot.garbage}
    for name in sorted(pool.hosts):
        host = snapshot.hosts.get(name)
        if host is None or not host.up or host.fenced:
            continue
        usable = snapshot.usable_on(host)
        needs_previous = bool(usable) and (
            (name, restore_rung(usable[0].digest)) in failed
            or barred(snapshot, name, usable[0].digest, now) is not None
        )
        for generation in usable[: 2 if needs_previous else 1]:
            if generation.digest in host.staged or (generation.digest, name) in going:
                continue
            subject = generation_subject(generation.digest, name)
            source = source_of(snapshot, generation, name)
            if source is not None and _due(snapshot, subject, now):
                yield SendGeneration(generation.number, generation.digest, source, name)
