"""A replica on its way to another host: which step follows which, pure.

    image ──> capture ──> send ──> restore ──> forget ──> settled
      │          │          │         │           └ whatever it leaves, the plan removes
      v          v          v         v
    failed     thaw <───── thaw <─── undo

In: a move and how its step ended. Out: the next step, or the end. `undo` confirms that the target
has nothing of that name before the source is thawed, and is tried until it does: that is promise 1.
The assignment goes to the target in the transaction that writes `forget` down, never before.

No facts of the hosts are looked at: every step is asked for under an id that is derived from the
stored move, so a daemon that was killed asks again and gets the outcome, which says more.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any, Final

from poold.errors import Problem
from poold.model.fleet import ActionId, HostName, Phases
from poold.store import Move, MoveStep

THAW_ATTEMPTS = 5

_NEXT: Final[dict[MoveStep, MoveStep]] = {
    "image": "capture",
    "capture": "send",
    "send": "restore",
    "restore": "forget",
    "undo": "thaw",
}


@dataclass(frozen=True, slots=True)
class Again:
    """The same step once more, later, under a new id."""

    move: Move


@dataclass(frozen=True, slots=True)
class Ended:
    """Settled, or failed with the problem: the replica runs where it ran before."""

    move: Move
    problem: dict[str, Any] | None = None
    phases: Phases = field(default_factory=dict)


def action_of(move: Move, verb: str) -> ActionId:
    """Return the id under which a request of the move's step is asked, now and after a crash."""
    return ActionId(f"{verb}-{move.action}-{move.step}-{move.attempt}")


def after_success(move: Move, answer: Any, phases: Phases, now: float) -> Move | Ended:
    """Return what follows a step that was done; `phases` are the seconds it took."""
    seen = {**move.phases, **phases}
    done = replace(move, phases=seen, attempt=1)
    if move.step == "image":
        done = replace(done, frozen_at=now)  # the capture begins now, whoever hears its outcome
    if move.step == "capture":
        quiesced = answer.manifest.phases.get("quiesce", 0.0)  # the application still answered
        done = replace(done, sealed=answer, frozen_at=(move.frozen_at or now) + quiesced)
    if move.step == "restore" and move.frozen_at is not None:
        done = replace(done, phases={**seen, "downtime": max(0.0, now - move.frozen_at)})
    if move.step == "forget":
        return Ended(done, phases=done.phases)
    if move.step == "thaw":
        return Ended(done, move.problem, done.phases)
    return replace(done, step=_NEXT[move.step])


def after_failure(move: Move, problem: Problem, *, passing: bool) -> Move | Again | Ended:
    """Return what follows a step that failed; `passing` troubles say nothing of the move."""
    match move.step:
        case "image":
            return Ended(move, problem.to_json(), move.phases)
        case "capture" | "send":
            return replace(move, step="thaw", attempt=1, problem=problem.to_json())
        case "restore":
            return replace(move, step="undo", attempt=1, problem=problem.to_json())
        case "undo" if problem.kind == "refused":
            # Somebody else's container has the name there, so ours is not: that is confirmation.
            return replace(move, step="thaw", attempt=1)
        case "undo":
            return Again(replace(move, attempt=move.attempt + 1))
        case "thaw":
            if not passing and (problem.kind == "refused" or move.attempt >= THAW_ATTEMPTS):
                return Ended(move, _both(move, problem), move.phases)
            return Again(replace(move, attempt=move.attempt + 1))
        case "forget":
            return Ended(move, None, move.phases)


def after_fence(move: Move, fenced: Collection[HostName]) -> Move | Ended | None:
    """Return what becomes of a move whose source or target was declared dead; None: it goes on.

    A replica whose source is gone has its capture left, if that was sent; whose target is gone
    goes on where it came from, and nothing has to be confirmed of the target.
    """
    if move.source in fenced and move.step not in ("restore", "undo", "forget"):
        problem = move.problem or _fenced(move, move.source)
        return Ended(move, problem, move.phases)
    if move.target not in fenced:
        return None
    if move.step == "image":
        return Ended(move, _fenced(move, move.target), move.phases)
    if move.step in ("send", "restore", "undo"):
        problem = move.problem or _fenced(move, move.target)
        return replace(move, step="thaw", attempt=1, problem=problem)
    return None  # what the source was asked for goes on


def _fenced(move: Move, host: HostName) -> dict[str, Any]:
    return {
        "kind": "temporary",
        "code": "host.fenced",
        "message": f"cannot move {move.name} from {move.source} to {move.target}: {host} is fenced",
        "hint": f"choose another host, or poold host uncordon {host} when it is back",
    }


def _both(move: Move, problem: Problem) -> dict[str, Any]:
    first = move.problem or problem.to_json()
    return {
        **first,
        "message": f"{first.get('message')}; and on {move.source} it could not be thawed: "
        f"{problem.message}",
        "hint": "it is restored from its pool's generation",
    }
