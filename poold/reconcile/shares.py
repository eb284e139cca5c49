"""How many spares each host of a pool is to have.

Pure. In: a snapshot. Out: a number a host. Per host it is the same on all of them. Per pool they
stay where they wait, and those that are missing go where the next replicas will be placed: where
the pool has fewest.
"""

from __future__ import annotations

from collections.abc import Mapping

from poold.agent.messages import ContainerFact
from poold.model.fleet import Digest, HostName, Pool
from poold.reconcile.ladder import Rung, Wait, next_rung
from poold.reconcile.snapshot import HostView, Snapshot


def spares_of(snapshot: Snapshot, host: HostView) -> list[ContainerFact]:
    """Return the pool's spares on a host, the oldest first, but for those being claimed."""
    found = (
        fact
        for fact in host.containers
        if fact.ours and fact.role == "spare" and fact.name not in snapshot.claimed
    )
    return sorted(found, key=lambda fact: (fact.started_at, fact.name))


def room_for_spares(snapshot: Snapshot, host: HostView) -> int:
    """Return what replicas leave of a host's `max_replicas`."""
    return max(0, host.max_replicas - host.others - snapshot.loads()[host.name])


def kept(snapshot: Snapshot, host: HostView, now: float) -> frozenset[Digest] | None:
    """Return the generations of which a spare is worth keeping; None: nothing better is there yet.

    That is the one that a replica would be restored from now; while a better one is on its way,
    any that the application may be restored from.
    """
    rung = next_rung(snapshot, host, (), now)
    if isinstance(rung, Rung) and rung.generation is not None:
        return frozenset({rung.generation.digest})
    if isinstance(rung, Wait):
        usable = frozenset(generation.digest for generation in snapshot.usable_on(host))
        return usable or None
    return frozenset()


def shares(snapshot: Snapshot, pool: Pool, now: float) -> Mapping[HostName, int]:
    """Return how many spares are wished on each of the pool's hosts; what a host can have is less.

    Per pool, a host that cannot be heard has none: its share waits elsewhere.
    """
    if pool.spares_per == "host":
        return dict.fromkeys(pool.hosts, pool.spares)
    able = {name: _able(snapshot, name, now) for name in sorted(pool.hosts)}
    found, left = dict.fromkeys(able, 0), pool.spares
    for name, (there, _) in able.items():
        found[name] = min(there, left)
        left -= found[name]
    loads = snapshot.loads()
    for _ in range(left):
        free = [name for name, (_, room) in able.items() if found[name] < room]
        if not free:
            break
        found[min(free, key=lambda name: (loads[name] + found[name], name))] += 1
    return found


def _able(snapshot: Snapshot, name: HostName, now: float) -> tuple[int, int]:
    """Return how many good spares a host has, and how many it could have."""
    host = snapshot.hosts.get(name)
    if host is None or not host.up or host.fenced or (host.closed and host.closed_until is None):
        return 0, 0
    room, current = room_for_spares(snapshot, host), kept(snapshot, host, now)
    good = [
        fact
        for fact in spares_of(snapshot, host)
        if fact.ready and (current is None or fact.digest in current)
    ]
    rung = next_rung(snapshot, host, (), now)
    can = isinstance(rung, Rung) and rung.generation is not None and not host.closed
    return min(len(good), room), room if can else 0
