"""The fault table: which fault ended in what, after how many seconds, with which promises kept.

A test with the marker `fault` is a case of a row. Whoever injects says when (`CLOCK.injected`), and
whoever saw all promises kept and the wish met, or its reason stated, says since when
(`CLOCK.converged`). `pytest --faults FILE` leaves the rows in FILE, as a page beside it, and prints
them.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

PROMISES = "1-3, 5-11"  # of eleven; the fourth is about balancers, and there are none yet


class Clock:
    """The time of one test between its fault and the rest afterwards."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin a test."""
        self.injected_at: float | None = None
        self.seconds: list[float] = []
        self.looks = 0

    def injected(self) -> None:
        """Note that something begins to go wrong now; of several moments the first counts."""
        if self.injected_at is None:
            self.injected_at = time.monotonic()

    def looked(self) -> None:
        """Note that every promise was asked for once."""
        self.looks += 1

    def converged(self, at: float) -> None:
        """Note since when all was well; the next fault of the test is a case of its own."""
        if self.injected_at is not None:
            self.seconds.append(at - self.injected_at)
            self.injected_at = None


CLOCK = Clock()


@dataclass(slots=True, kw_only=True)
class Row:
    """One fault with all its cases."""

    fault: str
    how: str
    ends: str
    tests: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    looks: int = 0
    failed: list[str] = field(default_factory=list)

    def report(self) -> dict[str, Any]:
        """Return the row of the file."""
        return {
            "fault": self.fault,
            "injected": self.how,
            "ends_in": self.ends,
            "cases": len(self.seconds),
            "seconds_to_converge": {
                "median": round(statistics.median(self.seconds), 1),
                "longest": round(max(self.seconds), 1),
            }
            if self.seconds
            else None,
            "promises_checked": PROMISES,
            "times_checked": self.looks,
            "failed": self.failed,
            "tests": self.tests,
        }


class Table:
    """A plugin of pytest that collects the rows."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Give each test the clock for itself, its fixtures included."""
        CLOCK.reset()
        result = yield
        if (row := self._row_of(item)) is not None:
            if item.nodeid in row.failed:
                pass  # what it measured says nothing
            elif CLOCK.seconds:
                row.tests.append(item.nodeid)
                row.seconds += CLOCK.seconds
                row.looks += CLOCK.looks
            else:
                row.failed.append(f"{item.nodeid}: nothing was measured")
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Iterator[None]:
        """Note who failed."""
        report = yield
        row = self._row_of(item)
        if row is not None and report.failed and item.nodeid not in row.failed:
            row.failed.append(item.nodeid)
        return report

    def _row_of(self, item: pytest.Item) -> Row | None:
        mark = item.get_closest_marker("fault")
        if mark is None:
            return None
        (fault,) = mark.args
        return self.rows.setdefault(fault, Row(fault=fault, **mark.kwargs))

    def report(self) -> dict[str, Any]:
        """Return what is left in build/faults.json."""
        rows = [row.report() for row in self.rows.values()]
        return {
            "date": time.strftime("%Y-%m-%d"),
            "rows": len(rows),
            "cases": sum(row["cases"] for row in rows),
            "failed": sum(len(row["failed"]) for row in rows),
            "faults": rows,
        }

    def write(self, path: Path) -> None:
        """Leave the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.report(), indent=2) + "\n")
        path.with_suffix(".md").write_text(as_markdown(self.report()) + "\n")


def as_markdown(report: dict[str, Any]) -> str:
    """Return the table as Markdown, for a page or a terminal."""
    lines = [
        "| Fault | Injected how | Ends in | Cases | Seconds: median, longest | Promises checked |",
        "|---|---|---|---:|---:|---|",
    ]
    for row in report["faults"]:
        took = row["seconds_to_converge"]
        seconds = f"{took['median']}, {took['longest']}" if took else "not measured"
        if row["failed"]:
            seconds += f"; FAILED {len(row['failed'])}"
        checked = f"{row['promises_checked']}; {row['times_checked']} times"
        cells = (row["fault"], row["injected"], row["ends_in"], str(row["cases"]), seconds, checked)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
