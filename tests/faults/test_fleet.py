"""Deciding grows about as the fleet does; a daemon over simulated hosts decides nothing at rest."""

from __future__ import annotations

import asyncio

import fleet
import pytest

SMALL, LARGE = 50, 200  # hosts of one pool: 1250 and 5000 replicas
MOST_SECONDS = 0.1  # of the processor; about a third of it is what is measured
WORSE_THAN_LINEAR = 2.5  # of fourfold; quadratic is another fourfold


@pytest.fixture(scope="module")
def figures():
    """Measure plans of two sizes."""
    return fleet.plans(SMALL, times=5), fleet.plans(LARGE, times=5)


@pytest.mark.parametrize("kind", ["at_rest", "host_lost", "all_missing"])
def test_a_plan_grows_with_the_fleet(figures, kind):
    """Four times the replicas take about four times the processor's time, not sixteen times."""
    small, large = (each[f"plan_{kind}_seconds"] for each in figures)
    assert large / small < WORSE_THAN_LINEAR * LARGE / SMALL, figures


@pytest.mark.parametrize("kind", ["at_rest", "host_lost"])
def test_a_plan_of_the_largest_fleet_is_made_in_time(figures, kind):
    """For 5000 replicas on 200 hosts it takes less than 100 ms of the processor."""
    assert figures[1][f"plan_{kind}_seconds"] < MOST_SECONDS, figures


def test_a_daemon_over_a_simulated_fleet(tmp_path):
    """At rest it does nothing, one wish more is one replica more, and its figures are told."""
    figures = asyncio.run(fleet.daemon(8, tmp_path))
    assert figures["rss_bytes"] > 0
    assert figures["one_wish_seconds"] > 0
    small = {"hosts": 4, "replicas": 100, "plan_seconds": 0.1, "rss_bytes": 1000}
    large = {"hosts": 8, "replicas": 200, "plan_seconds": 0.4, "rss_bytes": 2000}
    told = fleet.report([small, large])
    assert told["growth_exponent"] == {"plan_seconds": 2.0, "rss_bytes": 1.0}
    assert told["rss_bytes_per_replica"] == 10
