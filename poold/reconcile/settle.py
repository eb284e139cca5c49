"""When a change has ended, and how: pure.

In: the snapshot after a plan's actions, and the replicas as they are. Out: verdicts. A change
fails when everything it waits for is either there or has failed since it was accepted; its wish
stays and goes on being tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from poold.model.fleet import Change, Phases, Replica, ReplicaName
from poold.reconcile.actions import build_subject, generation_subject, replica_subject
from poold.reconcile.snapshot import Snapshot
from poold.store import Hold


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The end of a change, and the sentence that says it."""

    change: Change
    state: Literal["settled", "failed"]
    progress: str
    problem: Mapping[str, Any] | None = None
    phases: Phases = field(default_factory=dict)


def verdicts(
    snapshot: Snapshot,
    replicas: tuple[Replica, ...],
    failed: Mapping[ReplicaName, Mapping[str, Any]],
) -> tuple[Verdict, ...]:
    """Return the pending changes that ended; moves end by their own steps."""
    if not snapshot.changes:
        return ()
    return tuple(_verdicts(snapshot, {r.name: r for r in replicas}, failed))


def _verdicts(
    snapshot: Snapshot,
    replicas: Mapping[ReplicaName, Replica],
    failed: Mapping[ReplicaName, Mapping[str, Any]],
) -> Iterator[Verdict]:
    for change in snapshot.changes:
        if change.kind == "move":  # it ends together with its move, in one transaction
            continue
        if snapshot.pool is None:
            yield _gone(change)
            continue
        if change.kind in ("roll", "rollback", "import"):  # by their own last step, as moves do
            continue
        if change.kind == "checkpoint":
            verdict = _checkpoint(snapshot, change)
        else:
            verdict = _replicas(snapshot, change, replicas, failed)
        if verdict is not None:
            yield verdict


def _gone(change: Change) -> Verdict:
    message = f"cannot {change.kind} {change.pool}: the pool left the configuration"
    problem = {"kind": "refused", "code": "pool.unknown", "message": message}
    return Verdict(change=change, state="failed", progress=message, problem=problem)


def _replicas(
    snapshot: Snapshot,
    change: Change,
    replicas: Mapping[ReplicaName, Replica],
    failed: Mapping[ReplicaName, Mapping[str, Any]],
) -> Verdict | None:
    wished = snapshot.wished()
    names = [ReplicaName(n) for n in _names(change, "names") if n in wished]
    removed = [ReplicaName(n) for n in _names(change, "removed") if n not in wished]
    if any(name in replicas for name in removed):
        return None
    states = {name: replicas[name].state if name in replicas else "waiting" for name in names}
    rolled = snapshot.roll.replacing if snapshot.roll is not None else ()
    states.update(dict.fromkeys(set(rolled) & states.keys(), "ready"))  # they were, and will be
    if all(state == "ready" for state in states.values()):
        phases = replicas[names[0]].phases if change.kind == "restore" and names else {}
        progress = _done(change, names, removed)
        return Verdict(change=change, state="settled", progress=progress, phases=phases)
    lost = [n for n, state in states.items() if state == "failed" and n in failed]
    recent = [n for n in lost if _failed_since(snapshot, change, n)]
    others = [state for name, state in states.items() if name not in lost]
    if recent and len(recent) == len(lost) and all(state == "ready" for state in others):
        problem = failed[recent[0]]
        return Verdict(
            change=change, state="failed", progress=str(problem["message"]), problem=problem
        )
    return None


def _names(change: Change, key: str) -> list[str]:
    value = change.wish.get(key)
    return [str(name) for name in value] if isinstance(value, (list, tuple)) else []


def _failed_since(snapshot: Snapshot, change: Change, name: ReplicaName) -> bool:
    retry = snapshot.retries.get(replica_subject(name))
    return retry is None or retry.failed_at >= change.created_at


def _done(change: Change, names: list[ReplicaName], removed: list[ReplicaName]) -> str:
    if change.kind == "scale":
        return f"{change.pool} {len(names)}/{len(names)}"
    return ", ".join([f"{n} is ready" for n in names] + [f"{n} is removed" for n in removed])


def _checkpoint(snapshot: Snapshot, change: Change) -> Verdict | None:
    """Settled when a generation proven since is on every host of the pool that may get it now."""
    assert snapshot.pool is not None  # noqa: S101 - looked at by the caller
    if snapshot.hold is not None:
        return _held(change, snapshot.hold)
    usable = snapshot.usable()
    if not usable or usable[0].proven_at < change.created_at:
        subject = build_subject(snapshot.pool.application.fingerprint())
        return _failure(snapshot, change, subject)
    generation, fingerprint = usable[0], snapshot.pool.application.fingerprint()
    without: list[str] = []
    apart: dict[int, list[str]] = {}
    for name in snapshot.pool.hosts:
        host = snapshot.hosts.get(name)
        if host is None or not host.up:
            without.append(f"{name} (cannot be reached)")
        elif host.fenced:
            without.append(f"{name} (fenced)")
        else:
            own = next(iter(snapshot.usable_on(host)), None)
            if own is None or own.proven_at < change.created_at:
                if not host.closed:
                    return _failure(snapshot, change, build_subject(fingerprint, name))
                without.append(f"{name} (it needs one of its own, and takes nothing new)")
            elif own.digest not in host.staged:
                return _failure(snapshot, change, generation_subject(own.digest, name))
            elif own != generation:
                apart.setdefault(own.number, []).append(name)
    where = f", but not on {', '.join(without)}" if without else ""
    where += "".join(f", generation {n} on {', '.join(at)}" for n, at in apart.items())
    text = f"generation {generation.number} is proven and distributed{where}"
    return Verdict(change=change, state="settled", progress=text, phases=generation.manifest.phases)


def _held(change: Change, hold: Hold) -> Verdict:
    message = f"cannot checkpoint {change.pool}: it is held at generation {hold.number}"
    problem = {
        "kind": "refused",
        "code": "pool.held",
        "message": message,
        "hint": f"poold roll {change.pool} ends that",
    }
    return Verdict(change=change, state="failed", progress=message, problem=problem)


def _failure(snapshot: Snapshot, change: Change, subject: str) -> Verdict | None:
    retry = snapshot.retries.get(subject)
    if retry is None or not retry.definite or retry.failed_at < change.created_at:
        return None
    return Verdict(change=change, state="failed", progress=retry.message, problem={**retry.problem})
