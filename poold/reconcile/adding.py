"""What is missing and how it comes up: which host takes a name, which rung is tried next.

Pure. In: a snapshot in which what is redundant is going already. Out: replicas to bring up, and in
`Notes` why the others wait or failed. Who must go first is not decided here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from poold.model.fleet import HostName, Pool, PoolName, ReplicaName
from poold.reconcile import images
from poold.reconcile.actions import BringUp, avoid_key, crash_key, replica_subject
from poold.reconcile.ladder import Exhausted, Rung, next_rung
from poold.reconcile.place import Candidate, place
from poold.reconcile.quarantine import barred
from poold.reconcile.snapshot import HostView, Snapshot
from poold.reconcile.spares import Offers
from poold.store import Assignment, Wish, name_taken


@dataclass(slots=True)
class Notes:
    """Why a wished replica is not being worked on: waiting for something, or failed."""

    waiting: dict[ReplicaName, str] = field(default_factory=dict)
    failed: dict[ReplicaName, dict[str, Any]] = field(default_factory=dict)


def bring_ups(
    snapshot: Snapshot, pool: Pool, now: float, notes: Notes, offers: Offers
) -> Iterator[BringUp]:
    """Return what is missing and can come up now; say in `notes` why the rest cannot.

    Who is to be restored where a spare waits gets one of `offers`.
    """
    for action in _bring_ups(snapshot, pool, now, notes, offers):
        yield replace(action, spare=offers.take(action.host, action.digest))


def _bring_ups(
    snapshot: Snapshot, pool: Pool, now: float, notes: Notes, offers: Offers
) -> Iterator[BringUp]:
    moving = {move.name for move in snapshot.moves}
    assigned = snapshot.assigned()
    homeless = []
    resting = snapshot.resting()
    unrest = [item for item in snapshot.wished().items() if item[0] not in resting]
    for name, wish in sorted(unrest, key=lambda item: (len(item[0]), item[0])):
        if name in moving or replica_subject(name) in snapshot.busy:
            continue
        if name not in assigned:
            homeless.append(wish)
            continue
        action = _again(snapshot, assigned[name], now, notes)
        if action is not None:
            yield action
    placed = place(homeless, _candidates(snapshot, pool, homeless, now, offers))
    for name, reason in placed.refused.items():
        if reason.startswith("cannot"):
            notes.failed[name] = {
                "kind": "permanent",
                "code": "replica.name-taken",
                "message": reason,
                "hint": "remove or rename that container, or wish for another name",
            }
        else:
            notes.waiting[name] = "; ".join([reason, *_closed(snapshot, pool)])
    holders = _holders(snapshot) if homeless else {}
    others = _others(snapshot) if homeless else {}
    returning = _returning(snapshot) if homeless else set()
    for wish in homeless:
        host = snapshot.hosts.get(placed.hosts[wish.name]) if wish.name in placed.hosts else None
        if host is None:
            continue
        if wish.name in others:
            other = others[wish.name]
            notes.failed[wish.name] = name_taken(wish.name, snapshot.name, *other).to_json()
            continue
        if may_have := returning | holders.get(wish.name, set()):
            who = ", ".join(sorted(may_have))
            notes.waiting[wish.name] = f"waiting for {who} to let go of the name"
            continue
        action = _step(snapshot, host, wish.name, None, now, notes)
        if action is not None:
            yield action


def _holders(snapshot: Snapshot) -> dict[str, set[HostName]]:
    """Return the hosts that may still have a name: it goes there first, then comes elsewhere."""
    holders: dict[str, set[HostName]] = {}
    for host in snapshot.hosts.values():
        if host.fenced and not host.up:
            continue
        for name in {*(fact.name for fact in host.containers if fact.ours), *host.unsure}:
            holders.setdefault(name, set()).add(host.name)
    return holders


def _others(snapshot: Snapshot) -> dict[str, tuple[PoolName, HostName]]:
    """Return names that another pool's container has, which only a lost store knows nothing of."""
    return {
        name: (PoolName(pool), host.name)
        for host in snapshot.hosts.values()
        if host.up or not host.fenced
        for name, pool in host.of_others.items()
    }


def _returning(snapshot: Snapshot) -> set[HostName]:
    """Return fenced hosts that may be on their way back, with any name: their listing tells."""
    hosts = snapshot.hosts.values()
    return {host.name for host in hosts if host.fenced and host.state == "connecting"}


def _closed(snapshot: Snapshot, pool: Pool) -> list[str]:
    """Return why hosts of the pool take nothing new."""
    views = (snapshot.hosts.get(name) for name in sorted(pool.hosts))
    return [view.closed for view in views if view is not None and view.closed]


def _candidates(
    snapshot: Snapshot, pool: Pool, homeless: Collection[Wish], now: float, offers: Offers
) -> list[Candidate]:
    if not homeless:
        return []
    loads = snapshot.loads()
    names = {wish.name for wish in homeless}
    failed_lately = {key for key, retry in snapshot.retries.items() if retry.at > now}
    candidates = []
    for name in pool.hosts:
        host = snapshot.hosts.get(name)
        if host is None or not host.up or host.closed:
            continue
        count = loads[name]
        foreign = {fact.name for fact in host.containers if not fact.ours}
        candidates.append(
            Candidate(
                host=name,
                room=host.max_replicas - host.others - count,
                of_pool=count,
                spares=offers.count(name, usable[0].digest)
                if offers.by_host and (usable := snapshot.usable_on(host))
                else 0,
                load=host.others + count,
                staged=bool(usable := snapshot.usable_on(host))
                and usable[0].digest in host.staged
                and barred(snapshot, name, usable[0].digest, now) is None,
                taken=frozenset(names & foreign),
                avoid=frozenset(n for n in names if avoid_key(n, name) in failed_lately)
                if failed_lately
                else frozenset(),
            )
        )
    return candidates


def _again(snapshot: Snapshot, assignment: Assignment, now: float, notes: Notes) -> BringUp | None:
    """Bring an assigned replica up where it is not."""
    host = snapshot.hosts.get(assignment.host)
    if host is None or not host.up:
        return None
    if assignment.name in host.unsure:
        notes.waiting[assignment.name] = f"finding out what {host.name} has of it"
        return None
    if host.ours(assignment.name) is not None:
        return None  # ready, or being taken down first
    if host.closed:
        notes.waiting[assignment.name] = f"waiting for host {host.name}: {host.closed}"
        return None
    if host.foreign(assignment.name):
        notes.failed[assignment.name] = {
            "kind": "permanent",
            "code": "replica.name-taken",
            "message": f"cannot use the name {assignment.name} on {host.name}: "
            "a container that is not ours has it",
            "hint": "remove or rename that container, or wish for another name",
        }
        return None
    return _step(snapshot, host, assignment.name, assignment, now, notes)


def _step(
    snapshot: Snapshot,
    host: HostView,
    name: ReplicaName,
    assignment: Assignment | None,
    now: float,
    notes: Notes,
) -> BringUp | None:
    crash = snapshot.retries.get(crash_key(name))
    if crash is not None and crash.at > now:
        notes.waiting[name] = crash.message
        return None
    failed = assignment.failed_rungs if assignment else ()
    reason = assignment.reason if assignment and failed else ""
    retry = snapshot.retries.get(replica_subject(name))
    rung = next_rung(snapshot, host, failed, now)
    if isinstance(rung, Exhausted):
        if retry is not None and retry.at > now:
            notes.failed[name] = {**retry.problem}
            return None
        failed, reason, rung = (), "", next_rung(snapshot, host, (), now)
    if retry is not None and retry.at > now and not retry.definite:
        notes.waiting[name] = f"trying again: {retry.message}"
        return None
    if not isinstance(rung, Rung):
        notes.waiting[name] = "" if isinstance(rung, Exhausted) else rung.reason
        return None
    generation = rung.generation
    image_id = "" if generation else images.for_host(snapshot, host)
    return BringUp(
        name,
        host.name,
        generation.digest if generation else None,
        generation.number if generation else None,
        failed,
        "; ".join(part for part in (reason, rung.reason) if part),
        image_id=image_id,
    )
