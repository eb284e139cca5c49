"""How far and how often others may scale a pool. Standard library only, Python 3.9."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Optional


@dataclass(frozen=True)
class Scaling:
    """What a hook may do to a pool, within its `min` and `max`; an operator's wish is not held up.

    `step`: so many replicas more or fewer at once, None for any number. After the last change of
    the number the next waits for `out_after_seconds` upwards and `in_after_seconds` downwards.
    """

    step: Optional[int] = None
    out_after_seconds: float = 0.0
    in_after_seconds: float = 60.0


@dataclass(frozen=True)
class Autoscale:
    """How many replicas a pool is to have by what its balancer reads, within min, max and scaling.

    `target` sessions and queued requests for each replica, averaged over `window_seconds`; over
    `panic_seconds` where that asks for twice as many as are ready. `dry_run`: it is only said.
    """

    on: Literal["concurrency"] = "concurrency"
    target: float = 20.0
    window_seconds: float = 60.0
    panic_seconds: float = 6.0
    dry_run: bool = False


@dataclass(frozen=True)
class Recommended:
    """How many replicas the figures ask for, and why, whether that is followed or not."""

    count: int
    text: str
    followed: bool = True
