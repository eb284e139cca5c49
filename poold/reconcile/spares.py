"""Spares: which are given up, which may be claimed, which are missing.

Pure. In: a snapshot. Out: removals, offers for whoever comes up now, preparations. Spares have the
lowest priority of all: one is made only while no replica of the pool is being worked on, it keeps
no replica from a host, and it goes first when memory or room gets short.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from poold.agent.messages import ContainerFact
from poold.model.fleet import Digest, Generation, HostName, Pool, ReplicaName, Spare, SpareState
from poold.reconcile.actions import (
    BringUp,
    MakeSpare,
    Remote,
    TakeDown,
    removal_key,
    replica_subject,
    spare_subject,
)
from poold.reconcile.ladder import Rung, next_rung
from poold.reconcile.shares import kept, room_for_spares, shares, spares_of
from poold.reconcile.snapshot import HostView, Snapshot

REST_SECONDS = 1.0  # from the last replica that came up to the next spare: whoever asked it first


@dataclass(slots=True)
class Offers:
    """What may be claimed, by host; each once."""

    by_host: dict[HostName, list[ContainerFact]] = field(default_factory=dict)

    def count(self, host: HostName, digest: Digest) -> int:
        """Return how many of a generation wait on a host."""
        return sum(fact.digest == digest for fact in self.by_host.get(host, ()))

    def take(self, host: HostName, digest: Digest | None) -> str:
        """Return the name of the oldest of a generation, which nobody else gets; "": none."""
        waiting = self.by_host.get(host, [])
        for fact in waiting:
            if digest is not None and fact.digest == digest:
                waiting.remove(fact)
                return fact.name
        return ""


def offers(snapshot: Snapshot, now: float, leaving: Iterable[TakeDown]) -> Offers:
    """Return the spares that are ready, certain, young enough, and not on their way out."""
    pool, going = snapshot.pool, {action.name for action in leaving}
    found = Offers()
    if pool is None:
        return found
    for host in snapshot.hosts.values():
        if not host.up or host.fenced:
            continue
        waiting = [
            fact
            for fact in spares_of(snapshot, host)
            if fact.ready
            and fact.name not in going
            and fact.name not in host.unsure
            and replica_subject(fact.name) not in snapshot.busy
            and not is_old(pool, host, fact, now)
        ]
        if waiting:
            found.by_host[host.name] = waiting
    return found


# -- giving up ------------------------------------------------------------------------------------


def given_up(snapshot: Snapshot, now: float) -> Iterator[TakeDown]:
    """Find spares that are not to be there: dead, of the past, too many, too old, in the way."""
    wished = shares(snapshot, snapshot.pool, now) if snapshot.pool is not None else {}
    for host in sorted(snapshot.hosts.values(), key=lambda h: h.name):
        if not host.up:
            continue
        for fact, reason in _too_much(snapshot, host, wished.get(host.name, 0), now):
            retry = snapshot.retries.get(removal_key(fact.name))
            if (
                fact.name not in host.unsure
                and replica_subject(fact.name) not in snapshot.busy
                and (retry is None or retry.at <= now)
            ):
                yield TakeDown(fact.name, host.name, fact.container_id, reason)


def _too_much(
    snapshot: Snapshot, host: HostView, wished: int, now: float
) -> Iterator[tuple[ContainerFact, str]]:
    being_made = spare_subject(host.name) in snapshot.busy  # listed before it was ready
    spares = [fact for fact in spares_of(snapshot, host) if fact.ready or not being_made]
    if not spares:
        return
    why_none = _why_none(snapshot, host)
    if why_none:
        yield from ((fact, why_none) for fact in spares)
        return
    assert snapshot.pool is not None  # noqa: S101 - otherwise there are to be none
    current = kept(snapshot, host, now)
    good = []
    for fact in spares:
        if not fact.ready:
            yield fact, f"it is {fact.status or 'not ready'}"
        elif current is not None and fact.digest not in current:
            yield fact, "its generation is not the current one"
        else:
            good.append(fact)
    allowed = min(wished, room_for_spares(snapshot, host))
    surplus, good = good[: max(0, len(good) - allowed)], good[max(0, len(good) - allowed) :]
    why = "more than the pool wishes for" if allowed == wished else "its room is needed"
    yield from ((fact, why) for fact in surplus)
    if good and is_short_of_memory(snapshot, host, now):
        yield good[0], f"memory is short on {host.name}"
    elif good and len(good) == wished and is_old(snapshot.pool, host, good[0], now):
        yield good[0], "it grew old"  # one at a time, so that there is one to claim meanwhile


def _why_none(snapshot: Snapshot, host: HostView) -> str:
    """Say why a host is to have no spare at all."""
    pool = snapshot.pool
    if pool is None:
        return "its pool left the configuration"
    if host.name not in pool.hosts:
        return f"{host.name} is no host of the pool any more"
    if pool.spares == 0:
        return "the pool wishes for none"
    if host.fenced or (host.closed and host.closed_until is None):
        return host.closed or f"{host.name} is fenced"
    return ""


def is_short_of_memory(snapshot: Snapshot, host: HostView, now: float, more: int = 0) -> bool:
    """Whether less is free than one replica takes, and `more` of them; not where it is unknown."""
    free = host.memory_free_bytes
    rung = next_rung(snapshot, host, (), now)
    if not free or not isinstance(rung, Rung) or rung.generation is None:
        return False
    return free < (1 + more) * rung.generation.manifest.archive_bytes


def is_old(pool: Pool, host: HostView, fact: ContainerFact, now: float) -> bool:
    """Whether a spare waited as long as the pool allows."""
    return _age(host, fact, now) >= pool.spare_max_age_seconds


def _age(host: HostView, fact: ContainerFact, now: float) -> float:
    """Return how old a spare is by its host's own clock, which dated it."""
    return now + host.ahead_seconds - fact.started_at


# -- making ---------------------------------------------------------------------------------------


def missing(
    snapshot: Snapshot, pool: Pool, now: float, planned: Iterable[Remote]
) -> Iterator[MakeSpare]:
    """Return what is to be prepared: one at a time on each host, when there is nothing to do."""
    actions = tuple(planned)
    if pool.spares == 0 or _is_at_work(snapshot, actions) or rests_until(snapshot, now) > now:
        return
    wished = shares(snapshot, pool, now)
    for name in sorted(pool.hosts):
        host = snapshot.hosts.get(name)
        subject = spare_subject(name)
        retry = snapshot.retries.get(subject)
        if host is None or not host.up or host.closed or host.fenced:
            continue
        if subject in snapshot.busy or (retry is not None and retry.at > now):
            continue
        generation = _restorable(snapshot, host, now)
        there = len(spares_of(snapshot, host))  # those on their way out have to be gone first
        if (
            generation is not None
            and there < min(wished[name], room_for_spares(snapshot, host))
            and not is_short_of_memory(snapshot, host, now, more=1)
        ):
            yield MakeSpare(name, generation.digest, generation.number)


def _is_at_work(snapshot: Snapshot, actions: tuple[Remote, ...]) -> bool:
    """Whether a replica of the pool is being brought up or moved, or a generation is being made."""
    if any(isinstance(action, BringUp) for action in actions) or snapshot.moves:
        return True
    names = {*snapshot.wished(), *snapshot.assigned()}
    return any(
        subject.startswith(("build:", "image:"))
        or (subject.startswith("replica:") and ReplicaName(subject[len("replica:") :]) in names)
        for subject in snapshot.busy
    )


def rests_until(snapshot: Snapshot, now: float) -> float:
    """Return when a pool's hosts had their rest after the last replica that came up; 0.0: now.

    Restoring a spare would take the cores from its first answers. When it came up its host says, by
    a clock that may have been set since: one that is far from now does not count.
    """
    if snapshot.pool is None or snapshot.pool.spares == 0:
        return 0.0
    last = 0.0
    for each in snapshot.assignments:
        host = snapshot.hosts.get(each.host)
        if each.started is not None and host is not None:
            came_up_at = each.started.started_at - host.ahead_seconds
            if abs(now - came_up_at) < REST_SECONDS:
                last = max(last, came_up_at)
    return last + REST_SECONDS if last else 0.0


def _restorable(snapshot: Snapshot, host: HostView, now: float) -> Generation | None:
    rung = next_rung(snapshot, host, (), now)
    return rung.generation if isinstance(rung, Rung) else None


# -- showing --------------------------------------------------------------------------------------


def shown(snapshot: Snapshot) -> tuple[Spare, ...]:
    """Return the pool's spares, by host and name."""
    numbers = {generation.digest: generation.number for generation in snapshot.generations}
    return tuple(
        _spare(snapshot, host, fact, numbers.get(Digest(fact.digest)))
        for host in sorted(snapshot.hosts.values(), key=lambda h: h.name)
        for fact in sorted(host.containers, key=lambda fact: fact.name)
        if fact.ours and fact.role == "spare"
    )


def _spare(snapshot: Snapshot, host: HostView, fact: ContainerFact, number: int | None) -> Spare:
    state: SpareState = "ready" if fact.ready else "failed"
    reason = "" if fact.ready else fact.status
    if replica_subject(fact.name) in snapshot.busy:
        state = "removing"
    elif fact.name in snapshot.claimed:
        state = "claimed"
    elif not host.up:
        reason = host.reason or f"the host {host.name} was not heard yet"
    return Spare(
        fact.name, host.name, state, fact.container_id, fact.address, number, fact.started_at,
        reason,
    )  # fmt: skip


def grow_old_at(snapshot: Snapshot, now: float) -> Iterator[float]:
    """Return when spares will have grown old."""
    pool = snapshot.pool
    if pool is None or pool.spares == 0:
        return
    for host in snapshot.hosts.values():
        for fact in spares_of(snapshot, host) if host.up else ():
            due = fact.started_at - host.ahead_seconds + pool.spare_max_age_seconds
            if due > now:
                yield due
