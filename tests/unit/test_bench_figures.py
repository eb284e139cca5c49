"""What is said of measured seconds: it must follow from them, and always the same way."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, strategies as st

from poold.bench.figures import Run, as_json, percentile, ratios, rows
from poold.bench.picture import svg

SECONDS = st.floats(min_value=0.001, max_value=100)


def _runs(path: str, *seconds: float, burst: int = 1) -> list[Run]:
    return [Run(path=path, burst=burst, seconds=each, phases={"ready": each}) for each in seconds]


def test_runs_become_rows_by_way_and_burst() -> None:
    """Median, 95th and 99th percentile of each, phases by their medians."""
    found = rows("hello", [*_runs("cold", 6, 8, 7), *_runs("podman", 1, burst=8)])
    assert [(row.path, row.burst, row.median) for row in found] == [
        ("cold", 1, 7),
        ("podman", 8, 1),
    ]
    assert (found[0].p95, found[0].p99) == (7.9, 7.98)
    assert found[0].phases == {"ready": 7}
    assert found[0].seconds == (6, 8, 7)


@given(st.lists(SECONDS, min_size=1, max_size=30))
def test_percentiles_lie_among_the_values(values: list[float]) -> None:
    """In order, and never outside of what was measured."""
    found = [percentile(values, percent) for percent in (0, 50, 95, 99, 100)]
    assert found == sorted(found)
    assert (found[0], found[-1]) == (min(values), max(values))


def test_a_way_is_compared_with_the_baselines_of_its_own_burst() -> None:
    """Twice as long is 2, sure of it where every run says so; no baseline, no ratio."""
    found = rows(
        "hello",
        [*_runs("cold", 4, 6, 8), *_runs("podman", 2, 3, 4), *_runs("podman", 9, 9, burst=2)],
    )
    (ratio,) = ratios(found)
    assert (ratio.path, ratio.against, ratio.burst) == ("podman", "cold", 1)
    assert (ratio.ratio, ratio.low, ratio.high) == (2, 2, 2)


@given(st.lists(st.tuples(SECONDS, SECONDS), min_size=2, max_size=12))
def test_a_ratio_lies_in_its_interval_or_near(pairs: list[tuple[float, float]]) -> None:
    """The same seconds always give the same interval, and its ends are in order."""
    runs = [run for slow, fast in pairs for run in (*_runs("cold", slow), *_runs("oci", fast))]
    first, second = ratios(rows("hello", runs)), ratios(rows("hello", runs))
    assert first == second
    assert first[0].low <= first[0].high


def test_the_json_can_be_read_back_by_others() -> None:
    """Rows with their seconds, ratios with their intervals, and where it was."""
    found = rows("hello", [*_runs("cold", 2), *_runs("article", 1)])
    read = json.loads(json.dumps(as_json(found, ratios(found), {"host": "a"})))
    assert read["about"] == {"host": "a"}
    assert [(row["app"], row["path"], row["burst"]) for row in read["rows"]] == [
        ("hello", "cold", 1), ("hello", "article", 1),
    ]  # fmt: skip
    assert {"seconds", "median", "p95", "p99", "phases"} <= set(read["rows"][0])
    assert {(each["path"], each["against"]) for each in read["ratios"]} == {
        ("cold", "article"), ("article", "cold"),
    }  # fmt: skip


def test_the_picture_is_a_picture() -> None:
    """Well-formed, one bar a way, longer for what took longer, names escaped."""
    drawn = ET.fromstring(svg(rows("<hello>", [*_runs("cold", 4), *_runs("podman", 1)])))
    bars = [
        float(bar.attrib["width"])
        for bar in drawn.iter("{http://www.w3.org/2000/svg}rect")
        if "rx" in bar.attrib
    ]
    assert bars[0] == pytest.approx(4 * bars[1], rel=0.01)
    assert any("<hello>" in (text.text or "") for text in drawn.iter())
