"""How many replicas to wish for when somebody else asks: pure.

In: what is asked, what is wished now, the pool's limits, and how long ago its number changed. Out:
a number and the reason, in the words that the change will carry. It knows neither who asks nor how.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from poold.model.scaling import Scaling

CHANGES_OF_COUNT: Final = frozenset({"scale", "restore", "remove"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Between which numbers, in which steps, and how often."""

    least: int
    most: int
    scaling: Scaling


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`count` is to be wished; `wait_seconds`: not before, and until then nothing changes."""

    count: int
    text: str
    wait_seconds: float = 0.0


def decide(
    limits: Limits,
    *,
    wished: int,
    count: int | None = None,
    delta: int = 0,
    idle_seconds: float | None = None,
) -> Decision:
    """Decide on a number, or a difference; `idle_seconds`: since the last change, None: never."""
    asked = count if count is not None else wished + delta
    said = f"{asked} asked for" if count is not None else f"{delta:+d} asked for"
    target, notes = _limited(limits, wished, asked)
    because = f" ({', '.join(notes)})" if notes else ""
    if target == wished:
        return Decision(count=wished, text=f"{said}: it stays at {wished}{because}")
    way = "out" if target > wished else "in"
    scaling = limits.scaling
    pause = scaling.out_after_seconds if way == "out" else scaling.in_after_seconds
    left = 0.0 if idle_seconds is None or idle_seconds < 0 else pause - idle_seconds
    if left > 0:
        text = f"{said}: not {way} before {left:.0f} s, {pause:g} s after the last change"
        return Decision(count=wished, text=text, wait_seconds=left)
    return Decision(count=target, text=f"{said}: {wished} to {target}{because}")


def _limited(limits: Limits, wished: int, asked: int) -> tuple[int, list[str]]:
    notes = []
    target = min(max(asked, limits.least), limits.most)
    if target != asked:
        notes.append(f"max is {limits.most}" if asked > target else f"min is {limits.least}")
    step = limits.scaling.step
    if step is not None and abs(target - wished) > step:
        target = wished + step if target > wished else wished - step
        notes.append(f"step is {step}")
    return target, notes
