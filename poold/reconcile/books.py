"""What has to be written down before anything is decided.

Pure. In: a snapshot. Out: actions that change nothing but the store: looking a host through for the
first time, the configuration's first wish, adopting what runs, freeing names whose absence a host
confirmed, retiring generations.
"""

from __future__ import annotations

from collections.abc import Iterator

from poold.agent.messages import ContainerFact
from poold.model.fleet import Pool, ReplicaName
from poold.reconcile.actions import (
    Adopt,
    Disown,
    FirstWish,
    Forget,
    Introduce,
    Local,
    Retire,
    avoid_key,
    replica_subject,
    restore_rung,
)
from poold.reconcile.ladder import Exhausted, next_rung
from poold.reconcile.quarantine import pardons
from poold.reconcile.retention import retained
from poold.reconcile.rolling import turns
from poold.reconcile.snapshot import HostView, Snapshot
from poold.store import Assignment

INTRODUCTION_SECONDS = 30.0  # after which a host that never answered is not waited for


def books(snapshot: Snapshot, now: float) -> tuple[Local, ...]:
    """Return what is to be written down; one kind at a time, since each changes the next."""
    pool = snapshot.pool
    if pool is None:
        return ()
    return (
        tuple(_introductions(snapshot, pool))
        or tuple(_first_wish(snapshot, pool, now))
        or tuple(_adoptions(snapshot))
        or tuple(_freed_names(snapshot, pool, now))
        or tuple(turns(snapshot, now))
        or tuple(_retirements(snapshot, pool, now))
        or tuple(_strays(snapshot))
        or tuple(pardons(snapshot))
    )


def _introductions(snapshot: Snapshot, pool: Pool) -> Iterator[Introduce]:
    taken = {*snapshot.assigned(), *(move.name for move in snapshot.moves)}
    for name in sorted(set(pool.hosts) - snapshot.introduced):
        host = snapshot.hosts.get(name)
        if host is None or not host.up or host.fenced:
            continue
        found = tuple(
            fact
            for fact in sorted(host.containers, key=lambda c: c.name)
            if _adoptable(fact) and fact.name not in taken and pool.number(fact.name)
        )
        taken |= {ReplicaName(fact.name) for fact in found}
        yield Introduce(name, found)


def _adoptable(fact: ContainerFact) -> bool:
    return fact.ours and (
        fact.role == "captured" or (fact.role == "replica" and fact.running and fact.ready)
    )


def _first_wish(snapshot: Snapshot, pool: Pool, now: float) -> Iterator[FirstWish]:
    if snapshot.first_wished:
        return
    waiting = set(pool.hosts) - snapshot.introduced
    if waiting and now < snapshot.seen_at + INTRODUCTION_SECONDS:
        return
    wished = snapshot.wished()
    missing = max(0, pool.replicas - len(wished))
    free = (pool.replica(n) for n in range(1, pool.replicas + len(wished) + 1))
    names = [name for name in free if name not in wished][:missing]
    yield FirstWish(tuple(names))


def _adoptions(snapshot: Snapshot) -> Iterator[Adopt]:
    wished = snapshot.wished()
    taken = {*snapshot.assigned(), *(move.name for move in snapshot.moves)}
    homeless = {
        name for name in wished if name not in taken and replica_subject(name) not in snapshot.busy
    }
    for host in sorted(snapshot.hosts.values(), key=lambda h: h.name):
        here = host.containers if homeless and host.up else ()
        for fact in sorted(here, key=lambda c: c.name):
            name = ReplicaName(fact.name)
            if name not in homeless or not _adoptable(fact) or name in host.unsure:
                continue
            if host.fenced and fact.role == "captured":
                continue  # nothing is thawed there
            if wished[name].host in (None, host.name):
                homeless.discard(name)
                yield Adopt(host.name, fact)


def _freed_names(snapshot: Snapshot, pool: Pool, now: float) -> Iterator[Forget]:
    wished = snapshot.wished()
    moving = {move.name for move in snapshot.moves}
    resting = snapshot.resting()
    unrest = [item for item in snapshot.assigned().items() if item[0] not in resting]
    for name, assignment in sorted(unrest):
        host = snapshot.hosts.get(assignment.host)
        if host is None or name in moving or not absent(snapshot, host, name):
            continue
        wish = wished.get(name)
        elsewhere = wish is not None and wish.host not in (None, host.name)
        free_to_go = wish is not None and wish.host is None
        if wish is None or elsewhere or (
            free_to_go
            and (
                host.foreign(name)
                or host.name not in pool.hosts
                or bool(host.closed)
                or _better_elsewhere(snapshot, pool, host, assignment, now)
            )
        ):  # fmt: skip
            yield Forget(name, host.name)


def absent(snapshot: Snapshot, host: HostView, name: ReplicaName) -> bool:
    """Whether the host said, after everything asked of it, that it has no such replica."""
    return (
        host.up
        and name not in host.unsure
        and replica_subject(name) not in snapshot.busy
        and host.ours(name) is None
    )


def _better_elsewhere(
    snapshot: Snapshot, pool: Pool, host: HostView, assignment: Assignment, now: float
) -> bool:
    """Whether every rung failed here, it is time to try again, and another host has room."""
    retry = snapshot.retries.get(replica_subject(assignment.name))
    if retry is not None and now < retry.at:
        return False
    if not isinstance(next_rung(snapshot, host, assignment.failed_rungs, now), Exhausted):
        return False
    loads = snapshot.loads()
    return any(
        other.up and not other.closed and other.name != host.name
        and not other.foreign(assignment.name)
        and not avoided(snapshot, assignment.name, other.name, now)
        and other.max_replicas > other.others + loads[other.name]
        for other in snapshot.hosts.values()
        if other.name in pool.hosts
    )  # fmt: skip


def avoided(snapshot: Snapshot, name: str, host: str, now: float) -> bool:
    """Whether a replica could not come up on a host lately."""
    retry = snapshot.retries.get(avoid_key(name, host))
    return retry is not None and retry.at > now


def _retirements(snapshot: Snapshot, pool: Pool, now: float) -> Iterator[Retire]:
    """Keep what the pool's limits and its safety ask for, and every one in use."""
    kept = set(retained(snapshot, pool, now))
    kept.update(each.digest for each in (snapshot.hold, snapshot.roll) if each and each.digest)
    rungs = {assignment.rung for assignment in snapshot.assignments}
    for generation in snapshot.generations:
        digest = generation.digest
        in_use = restore_rung(digest) in rungs or any(digest in key for key in snapshot.busy)
        if digest in kept or in_use:
            continue
        # A pool's host may have a part of it, which is not listed: it was never whole there.
        holders = (
            h.name
            for h in snapshot.hosts.values()
            if not h.up or digest in h.held or h.name in pool.hosts
        )
        yield Retire(generation.number, digest, tuple(sorted(holders)))


def _strays(snapshot: Snapshot) -> Iterator[Disown]:
    """Find generations and captures of this pool whose action died before it could tell of them.

    Only beside a proven one, so that a store that was lost costs nothing before there is a better;
    and only while nothing is under way that could still tell.
    """
    under_way = snapshot.moves or any(key.startswith("build:") for key in snapshot.busy)
    if under_way or not snapshot.usable():
        return
    known = {generation.digest for generation in snapshot.generations}
    rungs = {assignment.rung for assignment in snapshot.assignments}
    going = {(entry.digest, entry.host) for entry in snapshot.garbage}
    for host in sorted(snapshot.hosts.values(), key=lambda h: h.name):
        for digest in sorted(host.of_pool - known) if host.up else ():
            in_use = restore_rung(digest) in rungs or any(digest in key for key in snapshot.busy)
            if not in_use and (digest, host.name) not in going:
                yield Disown(digest, host.name)
