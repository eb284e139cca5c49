"""What the demo measured, as a table and as figures; pure."""

from __future__ import annotations

from dataclasses import replace

from poold.demo import report
from poold.demo.report import Counted, Moved, Results

RESULTS = Results(
    app="wildfly",
    cold_seconds=[6.0, 8.0, 7.0],
    article_seconds=[3.0, 3.5, 3.4],
    restore_seconds=[1.0, 2.0, 1.75],
    cold_phases=[{"run": 0.5, "ready": 5.5}],
    article_phases=[{"restore": 2.5, "ready": 0.5}],
    restore_phases=[{"restore": 0.9, "ready": 0.1}, {"restore": 1.1, "ready": 0.1, "hook": 0.3}],
    article_checkpoint_seconds=4.0,
    build_phases={},
    checkpoint_bytes=1,
    packed_bytes=1,
    article_bytes=1,
    replicas=[Counted(name="hello1", host="a", address="a:1", counters=[2, 3])],
    move=Moved(
        name="hello1",
        source="a",
        target="b",
        before=4,
        after=5,
        downtime_seconds=6.25,
        phases={"capture": 2.5},
    ),
)


def test_every_row_has_its_median_its_runs_and_its_phases() -> None:
    """Cold start, the article's restore and poold's stand beside each other, each with phases."""
    cold, article, poold, move = report.rows(RESULTS)
    assert cold[1:] == ("7.00 s", "6.00  8.00  7.00", "run 0.50, ready 5.50")
    assert article[1:] == ("3.40 s", "3.00  3.50  3.40", "restore 2.50, ready 0.50")
    assert poold[1:] == ("1.75 s", "1.00  2.00  1.75", "restore 1.00, ready 0.10, hook 0.30")
    assert move == ("move hello1 a → b (downtime)", "6.25 s", "", "capture 2.50")


def test_the_file_has_the_downtime_and_the_ratios_of_medians() -> None:
    """What follows from the other figures is filled in."""
    told = report.as_json(RESULTS)
    assert told["move_downtime_seconds"] == 6.25
    assert told["ratios"] == {"cold_to_restore": 4.0, "article_to_restore": 1.94}


def test_the_picture_escapes_and_scales() -> None:
    """The longest bar is the longest time, and a name cannot break the picture."""
    drawn = report.svg(replace(RESULTS, app="<x>"))
    assert "&lt;x&gt;" in drawn
    assert 'width="400.0"' in drawn
    assert 'width="100.0"' in drawn
