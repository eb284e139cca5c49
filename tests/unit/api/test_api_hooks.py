"""Programs that scale: every decision with its reason, and figures to read."""

from __future__ import annotations

from dataclasses import replace

from poold.api.memory import MemoryFleet
from poold.model.balancing import BalancerName, BalancerStatus, ListedServer


async def test_a_job_is_scaled_as_nomad_does(call, fleet):
    """Count within the limits, the message in the reason; an error is no wish."""
    path = "/v1/job/hello/scale"
    body = {"Count": 2, "Target": {"Group": "hello"}, "Message": "cpu is high", "Meta": {"x": 1}}
    reply = await call("POST", path, json=body)
    assert reply.status == 202
    assert reply.json["reason"] == "cpu is high: 2 asked for: 0 to 2"
    fleet.settle(1)
    status = (await call("GET", path)).json
    assert status["JobID"] == "hello"
    assert status["TaskGroups"]["hello"] == {
        "Desired": 2, "Placed": 2, "Running": 2, "Healthy": 2, "Unhealthy": 0,
    }  # fmt: skip
    assert (await call("POST", path, json={"Count": 2})).status == 200
    for body, code in (
        ({"Count": 1}, "scale.cooling-down"),
        ({"Error": True, "Message": "no metrics"}, "scale.nothing-asked"),
        ({"Count": 1, "Target": {"Group": "web"}}, "pool.unknown"),
    ):
        assert (await call("POST", path, json=body)).json["code"] == code
    assert fleet.count("hello") == 2


async def test_the_load_is_told_or_not_known(call, fleet):
    """Sessions and queue of the balancer; when it cannot be read that is no zero."""
    fleet.settle(fleet.scale("hello", replicas=2, actor="test").id)
    plain = (await call("GET", "/v1/pools/hello/load")).json
    assert (plain["ready"], plain["count"], plain["concurrency"]) == (2, 2, None)
    servers = tuple(
        ListedServer(f"hello{n}", "10.0.0.1", n, "up", sessions=n, queue=0) for n in (1, 2)
    )
    fleet.balancer = BalancerStatus(BalancerName("front"), servers, queue=2, read_at=1.0)
    load = (await call("GET", "/v1/pools/hello/load")).json
    assert (load["sessions"], load["queue"]) == (3, 2)
    assert (load["concurrency"], load["concurrency_per_ready"]) == (5, 2.5)
    fleet.balancer = replace(fleet.balancer, problem="cannot ask front: it is gone")
    reply = await call("GET", "/v1/pools/hello/load")
    assert (reply.status, reply.json["code"]) == (503, "balancer.unread")


async def test_a_balancer_may_ask_whether_a_replica_is_ready(call, fleet):
    """200, 503 and 404: what any HTTP check understands."""
    assert (await call("GET", "/v1/replicas/hello1/ready")).status == 404
    fleet.settle(fleet.scale("hello", replicas=1, actor="test").id)
    assert (await call("GET", "/v1/replicas/hello1/ready")).status == 200
    fleet._replicas["hello1"] = replace(fleet._replicas["hello1"], state="removing")
    assert (await call("GET", "/v1/replicas/hello1/ready")).status == 503


async def test_count_is_another_word_for_replicas(call, fleet: MemoryFleet):
    """One of the three is needed; the view has how many are there."""
    assert (await call("PUT", "/v1/pools/hello/scale", json={"count": 2})).status == 202
    fleet.settle(1)
    view = (await call("GET", "/v1/pools/hello/scale")).json
    assert (view["desired"], view["count"], view["ready"]) == (2, 2, 2)
    for body in ({}, {"count": 1, "replicas": 1}, {"count": 1, "delta": 1}):
        assert (await call("PUT", "/v1/pools/hello/scale", json=body)).status == 400
