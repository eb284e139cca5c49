"""How a roll's replicas stand: which are the pool's own, which run the target, which are ready.

Pure: questions about a snapshot that rolling, and what pauses it, ask alike.
"""

from __future__ import annotations

from poold.model.fleet import Generation, HostName, ReplicaName
from poold.reconcile.actions import replica_subject, restore_rung
from poold.reconcile.snapshot import Snapshot
from poold.store import Assignment


def mine(snapshot: Snapshot) -> tuple[ReplicaName, ...]:
    """Return the wished names, extra ones left out, by number."""
    names = (name for name in snapshot.wished() if name not in snapshot.extras)
    return tuple(sorted(names, key=by_number))


def outdated(snapshot: Snapshot, target: Generation) -> tuple[ReplicaName, ...]:
    """Return the wished replicas that run and did not come up from the target, by number."""
    assigned = snapshot.assigned()
    return tuple(
        n for n in mine(snapshot) if n in assigned and is_old(snapshot, assigned[n], target)
    )


def is_ready(snapshot: Snapshot, name: ReplicaName) -> bool:
    """Whether a replica is known to be ready, and nothing is under way that ends that."""
    assignment = snapshot.assigned().get(name)
    host = snapshot.hosts.get(assignment.host) if assignment else None
    if host is None or not host.up or name in host.unsure:
        return False
    if replica_subject(name) in snapshot.busy or any(m.name == name for m in snapshot.moves):
        return False
    fact = host.ours(name)
    return fact is not None and fact.role == "replica" and fact.running and fact.ready


def is_old(snapshot: Snapshot, assignment: Assignment, target: Generation) -> bool:
    """Whether a replica came up, and not from the target."""
    wanted = target_on(snapshot, assignment.host, target)
    return assignment.started is not None and assignment.generation != wanted.number


def will_be_old(snapshot: Snapshot, assignment: Assignment, target: Generation) -> bool:
    """Whether a replica is not of the target, or is just coming up from something else."""
    if assignment.started is not None:
        return is_old(snapshot, assignment, target)
    wanted = target_on(snapshot, assignment.host, target)
    return assignment.rung not in ("", restore_rung(wanted.digest))


def target_on(snapshot: Snapshot, name: HostName, target: Generation) -> Generation:
    """Return what the target is on a host: its class's own one, where the target does not fit."""
    host = snapshot.hosts.get(name)
    own = snapshot.usable_on(host) if host is not None and host.facts else ()
    return own[0] if own else target


def by_number(name: str) -> tuple[int, str]:
    """Sort key: hello2 before hello10."""
    return len(name), name
