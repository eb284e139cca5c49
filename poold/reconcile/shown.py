"""How a pool looks to its operator: its replicas, and one sentence. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from heapq import nsmallest
from typing import Any

from poold.agent.messages import ContainerFact, Started
from poold.model.fleet import HostName, Pool, PoolName, Replica, ReplicaName, ReplicaState
from poold.reconcile import importing
from poold.reconcile.actions import (
    AdvanceMove,
    BringUp,
    DropGeneration,
    MakeGeneration,
    MakeSpare,
    Remote,
    SendGeneration,
    SendImage,
    TakeArchive,
    TakeDown,
    Thaw,
    build_subject,
    generation_subject,
    removal_key,
    replica_subject,
)
from poold.reconcile.snapshot import HostView, Snapshot
from poold.store import Assignment, Move

SHOWN_AT_ONCE = 4


def describe(action: Remote) -> str:
    """Say what an action does, as the sentence and a busy replica say it."""
    match action:
        case BringUp(digest=None):
            return f"starting {action.name} cold on {action.host}"
        case BringUp() if action.spare:
            return f"claiming a spare for {action.name} on {action.host}"
        case BringUp():
            return f"restoring {action.name} on {action.host} from generation {action.generation}"
        case TakeDown():
            return f"removing {action.name} from {action.host}"
        case Thaw():
            return f"thawing {action.name} on {action.host}"
        case MakeSpare():
            return f"preparing a spare on {action.host} from generation {action.generation}"
        case TakeArchive():
            return f"importing {action.file} on {action.host}"
        case MakeGeneration():
            return f"building a generation on {action.builder}"
        case SendImage():
            return f"sending the image to {action.target}"
        case SendGeneration():
            return f"sending generation {action.number} to {action.target}"
        case DropGeneration():
            return f"clearing an old checkpoint from {action.host}"
        case AdvanceMove():
            return f"moving {action.name}"


def shown(
    snapshot: Snapshot,
    waiting: Mapping[ReplicaName, str],
    failed: Mapping[ReplicaName, Mapping[str, Any]],
) -> tuple[Replica, ...]:
    """Return the pool's replicas, wished or still there, by number."""
    wished, assigned = snapshot.wished(), snapshot.assigned()
    moves = {move.name: move for move in snapshot.moves}
    known = {*wished, *assigned} if snapshot.pool is not None else {*assigned}
    names = sorted(known, key=lambda name: (len(name), name))
    resting = snapshot.resting()
    replicas = []
    for name in names:
        assignment = assigned.get(name)
        if name in resting and assignment is not None:
            fact = resting[name]
            replicas.append(_replica(snapshot.name, assignment, fact, "ready", assignment.reason))
            continue
        state, reason = _state(snapshot, name, assignment, moves.get(name))
        if state == "waiting" and name in failed:
            state, reason = "failed", str(failed[name].get("message", ""))
        elif state == "waiting":
            reason = waiting.get(name, "") or reason
        host = assignment.host if assignment is not None else None
        if state in ("ready", "waiting", "starting") and _is_leaving(snapshot, name, host):
            state, reason = "removing", _why_still_there(snapshot, name)
        if name in snapshot.extras and state == "ready":
            reason = reason or "extra while the pool rolls"
        if assignment is None:
            replicas.append(Replica(name, snapshot.name, state, reason=reason))
            continue
        view = snapshot.hosts.get(assignment.host)
        found = view.ours(name) if view else None
        replicas.append(_replica(snapshot.name, assignment, found, state, reason))
    return tuple(replicas)


def _is_leaving(snapshot: Snapshot, name: ReplicaName, host: HostName | None) -> bool:
    """Whether a replica is not wished, or not wished where it is."""
    if snapshot.pool is None:
        return False
    wish = snapshot.wished().get(name)
    return wish is None or (host is not None and wish.host not in (None, host))


def _why_still_there(snapshot: Snapshot, name: ReplicaName) -> str:
    retry = snapshot.retries.get(removal_key(name))
    return retry.message if retry is not None else ""


def _replica(
    pool: PoolName,
    assignment: Assignment,
    fact: ContainerFact | None,
    state: ReplicaState,
    reason: str,
) -> Replica:
    """Return what is recorded of a replica that has a host, and what that host has of it."""
    started = assignment.started
    address, container_id = (fact.address, fact.container_id) if fact else ("", None)
    if started is None:
        return Replica(
            assignment.name, pool, state, assignment.host, address or None, container_id,
            reason=reason,
        )  # fmt: skip
    return Replica(
        assignment.name,
        pool,
        state,
        assignment.host,
        address or started.address or None,
        started.container_id if fact is None else container_id,
        started.method,
        assignment.generation,
        started.started_at or None,
        started.seconds or None,
        started.phases,
        reason or _slower(started),
        started.engine,
    )


def _slower(started: Started) -> str:
    return f"restored by podman: {started.engine_reason}" if started.engine_reason else ""


def _state(
    snapshot: Snapshot, name: ReplicaName, assignment: Assignment | None, move: Move | None
) -> tuple[ReplicaState, str]:
    if move is not None:
        return "moving", f"from {move.source} to {move.target}: {move.step}"
    busy = snapshot.busy.get(replica_subject(name))
    if busy is not None and busy.startswith("removing"):
        return "removing", ""
    if assignment is None:
        return ("starting", busy) if busy else ("waiting", "")
    view = snapshot.hosts.get(assignment.host)
    if view is None or not view.up:
        return "unknown", _unheard(assignment.host, view)
    if busy is not None:
        return "starting", "; ".join(part for part in (busy, assignment.reason) if part)
    fact = view.ours(name)
    if fact is not None and fact.running and fact.ready:
        return "ready", assignment.reason
    return "waiting", fact.status if fact else ""


def _unheard(name: HostName, view: HostView | None) -> str:
    if view is None:
        return f"the host {name} left the configuration; poold host remove {name} forgets it"
    return view.reason or f"the host {name} was not heard yet"


def _held_up(snapshot: Snapshot, pool: Pool) -> Iterator[str]:
    """Say why a checkpoint that was asked for is not being made or sent now."""
    yield from importing.held_up(snapshot)
    if not any(change.kind == "checkpoint" for change in snapshot.changes):
        return
    builder = snapshot.hosts.get(pool.builder)
    if builder is None or not builder.up:
        yield f"the checkpoint waits: {_unheard(pool.builder, builder)}"
        return
    if builder.fenced:
        yield f"the checkpoint waits for its builder: {builder.closed}"
        return
    fingerprint = pool.application.fingerprint()
    subjects = [build_subject(fingerprint)]
    for name in sorted(pool.hosts):
        subjects.append(build_subject(fingerprint, name))
        if (host := snapshot.hosts.get(name)) and (usable := snapshot.usable_on(host)):
            subjects.append(generation_subject(usable[0].digest, name))
    for subject in subjects:
        retry = snapshot.retries.get(subject)
        if retry is not None and subject not in snapshot.busy:
            yield f"the checkpoint is tried again: {retry.message}"


def sentence(snapshot: Snapshot, replicas: tuple[Replica, ...], roll: str = "") -> str:
    """Say how the pool is: "hello 1/3: restoring hello2 on b from generation 1".

    What a roll's extra replicas do for the others counts; `roll` says how far that is.
    """
    if snapshot.pool is None:
        left = f"{len(replicas)} replicas left running" if replicas else "no replicas"
        return f"{snapshot.name} left the configuration: {left}"
    wished = snapshot.wished()
    ready = sum(1 for replica in replicas if replica.state == "ready" and replica.name in wished)
    count = len(wished) - len(snapshot.extras)
    acted_on = snapshot.busy.keys()
    parts = [roll] if roll else []
    if snapshot.traffic is not None and snapshot.traffic.problem:
        parts.append(snapshot.traffic.problem)
    parts += [snapshot.busy[subject] for subject in nsmallest(SHOWN_AT_ONCE, acted_on)]
    stuck: dict[str, list[str]] = {}
    for replica in replicas:
        if replica.state == "ready" or replica_subject(replica.name) in acted_on:
            continue
        reason = f": {replica.reason}" if replica.reason else ""
        stuck.setdefault(f"{replica.state}{reason}", []).append(replica.name)
    parts += [f"{', '.join(names)} {text}" for text, names in stuck.items()]
    parts += _held_up(snapshot, snapshot.pool)
    head = f"{snapshot.name} {min(ready, count)}/{count}"
    if not parts:
        return head
    more = max(0, len(acted_on) - SHOWN_AT_ONCE) + len(parts) - SHOWN_AT_ONCE
    return f"{head}: {', '.join(parts[:SHOWN_AT_ONCE])}" + (f", {more} more" if more > 0 else "")
