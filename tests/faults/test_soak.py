"""The kill loop in the form that fits into every run: twenty deaths, every promise after each."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from soak import Soak
from soak_result import Result, Sample

KILLS, SEED = 20, 20


@pytest.fixture
def lab(make_lab):
    """Two hosts for a file that is alone in killing them."""
    lab = make_lab("soak", hosts=2, image_names=("counter",), images_on=("a",))
    yield lab
    make_lab.release(lab)


@pytest.mark.lab
@pytest.mark.slow
def test_twenty_deaths(lab):
    """Whatever dies under constant wishes, the fleet comes to rest with every promise kept."""
    soak = Soak(lab, seed=SEED, application="counter")
    result = soak.run(KILLS)
    assert result.violations == [], f"seed {SEED}\n{soak.tail()}"
    assert result.kills == KILLS
    assert result.excesses() == []
    assert "Traceback" not in soak.log.read_text(), soak.tail()


def test_the_report_tells_growth():
    """Growth is the median of the last fifth of the rounds over the one of the first fifth."""
    samples = [
        Sample(rss_bytes=100 + n, fds=20, tasks=9, database_bytes=4096 * n, leftovers=0)
        for n in range(10)
    ]
    result = Result(kills=10, violations=["x"], convergences=[1.0, 4.256], samples=samples)
    assert json.loads(json.dumps(result.report())) == {
        "kills": 10,
        "violations": 1,
        "longest_convergence_seconds": 4.26,
        "growth": {
            "rss_bytes": 8, "fds": 0, "tasks": 0, "database_bytes": 8 * 4096, "leftovers": 0,
        },
    }  # fmt: skip
    assert Result().report()["growth"]["fds"] == 0


def test_growth_is_judged_by_the_kills():
    """What a kill explains may come with each; one leftover, or memory beyond that, is too much."""

    def excesses(kills, **last):
        first = Sample(rss_bytes=60 << 20, fds=20, tasks=9, database_bytes=1 << 20, leftovers=0)
        return Result(kills=kills, samples=[first, replace(first, **last)]).excesses()

    assert excesses(200) == []
    assert excesses(200, database_bytes=(1 << 20) + (469 << 10)) == []
    assert excesses(20, leftovers=1) == ["leftovers grew by 1, and may by 0 in 20 kills"]
    for name, value in (("rss_bytes", 80 << 20), ("database_bytes", 3 << 20), ("fds", 40)):
        (found,) = excesses(200, **{name: value})
        assert found.startswith(f"{name} grew by ")
