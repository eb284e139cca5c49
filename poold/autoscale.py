"""How many replicas a number of concurrent requests asks for: pure.

In: samples, one after the other. Out: a number and the reason. The rules are those of the
well-known concurrency autoscaler: the average over a window, and over a tenth of it while load
rises fast; fast upwards, slow downwards. A figure that is missing changes nothing.
https://knative.dev/docs/serving/autoscaling/kpa-specific/
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from poold.model.scaling import Autoscale

PANIC_TIMES: Final = 2  # as many as are ready: then the short window decides
MOST_TIMES_UP: Final = 10  # as many as are ready, at once
LEAST: Final = 1  # from none there is no way back by figures: nobody serves, nobody counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What is remembered of a pool, as (time, figure), the oldest first."""

    samples: tuple[tuple[float, float], ...] = ()
    wanted: tuple[tuple[float, int], ...] = ()
    since: float | None = None  # of the first sample
    panic_until: float | None = None
    panic_count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """A number of replicas and why; `known`: there was a figure."""

    count: int
    text: str
    known: bool = True


def advise(
    settings: Autoscale,
    memory: Memory,
    *,
    now: float,
    concurrency: float | None,
    ready: int,
    wished: int,
) -> tuple[Memory, Advice]:
    """Take one sample and say how many replicas it asks for. `now` never goes back."""
    if concurrency is None:
        return memory, Advice(count=wished, text=f"no figures: it stays at {wished}", known=False)
    memory = _sampled(settings, memory, now, concurrency)
    slow = _average(memory, now - settings.window_seconds)
    fast = _average(memory, now - settings.panic_seconds)
    ceiling = MOST_TIMES_UP * max(ready, 1)
    stable = min(_count(slow, settings.target), ceiling)
    urgent = min(_count(fast, settings.target), ceiling)
    memory = _panicking(settings, memory, now, urgent, ready)
    if memory.panic_until is not None:
        count = max(urgent, memory.panic_count, min(wished, ceiling))
        memory = replace(memory, panic_count=count)
        text = f"{fast:.1f} at once in {settings.panic_seconds:g} s ask for {urgent}"
    else:
        count = stable
        text = f"{slow:.1f} at once in {settings.window_seconds:g} s ask for {stable}"
    memory = _wanting(settings, memory, now, count)
    if count < wished:
        return memory, _fewer(settings, memory, now, wished, text)
    return memory, Advice(count=count, text=text)


def _fewer(settings: Autoscale, memory: Memory, now: float, wished: int, text: str) -> Advice:
    """Go down only to the most that was asked for in a whole window, and by half at most."""
    if memory.since is None or now - memory.since < settings.window_seconds:
        return Advice(count=wished, text=f"{text}; not fewer before a whole window was seen")
    most = max(wanted for _, wanted in memory.wanted)
    lowest = max(most, math.ceil(wished / 2))
    if lowest >= wished:
        return Advice(count=wished, text=f"{text}; {most} were asked for in the same window")
    return Advice(count=lowest, text=text)


def _sampled(settings: Autoscale, memory: Memory, now: float, concurrency: float) -> Memory:
    oldest = now - settings.window_seconds
    kept = tuple(sample for sample in memory.samples if sample[0] > oldest)
    gap = not kept  # nothing is known of the last window: it begins again
    return replace(
        memory,
        samples=(*kept, (now, concurrency)),
        since=now if gap or memory.since is None else memory.since,
    )


def _panicking(settings: Autoscale, memory: Memory, now: float, urgent: int, ready: int) -> Memory:
    if urgent >= PANIC_TIMES * max(ready, 1):
        return replace(memory, panic_until=now + settings.window_seconds)
    if memory.panic_until is not None and now >= memory.panic_until:
        return replace(memory, panic_until=None, panic_count=0)
    return memory


def _wanting(settings: Autoscale, memory: Memory, now: float, count: int) -> Memory:
    oldest = now - settings.window_seconds
    kept = tuple(wanted for wanted in memory.wanted if wanted[0] > oldest)
    return replace(memory, wanted=(*kept, (now, count)))


def _average(memory: Memory, oldest: float) -> float:
    found = [figure for at, figure in memory.samples if at > oldest]
    return sum(found) / len(found)


def _count(figure: float, target: float) -> int:
    return max(LEAST, math.ceil(figure / target - 1e-9))
