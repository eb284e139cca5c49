"""What happened, what was asked, and why a pool is as it is: values for readers.

Standard library only and Python 3.9. Times are seconds since the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Optional

EventKind = Literal[
    "change.accepted",
    "change.settled",
    "change.failed",
    "replica.ready",
    "replica.lost",  # it ran, nobody wished it away, and it runs no more
    "replica.removed",
    "replica.moved",
    "replica.adopted",
    "replica.start-failed",
    "fallback",  # a step down the ladder was taken
    "generation.proven",
    "generation.failed",
    "generation.retired",
    "generation.quarantined",  # on one host
    "generation.pardoned",
    "generation.adopted",  # its seal is true, and the store had lost it
    "generation.disowned",
    "roll.begun",
    "roll.paused",
    "roll.finished",
    "image.changed",  # its name means another one than the current generation was made of
    "pool.released",  # it is not held at a generation any more
    "host.up",
    "host.lost",
    "daemon.started",
]


@dataclass(frozen=True)
class Event:
    """Something that happened. Ids rise; those of old events are never given again.

    `kind` is one of EventKind, and later ones: readers must not fail at a kind they do not know.
    """

    id: int
    at: float
    kind: str
    text: str  # one sentence
    pool: str = ""
    replica: str = ""
    host: str = ""
    change: Optional[int] = None
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AcceptedCall:
    """A changing call that was accepted: who asked for what, when, from where and why."""

    id: int
    at: float
    actor: str  # "uid:0" on the unix socket, "token" over TCP
    origin: str  # "unix pid:4711", "tcp 192.0.2.7"
    operation: str  # the route's name, as in the OpenAPI document
    path: str
    request: dict[str, Any] = field(default_factory=dict)
    pool: str = ""
    reason: str = ""
    change: Optional[int] = None


Topic = Literal["wish", "generation", "roll", "replica", "balancer", "host", "change"]


@dataclass(frozen=True)
class Because:
    """How one thing is, and why, in a sentence; `again_at` is when it is tried again.

    `evidence` has the lines that a failure left, such as the end of CRIU's log.
    """

    topic: Topic
    subject: str
    state: str
    text: str
    again_at: Optional[float] = None
    evidence: str = ""


@dataclass(frozen=True)
class Explanation:
    """Why a pool is as it is: `waits_for` is empty when nothing is left to do."""

    pool: str
    at: float
    sentence: str
    revision: int = 0  # of what is wished: rises with every wish
    waits_for: tuple[str, ...] = ()
    because: tuple[Because, ...] = ()
    events: tuple[Event, ...] = ()  # the newest, oldest first
