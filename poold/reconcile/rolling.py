"""Rolling: which replicas are replaced next by those of the current generation, and when to stop.

Pure. In: a snapshot. Out: the next state of the pool's roll, one turn at a time, and what it waits
for. It replaces nothing itself: `plan` takes down what the roll's row says, and brings the name up
on the same host as it would any replica that is missing.

Never fewer than wished - `unavailable` replicas are ready because of a roll, never more than
wished + `surge` are wished for. The first replica that does not come up from the target pauses it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from poold.agent.messages import ContainerFact
from poold.model.fleet import Generation, Pool, ReplicaName, RollStatus
from poold.reconcile.actions import (
    Learn,
    Local,
    Release,
    Serve,
    TurnRoll,
    removal_key,
)
from poold.reconcile.images import served_id
from poold.reconcile.ladder import Rung, Wait, awaits_own, next_rung
from poold.reconcile.roll_failures import build_failure, failure, stuck
from poold.reconcile.roll_standing import (
    by_number,
    is_old,
    is_ready,
    mine,
    outdated,
    target_on,
    will_be_old,
)
from poold.reconcile.snapshot import Snapshot
from poold.store import Roll

ALONE = "its change has ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a roll may do now; `remark` says why that is not what was asked for."""

    surge: int
    unavailable: int
    remark: str = ""


# -- what is written down -------------------------------------------------------------------------


def turns(snapshot: Snapshot, now: float) -> Iterator[Local]:
    """Return what is to be written down of holds and rolls; each changes what comes next."""
    pool, roll, usable = snapshot.pool, snapshot.roll, snapshot.usable()
    if pool is None:
        return
    if snapshot.unexplained:
        yield Learn(snapshot.unexplained)
    elif snapshot.hold is not None and snapshot.hold.configured != snapshot.configured:
        yield Release(snapshot.hold.number)
    elif snapshot.hold is None and usable and _is_new(snapshot, usable[0]):
        waits = roll is None or roll.state == "paused"
        outdated = any(will_be_old(snapshot, a, usable[0]) for a in snapshot.assignments)
        begins = pool.roll.auto and waits and outdated
        rolls = _what_changed(snapshot) if begins else ""
        yield Serve(snapshot.configured, served_id(usable[0]), rolls)
    elif roll is not None:
        target = usable[0] if usable else None
        turn = _tidied(snapshot, roll)
        if turn is None and roll.state == "running":
            turn = _running(snapshot, pool, roll, target, now)
        elif turn is None:
            turn = _paused(snapshot, roll, target)
        if turn is not None:
            yield turn


def _is_new(snapshot: Snapshot, current: Generation) -> bool:
    """Whether another application or image than the current generation's was served last."""
    if snapshot.served != snapshot.configured:
        return True
    return snapshot.served != "" and snapshot.served_image != served_id(current)


def _what_changed(snapshot: Snapshot) -> str:
    """Say what a roll begins for; "" where nothing is known of what was served before."""
    if snapshot.served != snapshot.configured:
        return "the application changed" if snapshot.served else ""
    return "the image changed" if snapshot.served_image else ""


def _tidied(snapshot: Snapshot, roll: Roll) -> TurnRoll | None:
    """Forget extra replicas that became wished ones, or are gone."""
    extras = tuple(name for name in roll.extras if name in snapshot.extras)
    if extras != roll.extras:
        return TurnRoll("kept", replace(roll, extras=extras), "an extra replica is wished for now")
    wished, assigned = snapshot.wished(), snapshot.assigned()
    leaving = tuple(name for name in roll.leaving if name in assigned and name not in wished)
    if leaving != roll.leaving:
        return TurnRoll("left", replace(roll, leaving=leaving), "the extra replicas are gone")
    return None


def _running(
    snapshot: Snapshot, pool: Pool, roll: Roll, target: Generation | None, now: float
) -> TurnRoll | None:
    if all(change.id != roll.change for change in snapshot.changes):
        return _pause(snapshot, roll, ALONE)
    if target is None:
        failed = build_failure(snapshot, pool, roll)
        return _pause(snapshot, roll, failed) if failed else None
    if roll.digest != target.digest:
        return _aim(roll, target)
    failed = failure(snapshot, roll, target, now)
    if failed:
        return _pause(snapshot, roll, failed)
    replacing = {n: c for n, c in roll.replacing.items() if not _is_replaced(snapshot, n, c)}
    if replacing != roll.replacing:
        done = ", ".join(sorted(roll.replacing.keys() - replacing.keys()))
        return TurnRoll("replaced", replace(roll, replacing=replacing), f"{done} is replaced")
    old = outdated(snapshot, target)
    if old or replacing:
        turn = _surge(snapshot, pool, roll, len({*old, *replacing})) or _replace(
            snapshot, pool, roll, old, target, now
        )
    else:
        turn = _end(snapshot, roll, target)
    if turn is not None or replacing or not all(is_ready(snapshot, name) for name in roll.extras):
        return turn
    waits_in_vain = stuck(snapshot, now)
    return _pause(snapshot, roll, waits_in_vain) if waits_in_vain else None


def _aim(roll: Roll, target: Generation) -> TurnRoll:
    """Begin with a target, or anew with another one: extra replicas of the last one go."""
    text = f"rolling {roll.pool} to generation {target.number}"
    aimed = replace(roll, generation=target.number, digest=target.digest, replacing={})
    if roll.digest is not None:
        aimed = replace(aimed, extras=(), leaving=(*roll.leaving, *roll.extras))
    return TurnRoll("aimed", aimed, text)


def _end(snapshot: Snapshot, roll: Roll, target: Generation) -> TurnRoll | None:
    """Let the extra replicas go once all others are ready, and finish when they are gone."""
    wished = mine(snapshot)
    if not all(is_ready(snapshot, name) for name in wished):
        return None
    if roll.extras:
        return _relieve(roll, roll.extras)
    if roll.leaving:
        return None
    text = f"{roll.pool} {len(wished)}/{len(wished)}, all of generation {target.number}"
    return TurnRoll("finished", roll, text)


def _relieve(roll: Roll, names: Iterable[ReplicaName]) -> TurnRoll:
    going = tuple(names)
    extras = tuple(name for name in roll.extras if name not in going)
    after = replace(roll, extras=extras, leaving=(*roll.leaving, *going))
    return TurnRoll("relieved", after, f"{', '.join(going)} is not needed any more")


def _surge(snapshot: Snapshot, pool: Pool, roll: Roll, left: int) -> TurnRoll | None:
    """Wish for extra replicas, as many as are allowed, of use, and have room; no longer for more.

    Those of a roll that was superseded go before others come: they have names and room.
    """
    room, _ = _room(snapshot, pool, roll)
    surplus = [n for n in roll.extras[room:] if not (roll.replacing and is_ready(snapshot, n))]
    if room < 0 and surplus:
        return _relieve(roll, surplus)
    count = min(roll.surge, left) - len(roll.extras)
    if count <= 0 or room <= 0 or roll.leaving:
        return None
    names = _free_names(snapshot, pool, min(count, room))
    text = f"{', '.join(names)} runs besides meanwhile"
    return TurnRoll("surged", replace(roll, extras=(*roll.extras, *names)), text)


def _free_names(snapshot: Snapshot, pool: Pool, count: int) -> list[ReplicaName]:
    taken: set[str] = {*snapshot.wished(), *snapshot.assigned(), *(m.name for m in snapshot.moves)}
    taken |= {fact.name for host in snapshot.hosts.values() for fact in host.containers}
    numbers = (pool.replica(number) for number in range(1, len(taken) + count + 1))
    return [name for name in numbers if name not in taken][:count]


def _replace(
    snapshot: Snapshot,
    pool: Pool,
    roll: Roll,
    old: Iterable[ReplicaName],
    target: Generation,
    now: float,
) -> TurnRoll | None:
    """Choose who goes next: as many as the ready ones allow."""
    allowed = limits(snapshot, pool, roll)
    budget = _available(snapshot, roll) - (len(mine(snapshot)) - allowed.unavailable)
    chosen: dict[ReplicaName, str] = {}
    for name in old:
        if len(chosen) >= budget:
            break
        if name not in roll.replacing and not _held_up(snapshot, name, target, now):
            fact = snapshot.hosts[snapshot.assigned()[name].host].ours(name)
            chosen[name] = fact.container_id if fact else ""
    if not chosen:
        return None
    after = replace(roll, replacing={**roll.replacing, **chosen})
    return TurnRoll("replacing", after, f"replacing {', '.join(chosen)}")


def _pause(snapshot: Snapshot, roll: Roll, reason: str) -> TurnRoll:
    """Replace nothing any more; extra replicas that are no help go at once, others when all run."""
    helping = tuple(name for name in roll.extras if is_ready(snapshot, name))
    going = tuple(name for name in roll.extras if name not in helping)
    leaving = (*roll.leaving, *going)
    paused = replace(roll, state="paused", reason=reason, extras=helping, leaving=leaving)
    return TurnRoll("paused", replace(paused, replacing={}), reason)


def _paused(snapshot: Snapshot, roll: Roll, target: Generation | None) -> TurnRoll | None:
    if target is not None and target.digest != roll.digest:
        return TurnRoll("dropped", roll, f"generation {target.number} is current now")
    wished = mine(snapshot)
    if not all(is_ready(snapshot, name) for name in wished):
        return None
    if roll.extras:
        return _relieve(roll, roll.extras)
    there = target is not None and not outdated(snapshot, target)
    return TurnRoll("dropped", roll, "all replicas are of it") if there else None


# -- how it stands --------------------------------------------------------------------------------


def limits(snapshot: Snapshot, pool: Pool, roll: Roll) -> Limits:
    """Return what may be done: without room for an extra replica one is replaced without."""
    room, is_sure = _room(snapshot, pool, roll)
    none_comes = not roll.extras and not roll.leaving and room <= 0 and is_sure
    if roll.unavailable > 0 or not none_comes:
        return Limits(surge=roll.surge, unavailable=roll.unavailable)
    why = f"max = {pool.max}" if len(mine(snapshot)) >= pool.max else "max_replicas of the hosts"
    remark = f"no room for an extra replica ({why}), so one at a time is missing"
    return Limits(surge=0, unavailable=1, remark=remark)


def replaces(snapshot: Snapshot, fact: ContainerFact) -> str:
    """Say why a ready replica is taken down: it is the roll's turn; "" where it is not."""
    roll = snapshot.roll
    if roll is None or roll.state != "running":
        return ""
    is_meant = roll.replacing.get(ReplicaName(fact.name)) == fact.container_id
    return f"one of generation {roll.generation} replaces it" if is_meant else ""


def status(snapshot: Snapshot) -> RollStatus | None:
    """Say how far the roll is; None where there is none."""
    roll, usable = snapshot.roll, snapshot.usable()
    if roll is None or snapshot.pool is None:
        return None
    wished = mine(snapshot)
    number = roll.generation if roll.state == "paused" else (usable[0].number if usable else None)
    ready = (snapshot.assigned()[name] for name in wished if is_ready(snapshot, name))
    current = usable[0] if usable and number == usable[0].number else None
    done = sum(
        1
        for found in ready
        if (
            not is_old(snapshot, found, current)
            if current is not None
            else number is not None and found.generation == number
        )
    )
    return RollStatus(roll.state, number, done, len(wished), roll.change, roll.reason)


def sentence(snapshot: Snapshot, now: float) -> str:
    """Say how far the roll is, or that the pool is held: "rolling to generation 8: 2 of 5"."""
    how, hold = status(snapshot), snapshot.hold
    parts = [f"held at generation {hold.number}"] if hold is not None else []
    if how is not None and how.state == "paused":
        parts.append(f"the roll{_to(how.generation)} is paused: {how.reason}")
    elif how is not None:
        why = waits_for(snapshot, now)
        parts.append(f"rolling{_to(how.generation)}: {how.done} of {how.of}")
        parts[-1] += f" ({why})" if why else ""
    return ", ".join(parts)


def _to(number: int | None) -> str:
    return "" if number is None else f" to generation {number}"


def wants_generation(snapshot: Snapshot) -> bool:
    """Whether a roll waits for the first generation of the application."""
    return snapshot.roll is not None and snapshot.roll.state == "running" and not snapshot.usable()


def waits_for(snapshot: Snapshot, now: float) -> str:
    """Say what a running roll waits for, where nothing of it is under way."""
    pool, roll, usable = snapshot.pool, snapshot.roll, snapshot.usable()
    if pool is None or roll is None or roll.state != "running":
        return ""
    if not usable:
        return f"waiting for a generation of the application, built on {pool.builder}"
    allowed = limits(snapshot, pool, roll)
    reasons = [allowed.remark] if allowed.remark else []
    if not roll.replacing:
        old = outdated(snapshot, usable[0])
        held_up = [why for name in old if (why := _held_up(snapshot, name, usable[0], now))]
        missing = [n for n in snapshot.wished() if not is_ready(snapshot, n)]
        if old and len(held_up) == len(old):
            reasons.append(f"waiting: {held_up[0]}")
        elif missing:
            reasons.append(f"waiting for {', '.join(sorted(missing, key=by_number))}")
    return "; ".join(reasons)


def _is_replaced(snapshot: Snapshot, name: ReplicaName, container_id: str) -> bool:
    """Whether another container is there instead, or none is wished for."""
    found = snapshot.assigned().get(name)
    if name not in snapshot.wished():
        return True
    started = found.started if found is not None else None
    return started is not None and started.container_id != container_id


def _available(snapshot: Snapshot, roll: Roll) -> int:
    """Count the ready ones that are not about to be taken down, extra ones included."""
    return sum(
        1
        for name in snapshot.wished()
        if is_ready(snapshot, name) and not _is_going(snapshot, roll, name)
    )


def _is_going(snapshot: Snapshot, roll: Roll, name: ReplicaName) -> bool:
    return name in roll.replacing and not _is_replaced(snapshot, name, roll.replacing[name])


def _held_up(snapshot: Snapshot, name: ReplicaName, target: Generation, now: float) -> str:
    """Say why a replica cannot be replaced now; "" where it can."""
    host = snapshot.hosts.get(snapshot.assigned()[name].host)
    if host is None or not host.up:
        where = host.name if host is not None else snapshot.assigned()[name].host
        return f"{where}, which has {name}, is not reached"
    if host.closed:
        return f"{name} would not come up again: {host.closed}"
    retry = snapshot.retries.get(removal_key(name))
    if retry is not None and retry.at > now:
        return retry.message
    if not is_ready(snapshot, name):
        return f"{name} is not ready"
    rung = next_rung(snapshot, host, (), now)
    wanted = target_on(snapshot, host.name, target)
    if isinstance(rung, Rung) and rung.generation is wanted:
        return ""
    if isinstance(rung, Wait):
        return rung.reason
    if awaits_own(snapshot, host):
        return f"{host.name} needs a generation of its own, which is not there yet"
    return f"generation {wanted.number} is not on {host.name} yet"


def _room(snapshot: Snapshot, pool: Pool, roll: Roll) -> tuple[int, bool]:
    """Return how many more extra replicas have room, negative: too many; and whether that is sure.

    A host that cannot be asked may have room.
    """
    by_max = pool.max - len(mine(snapshot)) - len(roll.extras)
    counts = Counter(assignment.host for assignment in snapshot.assignments)
    views = [view for name in pool.hosts if (view := snapshot.hosts.get(name)) is not None]
    on_hosts = sum(
        max(0, view.max_replicas - view.others - counts[view.name])
        for view in views
        if view.up and not view.closed
    )
    on_hosts -= sum(1 for name in snapshot.wished() if name not in snapshot.assigned())
    is_sure = by_max <= 0 or all(view.up or view.fenced for view in views)
    return min(by_max, on_hosts) if is_sure else by_max, is_sure
