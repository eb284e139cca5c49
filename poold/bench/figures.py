"""From seconds to what may be said of them: medians, percentiles, ratios and how sure they are.

Flows in: what each way took, run by run. Flows out: rows and ratios, as values and as JSON. Pure;
the confidence intervals come from a generator with a fixed seed, so that the same seconds always
give the same text.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median

_RESAMPLES = 2000
_CONFIDENCE = 0.95
BASELINES = ("cold", "article", "bare")  # what the other ways are compared with


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of one way: `burst` starts at once, `seconds` until the last of them answered.

    `phases` are the median start's; bytes are resident memory per replica and the archive's size.
    """

    path: str
    burst: int
    seconds: float
    phases: dict[str, float] = field(default_factory=dict)
    resident_bytes: int = 0
    archive_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """All runs of one way with one size of burst."""

    app: str
    path: str
    burst: int
    seconds: tuple[float, ...]
    median: float
    p95: float
    p99: float
    phases: dict[str, float]
    resident_bytes: int
    archive_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """How many times as long `against` takes as `path`, by the medians, with its 95 % interval."""

    app: str
    path: str
    against: str
    burst: int
    ratio: float
    low: float
    high: float


def rows(app: str, runs: Sequence[Run]) -> tuple[Row, ...]:
    """Gather runs into rows, in the order in which their ways were first taken."""
    groups: dict[tuple[int, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.burst, run.path), []).append(run)
    return tuple(_row(app, group) for _, group in sorted(groups.items(), key=lambda g: g[0][0]))


def _row(app: str, runs: list[Run]) -> Row:
    seconds = [run.seconds for run in runs]
    names = dict.fromkeys(name for run in runs for name in run.phases)
    return Row(
        app=app,
        path=runs[0].path,
        burst=runs[0].burst,
        seconds=tuple(round(each, 4) for each in seconds),
        median=round(median(seconds), 4),
        p95=round(percentile(seconds, 95), 4),
        p99=round(percentile(seconds, 99), 4),
        phases={
            name: round(median(run.phases[name] for run in runs if name in run.phases), 4)
            for name in names
        },
        resident_bytes=int(median(run.resident_bytes for run in runs)),
        archive_bytes=max(run.archive_bytes for run in runs),
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value below which `percent` % lie, by linear interpolation between neighbours.

    With few values the high percentiles are little more than the largest one.
    """
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def ratios(found: Sequence[Row]) -> tuple[Ratio, ...]:
    """Compare every way with each baseline of the same burst."""
    compared = []
    for row in found:
        for against in BASELINES:
            base = next((r for r in found if (r.path, r.burst) == (against, row.burst)), None)
            if base is not None and against != row.path:
                compared.append(_ratio(row, base))
    return tuple(compared)


def _ratio(row: Row, base: Row) -> Ratio:
    """Bootstrap by runs: run i of both ways was made in the same minute, so they go together."""
    source = random.Random(f"{row.app} {row.path} {base.path} {row.burst}")  # noqa: S311 - no secret
    count = min(len(row.seconds), len(base.seconds))
    drawn = []
    for _ in range(_RESAMPLES):
        picks = [source.randrange(count) for _ in range(count)]
        drawn.append(
            median(base.seconds[pick] for pick in picks)
            / median(row.seconds[pick] for pick in picks)
        )
    rest = (1 - _CONFIDENCE) / 2 * 100
    return Ratio(
        app=row.app,
        path=row.path,
        against=base.path,
        burst=row.burst,
        ratio=round(base.median / row.median, 3),
        low=round(percentile(drawn, rest), 3),
        high=round(percentile(drawn, 100 - rest), 3),
    )


def as_json(found: Sequence[Row], compared: Sequence[Ratio], about: dict[str, str]) -> object:
    """Return what is written to a file: rows, ratios, and where it was measured."""
    return {
        "about": about,
        "rows": [{**asdict(row), "seconds": list(row.seconds)} for row in found],
        "ratios": [asdict(each) for each in compared],
    }
