"""What the story measured, as a table, as JSON and as a picture; pure.

All durations are seconds. "Restore" and "cold start" have one definition: from the call to the
first successful answer at the published address.
"""

from __future__ import annotations

import html
from dataclasses import asdict, dataclass
from statistics import median


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """A replica and what its counter said to the first two requests."""

    name: str
    host: str
    address: str
    counters: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """A replica that moved while it ran."""

    name: str
    source: str
    target: str
    before: int  # the counter's last answer on the source
    after: int  # its first answer on the target
    downtime_seconds: float
    phases: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherWay:
    """The same application with what it writes on tmpfs, inside the checkpoint."""

    pool: str
    cold_seconds: float
    restore_seconds: float
    checkpoint_bytes: int
    counters: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Everything the story leaves behind in build/demo.json."""

    app: str
    cold_seconds: list[float]
    article_seconds: list[float]
    restore_seconds: list[float]
    cold_phases: list[dict[str, float]]
    article_phases: list[dict[str, float]]
    restore_phases: list[dict[str, float]]
    article_checkpoint_seconds: float
    build_phases: dict[str, float]
    checkpoint_bytes: int
    packed_bytes: int
    article_bytes: int
    replicas: list[Counted]
    move: Moved
    on_tmpfs: OtherWay | None = None


def as_json(results: Results) -> dict[str, object]:
    """Return the file's content, with the figures that follow from the others filled in."""
    fields = asdict(results)
    fields["move_downtime_seconds"] = results.move.downtime_seconds
    fields["ratios"] = ratios(results)
    return fields


def ratios(results: Results) -> dict[str, float]:
    """Return how many times faster poold's restore is than the other two, by the medians."""
    return {
        "cold_to_restore": _ratio(results.cold_seconds, results.restore_seconds),
        "article_to_restore": _ratio(results.article_seconds, results.restore_seconds),
    }


def rows(results: Results) -> list[tuple[str, str, str, str]]:
    """Return the table's rows: what, median, all runs, phases."""
    measured = (
        ("cold start (podman run)", results.cold_seconds, results.cold_phases),
        ("the article's restore", results.article_seconds, results.article_phases),
        ("poold restore", results.restore_seconds, results.restore_phases),
    )
    table = [
        (
            what,
            f"{median(runs):.2f} s",
            "  ".join(f"{run:.2f}" for run in runs),
            phrase(median_phases(phases)),
        )
        for what, runs, phases in measured
    ]
    move = results.move
    what = f"move {move.name} {move.source} → {move.target} (downtime)"
    table.append((what, f"{move.downtime_seconds:.2f} s", "", phrase(move.phases)))
    return table


def median_phases(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return each phase's median over the runs that have it."""
    names = dict.fromkeys(name for run in runs for name in run)
    return {name: median(run[name] for run in runs if name in run) for name in names}


def phrase(phases: dict[str, float]) -> str:
    """Write phases as "restore 0.61, ready 0.02"."""
    return ", ".join(f"{name} {seconds:.2f}" for name, seconds in phases.items())


def svg(results: Results) -> str:
    """Draw the three medians as bars, one longer than the other."""
    bars = (
        ("cold start", median(results.cold_seconds), "#b4552d"),
        ("the article's commands", median(results.article_seconds), "#c9a227"),
        ("poold", median(results.restore_seconds), "#2f7d5b"),
    )
    longest = max(seconds for _, seconds, _ in bars)
    title = f"{html.escape(results.app)}: seconds from the call to the first answer"
    lines = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 190" role="img"',
        'font-family="sans-serif" font-size="15">',
        f"<title>{title}</title>",
        '<rect width="720" height="190" fill="#fbfaf7"/>',
        f'<text x="20" y="30" font-weight="bold" fill="#222">{title} ',
        f"(median of {len(results.restore_seconds)})</text>",
    ]
    for row, (label, seconds, colour) in enumerate(bars):
        top = 50 + row * 44
        width = max(2.0, 400 * seconds / longest)
        lines += [
            f'<text x="20" y="{top + 21}" fill="#222">{label}</text>',
            f'<rect x="200" y="{top}" width="{width:.1f}" height="30" rx="3" fill="{colour}"/>',
            f'<text x="{208 + width:.1f}" y="{top + 21}" fill="#222">{seconds:.2f} s</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def _ratio(slow: list[float], fast: list[float]) -> float:
    return round(median(slow) / median(fast), 2)
