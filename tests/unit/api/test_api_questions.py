"""What can be asked of the daemon, over a real unix socket."""

from __future__ import annotations

import pytest

from poold import __version__


@pytest.fixture
def settled(fleet):
    """Two replicas and one generation are there."""
    for change in (
        fleet.scale("hello", replicas=2, actor="test"),
        fleet.checkpoint("hello", actor="test"),
    ):
        fleet.settle(change.id)
    return fleet


async def test_health_says_how_the_fleet_is(call, settled):
    """Health answers with the version and the fleet's sentence."""
    reply = await call("GET", "/v1/health")
    expected = {"status": "ok", "version": __version__, "sentence": "hello 2/2", "note": ""}
    assert (reply.status, reply.json) == (200, expected)


async def test_pools_are_listed(call, settled):
    """Every pool is listed with its numbers."""
    reply = await call("GET", "/v1/pools")
    assert [
        (p["name"], p["desired"], p["ready"], p["generation"]) for p in reply.json["pools"]
    ] == [("hello", 2, 2, 1)]


async def test_a_pool_shows_configuration_and_replicas_but_no_environment(call, settled):
    """One pool is shown with bounds, hosts and replicas; its environment may hold secrets."""
    reply = await call("GET", "/v1/pools/hello")
    assert reply.json["hosts"] == ["a", "b"]
    assert (reply.json["min"], reply.json["max"]) == (0, 8)
    assert [replica["name"] for replica in reply.json["replicas"]] == ["hello1", "hello2"]
    assert "env" not in reply.json


async def test_scale_can_be_read(call, settled):
    """The scale of a pool is what is wished, there, ready and allowed."""
    reply = await call("GET", "/v1/pools/hello/scale")
    shown = {"pool": "hello", "desired": 2, "count": 2, "ready": 2, "min": 0, "max": 8}
    assert reply.json == {**shown, "revision": 2}


async def test_generations_are_listed(call, settled):
    """A pool's generations come with their manifests."""
    reply = await call("GET", "/v1/pools/hello/generations")
    (generation,) = reply.json["generations"]
    assert generation["number"] == 1
    assert generation["manifest"]["cold_seconds"] == 6.2


@pytest.mark.parametrize("path", ["/v1/replicas", "/v1/replicas?pool=hello"])
async def test_replicas_are_listed(call, settled, path):
    """Replicas are listed, of all pools or of one."""
    reply = await call("GET", path)
    assert [replica["host"] for replica in reply.json["replicas"]] == ["a", "b"]


async def test_a_replica_is_shown_by_name(call, settled):
    """One replica is shown with what it took to come up."""
    reply = await call("GET", "/v1/replicas/hello2")
    assert (reply.json["name"], reply.json["seconds"]) == ("hello2", 0.34)


async def test_logs_are_the_last_lines(call, settled):
    """The tail parameter bounds the lines of a replica's output."""
    reply = await call("GET", "/v1/replicas/hello1/logs?tail=2")
    assert reply.json == {"lines": ["hello1 line 2", "hello1 line 3"]}


async def test_hosts_are_listed(call):
    """Hosts are listed with their state."""
    reply = await call("GET", "/v1/hosts")
    assert [(host["name"], host["state"]) for host in reply.json["hosts"]] == [
        ("a", "up"),
        ("b", "up"),
    ]


async def test_changes_are_listed_newest_first_and_limited(call, settled):
    """Changes come newest first; limit and pool narrow them."""
    assert [c["id"] for c in (await call("GET", "/v1/changes")).json["changes"]] == [2, 1]
    assert [c["id"] for c in (await call("GET", "/v1/changes?limit=1")).json["changes"]] == [2]
    assert (await call("GET", "/v1/changes?pool=other")).json["changes"] == []


async def test_doctor_answers_findings_by_host(call):
    """The doctor's findings stand under each host's name."""
    reply = await call("GET", "/v1/doctor")
    assert [finding["level"] for finding in reply.json["hosts"]["a"]] == ["ok", "warning"]


async def test_metrics_keep_their_own_content_type(call):
    """Metrics are text in the format that Prometheus asks for."""
    reply = await call("GET", "/metrics")
    assert reply.headers["Content-Type"] == "text/plain; version=0.0.4"
    assert reply.body == b"# nothing measured\n"
