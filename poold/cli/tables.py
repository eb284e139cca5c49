"""Values as text for people: aligned tables, durations, ages, sizes. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from poold.cli.failures import printable
from poold.model.balancing import BalancerStatus
from poold.model.fleet import HostStatus

_STATE_COLOURS = {
    "ready": "green", "up": "green", "settled": "green", "ok": "green",
    "failed": "red", "error": "red", "unknown": "red",
    "starting": "yellow", "waiting": "yellow", "moving": "yellow", "removing": "yellow",
    "pending": "yellow", "connecting": "yellow", "warning": "yellow",
}  # fmt: skip

_STATES = ("up", "down", "draining", "maintenance", "leaving")


@dataclass(frozen=True)
class Column:
    """A heading, and whether its cells stand at the right."""

    heading: str
    right: bool = False


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], *, colour: bool) -> str:
    """Lay out rows in columns; a column that is empty in every row is left out."""
    every = range(len(columns))
    used = [at for at in every if any(row[at] for row in rows)] or list(every)
    cells = [[printable(row[at]) or "-" for at in used] for row in rows]
    headings = [columns[at].heading for at in used]
    widths = [max(map(len, texts)) for texts in zip(headings, *cells, strict=True)]
    lines = [_line(headings, widths, [columns[at].right for at in used], colour=False)]
    lines += [
        _line(row, widths, [columns[at].right for at in used], colour=colour) for row in cells
    ]
    return "\n".join(lines)


def _line(
    cells: Sequence[str], widths: Sequence[int], right: Sequence[bool], *, colour: bool
) -> str:
    padded = [
        cell.rjust(width) if at_right else cell.ljust(width)
        for cell, width, at_right in zip(cells, widths, right, strict=True)
    ]
    padded[-1] = padded[-1].rstrip()
    return "  ".join(paint(text) if colour else text for text in padded)


def paint(text: str) -> str:
    """Colour a cell that is a state."""
    colour = _STATE_COLOURS.get(text.strip())
    if colour is None:
        return text
    import click

    return click.style(text, fg=colour)


def duration(seconds: float | None) -> str:
    """Return "0.34 s", "12.3 s", "3 min 20 s", "2 h 5 min"; nothing for None."""
    if seconds is None:
        return ""
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 119.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def age(then: float | None, now: float) -> str:
    """Return how long ago in one unit: "5 s", "3 min", "2 h", "4 d"; nothing for None."""
    if then is None:
        return ""
    seconds = max(now - then, 0)
    for unit, size, limit in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 48 * 3600)):
        if seconds < limit:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds // 86400)} d"


def times(count: int) -> str:
    """Return "1 failure", "3 failures"."""
    return "1 failure" if count == 1 else f"{count} failures"


def size(count_bytes: int | None) -> str:
    """Return "72 MB", "1.4 GB" (powers of 1000); nothing for None."""
    if count_bytes is None:
        return ""
    amount = float(count_bytes)
    for unit in ("B", "kB", "MB"):
        if amount < 999.5:
            return f"{amount:.0f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB" if amount < 999.5 else f"{amount / 1000:.1f} TB"


def no_room(host: HostStatus) -> str:
    """Say that a host's disk is down to its reserve; nothing where it is not."""
    free, reserve = host.disk_free_bytes, host.disk_reserve_bytes
    if free is None or reserve is None or free >= reserve:
        return ""
    return f"less disk is free than its reserve of {size(reserve)}: no new generation fits"


def behind(balancer: BalancerStatus) -> str:
    """Write who is behind a balancer as "2 up, 1 leaving; 3 sessions, 1 queued"."""
    states = Counter("leaving" if s.leaving else s.state for s in balancer.servers)
    counts = [f"{states[state]} {state}" for state in sorted(states, key=_STATES.index)]
    sessions = sum(s.sessions or 0 for s in balancer.servers)
    text = ", ".join(counts) or "nobody"
    text += f"; {sessions} {'session' if sessions == 1 else 'sessions'}"
    text += f", {balancer.queue} queued" if balancer.queue else ""
    return f"{text}; {balancer.problem}" if balancer.problem else text


def phases(seconds_by_phase: Mapping[str, float]) -> str:
    """Return "restore 0.21 s, probe 0.04 s" in the order given."""
    return ", ".join(f"{name} {duration(value)}" for name, value in seconds_by_phase.items())


_WISHED = {
    "name": "{}", "replica": "{}", "replicas": "to {}", "from": "from {}", "to": "to {}",
    "host": "on {}",
}  # fmt: skip

_OF_HOSTS = frozenset({"cordon", "uncordon", "fence", "remove-host", "pardon"})


def wish(kind: str, wished: Mapping[str, Any]) -> str:
    """Say a wish in words: "scale to 3", "move hello1 to b". Lists are the planner's, not said."""
    words = {**_WISHED, "host": "{}"} if kind in _OF_HOSTS else _WISHED
    parts = [
        words.get(key, f"{key}={{}}").format(value)
        for key, value in wished.items()
        if value not in (None, "") and not isinstance(value, (list, tuple, dict))
    ]
    return " ".join([kind, *parts])
