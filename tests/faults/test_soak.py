"""The kill loop in the form that fits into every run: twenty deaths, every promise after each."""

from __future__ import annotations

import json

import pytest
from soak import Result, Sample, Soak

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
    growth = result.report()["growth"]
    assert growth["leftovers"] == 0
    assert growth["fds"] <= 8, growth
    assert growth["tasks"] <= 8, growth
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
