"""The fault table: which fault ended in what, after how many seconds, with which promises kept.

A test with the marker `fault` is a case of a row. Whoever injects says when (`CLOCK.injected`), and
whoever saw all promises kept and the wish met, or its reason stated, says since when
(`CLOCK.converged`). It travels with the test's report, so that several processes may run shares of
the tests. `pytest --faults FILE` leaves the rows in FILE, as a page beside it, and prints
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

PROMISES = "1-3, 5-11"  # of eleven; the fourth is about balancers, and these pools have none


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
        self._failed: set[str] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Give each test the clock for itself, its fixtures included."""
        CLOCK.reset()
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Iterator[None]:
        """Send what a test measured with its last report, to whichever process writes the table."""
        report = yield
        mark = item.get_closest_marker("fault")
        if mark is not None and call.when == "teardown":
            (fault,) = mark.args
            case = {"fault": fault, **mark.kwargs, "seconds": CLOCK.seconds, "looks": CLOCK.looks}
            report.user_properties.append(("fault", case))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take a report, of this process or of one that runs a share of the tests."""
        if report.failed:
            self._failed.add(report.nodeid)
        for name, case in report.user_properties:
            if name == "fault" and report.when == "teardown":
                self._count(report.nodeid, dict(case))

    def _count(self, test: str, case: dict[str, Any]) -> None:
        row = self.rows.setdefault(
            case["fault"], Row(fault=case["fault"], how=case["how"], ends=case["ends"])
        )
        if test in self._failed:  # what it measured says nothing
            row.failed.append(test)
        elif case["seconds"]:
            row.tests.append(test)
            row.seconds += case["seconds"]
            row.looks += case["looks"]
        else:
            row.failed.append(f"{test}: nothing was measured")

    def report(self) -> dict[str, Any]:
        """Return what is left in build/faults.json."""
        rows = [row.report() for _, row in sorted(self.rows.items())]
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
