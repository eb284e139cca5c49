"""Values as text: durations, ages, sizes, columns."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from poold.cli import tables
from poold.cli.tables import Column
from poold.model.balancing import BalancerName, BalancerStatus, ListedServer
from poold.model.fleet import HostStatus


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (0.0, "0.00 s"),
        (0.341, "0.34 s"),
        (9.994, "9.99 s"),
        (9.996, "10.0 s"),
        (12.34, "12.3 s"),
        (119.96, "2 min 0 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
    ],
)
def test_durations(seconds, text):
    """A duration has the digits that matter."""
    assert tables.duration(seconds) == text


@pytest.mark.parametrize(
    ("then", "text"),
    [
        (None, ""),
        (1_000_005, "0 s"),
        (999_995, "5 s"),
        (999_880, "2 min"),
        (992_800, "2 h"),
        (0, "11 d"),
    ],
)
def test_ages(then, text):
    """An age has one unit; a clock that went back gives no negative age."""
    assert tables.age(then, 1_000_000) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, ""), (0, "0 B"), (999, "999 B"), (999_600, "1 MB"), (72_300_000, "72 MB"),
     (1_400_000_000, "1.4 GB"), (2_000_000_000_000, "2.0 TB")],
)  # fmt: skip
def test_sizes(count, text):
    """A size is rounded to a unit that people read."""
    assert tables.size(count) == text


def test_columns_are_aligned_and_empty_ones_left_out():
    """Numbers stand at the right; a column without a value is not shown; gaps are a dash."""
    columns = (Column("NAME"), Column("N", right=True), Column("NOTE"), Column("LAST"))
    text = tables.table(columns, [("a", "1", "", "x"), ("long", "100", "", "")], colour=False)
    assert text.splitlines() == ["NAME    N  LAST", "a       1  x", "long  100  -"]


@given(st.lists(st.tuples(st.text(), st.text()), max_size=5))
def test_a_table_has_one_line_a_row_whatever_is_in_it(rows):
    """No text in a cell can break a line or reach the terminal's controls."""
    text = tables.table((Column("A"), Column("B")), rows, colour=False)
    assert len(text.split("\n")) == len(rows) + 1
    assert all(line.isprintable() for line in text.split("\n"))


@pytest.mark.parametrize(
    ("kind", "wished", "text"),
    [
        ("scale", {"replicas": 0, "names": ["hello1"], "removed": []}, "scale to 0"),
        ("restore", {"name": "hello7", "host": "b"}, "restore hello7 on b"),
        ("restore", {"name": None}, "restore"),
        ("move", {"name": "hello1", "from": "a", "to": "b"}, "move hello1 from a to b"),
        ("remove", {"name": "hello1", "removed": ["hello1"]}, "remove hello1"),
        ("checkpoint", {"later": 1}, "checkpoint later=1"),
    ],
)
def test_wishes_are_words(kind, wished, text):
    """A wish reads as it was said; what the planner noted beside it is left out."""
    assert tables.wish(kind, wished) == text


def test_states_are_coloured_without_breaking_the_columns():
    """Colour surrounds the padded cell, so that widths stay right."""
    text = tables.table((Column("S"), Column("X")), [("up", "1"), ("failed", "2")], colour=True)
    assert text.splitlines()[1] == "\x1b[32mup    \x1b[0m  1"


def test_a_host_down_to_its_reserve_says_so():
    """Only where less is free than the reserve, and both are known."""
    low = HostStatus("a", "up", disk_free_bytes=10, disk_reserve_bytes=2_000_000_000)
    assert tables.no_room(low).startswith("less disk is free than its reserve of 2.0 GB")
    assert not tables.no_room(replace(low, disk_free_bytes=3_000_000_000))
    assert not tables.no_room(replace(low, disk_reserve_bytes=None))


def test_who_is_behind_a_balancer_in_a_line() -> None:
    """States are counted, sessions added up, and what may make it old is said."""
    servers = (
        ListedServer("hello1", "10.0.0.1", 1, "up", sessions=2),
        ListedServer("hello2", "10.0.0.1", 2, "draining", leaving=True, sessions=1),
        ListedServer("hello3", "10.0.0.1", 3, "up"),
    )
    behind = BalancerStatus(BalancerName("front"), servers, queue=4)
    assert tables.behind(behind) == "2 up, 1 leaving; 3 sessions, 4 queued"
    empty = BalancerStatus(BalancerName("front"), problem="cannot ask front: it is gone")
    assert tables.behind(empty) == "nobody; 0 sessions; cannot ask front: it is gone"
