"""Which replicas a pool's balancer is told of, and who has to wait for it: pure (promise 4).

In: a snapshot, what its balancer showed last, what a plan would remove. Out: the set, and the
removals that wait until the balancer let go of a replica. Leaving the set is what begins draining.

A host that cannot be reached, after a restart of the daemon for example, says nothing about its
replicas: they stay in the set, the balancer's own checks know better.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from poold.balancers.base import Server
from poold.model.fleet import HostName, Replica, ReplicaName
from poold.reconcile.actions import AdvanceMove, TakeDown, Thaw
from poold.reconcile.published import Place
from poold.reconcile.snapshot import Snapshot

Removal = TakeDown | Thaw | AdvanceMove


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Removals that may be done now, and why the replica at a place has to wait.

    `forced` says who is among the free though its balancer may still list it.
    """

    free: tuple[Removal, ...] = ()
    waiting: Mapping[Place, str] = field(default_factory=dict)
    forced: tuple[str, ...] = ()


def hold(snapshot: Snapshot, removals: Iterable[Removal], now: float) -> Held:
    """Let removals of replicas that take traffic wait until their balancer let go of them.

    What is dead or does not answer is removed at once: nobody gets an answer from it.
    """
    if snapshot.traffic is None:
        return Held(free=tuple(removals))
    free, waiting, forced = list[Removal](), dict[Place, str](), list[str]()
    for action in removals:
        place = _place_in_service(snapshot, action)
        reason = snapshot.traffic.keeps(place, now) if place is not None else ""
        if place is not None and reason:
            waiting[place] = reason
            continue
        free.append(action)
        if place is not None and (listed := snapshot.traffic.listed(place)):
            forced.append(f"{action.name} goes though its balancer did not let go of it: {listed}")
    return Held(free=tuple(free), waiting=waiting, forced=tuple(forced))


def gives_up_at(snapshot: Snapshot, held: Held) -> float | None:
    """Return when one that waits is not kept any longer."""
    return None if snapshot.traffic is None else snapshot.traffic.gives_up_at(held.waiting)


def draining(replicas: Iterable[Replica], held: Held) -> tuple[Replica, ...]:
    """Return the replicas, those that wait for their balancer shown as such."""
    if not held.waiting:
        return tuple(replicas)
    return tuple(
        replace(
            replica, state="removing" if replica.state == "ready" else replica.state, reason=why
        )
        if (place := place_of(replica.address or "")) and (why := held.waiting.get(place))
        else replica
        for replica in replicas
    )


def servers(
    snapshot: Snapshot, replicas: Iterable[Replica], held: Held
) -> tuple[Server, ...] | None:
    """Return the set of a pool with a balancer: who takes traffic from now on."""
    if snapshot.traffic is None:
        return None
    wished, found = snapshot.wished(), list[Server]()
    moving = {move.name: move for move in snapshot.moves}
    for replica in replicas:
        wish, move = wished.get(replica.name), moving.get(replica.name)
        serves = replica.state == "ready" or (
            replica.state == "unknown"
            and wish is not None
            and wish.host in (None, replica.host)
            and not _is_fenced(snapshot, replica.host)
        )
        if move is not None and move.step == "image":  # it runs on meanwhile
            serves = _answers(snapshot, move.source, replica.name)
        place = place_of(replica.address or "")
        if serves and place is not None and place not in held.waiting:
            found.append(Server(name=replica.name, address=place[0], port=place[1]))
    return tuple(found)


def place_of(address: str) -> Place | None:
    """Return the parts of "10.0.0.1:20000" or "[::1]:20000"."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    return (host, int(port)) if host and port.isascii() and port.isdigit() else None


def _place_in_service(snapshot: Snapshot, action: Removal) -> Place | None:
    """Return where the replica of an action answers; None where it does not, or is not touched."""
    match action:
        case Thaw() | TakeDown(stray=True):
            return None
        case TakeDown(host=host):
            pass
        case AdvanceMove(name=name):
            move = next((m for m in snapshot.moves if m.name == name), None)
            if move is None or move.step != "capture":
                return None
            host = move.source
    view = snapshot.hosts.get(host)
    fact = view.ours(action.name) if view is not None else None
    if fact is None or fact.role != "replica" or not (fact.running and fact.ready):
        return None
    return place_of(fact.address)


def _answers(snapshot: Snapshot, host: HostName, name: ReplicaName) -> bool:
    view = snapshot.hosts.get(host)
    fact = view.ours(name) if view is not None else None
    return fact is not None and fact.running and fact.ready


def _is_fenced(snapshot: Snapshot, host: HostName | None) -> bool:
    view = snapshot.hosts.get(host) if host is not None else None
    return view is not None and view.fenced
