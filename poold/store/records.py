"""The rows that only the daemon's own parts see: wishes, assignments, intents, moves.

In and out: plain values. What they lead to is decided in `poold.reconcile`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from poold.agent.messages import Request, Sealed, Started
from poold.model.fleet import ActionId, ChangeId, Digest, HostName, Phases, PoolName, ReplicaName


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A replica that shall exist; `host` pins it."""

    name: ReplicaName
    pool: PoolName
    host: HostName | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Which host may run a name: written before the first request, dropped at confirmed absence.

    `rung` is the step of the ladder last tried or now running, `failed_rungs` those that failed
    since the replica was last ready, `started` the last success, None while there is none.
    """

    name: ReplicaName
    pool: PoolName
    host: HostName
    since: float
    rung: str = ""
    failed_rungs: tuple[str, ...] = ()
    reason: str = ""
    generation: int | None = None
    started: Started | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A request that was, or was about to be, sent to a host, and whose outcome is not folded."""

    action: ActionId
    pool: PoolName
    host: HostName
    subject: str  # what it owns until then: see `poold.reconcile.actions`
    request: Request[Any]
    boot_id: str = ""
    created_at: float


MoveStep = Literal["image", "capture", "send", "restore", "forget", "undo", "thaw"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A replica on its way to another host; `step` is what is to be done next or being done.

    `action` and `attempt` give the ids of the requests of this step, so that a daemon that was
    killed asks again for the very same ones. `sealed` is the capture; `problem` why it is undone.
    """

    name: ReplicaName
    pool: PoolName
    change: ChangeId
    source: HostName
    target: HostName
    step: MoveStep
    action: str
    attempt: int = 1
    container_id: str = ""
    sealed: Sealed | None = None
    frozen_at: float | None = None
    problem: dict[str, Any] | None = None
    phases: Phases = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """A generation or capture that a host may still hold and shall not."""

    digest: Digest
    host: HostName
    pool: PoolName
