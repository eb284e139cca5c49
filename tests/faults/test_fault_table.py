"""The fault table tells each row's cases, seconds and failures, and is a page as well."""

from __future__ import annotations

import json

import pytest
from fault_table import Clock, Row, Table


def test_a_row_is_told():
    """Cases of one fault are one row: median and longest, and who failed."""
    table = Table()
    table.rows["a host dies"] = Row(
        fault="a host dies", how="killed", ends="restored elsewhere",
        tests=["t1", "t2", "t3"], seconds=[1.0, 2.04, 9.96], looks=7, failed=["t4"],
    )  # fmt: skip
    table.rows["never tried"] = Row(fault="never tried", how="not", ends="nothing")
    told = json.loads(json.dumps(table.report()))
    assert (told["rows"], told["cases"], told["failed"]) == (2, 3, 1)
    dies, never = told["faults"]
    assert dies["seconds_to_converge"] == {"median": 2.0, "longest": 10.0}
    assert dies["times_checked"] == 7
    assert never["seconds_to_converge"] is None


def test_it_is_written_as_a_page_too(tmp_path):
    """One line per fault, with what failed in plain sight."""
    table = Table()
    table.rows["x"] = Row(
        fault="x", how="so", ends="well", tests=["t"], seconds=[1.0], looks=2, failed=["u"]
    )
    table.write(tmp_path / "build" / "faults.json")
    assert json.loads((tmp_path / "build" / "faults.json").read_text()) == table.report()
    page = (tmp_path / "build" / "faults.md").read_text()
    assert "| x | so | well | 1 | 1.0, 1.0; FAILED 1 | 1-3, 5-11; 2 times |" in page


def _report(test, when, outcome, case=None):
    return pytest.TestReport(
        test, ("x.py", 1, test), {}, outcome, None, when,
        user_properties=[("fault", case)] if case else [],
    )  # fmt: skip


def test_reports_of_any_process_make_the_rows():
    """A test that failed anywhere, or measured nothing, is no case of its row."""
    table, case = Table(), {"fault": "x", "how": "so", "ends": "well", "seconds": [2.0], "looks": 3}
    for test, outcome, measured in (
        ("good", "passed", case),
        ("bad", "failed", case),
        ("idle", "passed", {**case, "seconds": []}),
    ):
        table.pytest_runtest_logreport(_report(test, "call", outcome))
        table.pytest_runtest_logreport(_report(test, "teardown", "passed", measured))
    (row,) = table.rows.values()
    assert (row.tests, row.seconds, row.looks) == (["good"], [2.0], 3)
    assert row.failed == ["bad", "idle: nothing was measured"]


def test_the_clock_counts_from_the_first_fault():
    """Of several moments the first counts, rest ends it, and rest without a fault is no case."""
    clock = Clock()
    clock.converged(5.0)
    assert clock.seconds == []
    clock.injected()
    first = clock.injected_at
    clock.injected()
    assert clock.injected_at == first
    clock.converged(first + 3.0)
    assert clock.seconds == [3.0]
    clock.converged(first + 9.0)
    assert clock.seconds == [3.0]
