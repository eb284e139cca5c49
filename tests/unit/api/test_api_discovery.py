"""Balancers that ask get the set in their own format, and another version when it changed."""

from __future__ import annotations

import pytest

from poold.model.balancing import BalancerName, BalancerStatus, ListedServer


@pytest.fixture
def two(fleet):
    """Return the addresses of two replicas that are ready."""
    fleet.settle(fleet.scale("hello", replicas=2, actor="test").id)
    return sorted(replica.address for replica in fleet.replicas())


async def test_prometheus_gets_targets(call, two):
    """One group for each replica, with its labels."""
    groups = (await call("GET", "/v1/discovery/prometheus")).json
    assert sorted(target for group in groups for target in group["targets"]) == two
    assert {group["labels"]["pool"] for group in groups} == {"hello"}


async def test_traefik_gets_a_service(call, two):
    """An URL for each replica; a pool without one has an empty service, not none."""
    services = (await call("GET", "/v1/discovery/traefik")).json["http"]["services"]
    servers = services["hello"]["loadBalancer"]["servers"]
    assert sorted(server["url"] for server in servers) == [f"http://{place}" for place in two]


async def test_envoy_gets_a_cluster_and_a_version(call, fleet, two):
    """The same set has the same version, and asking leaves no trail."""

    async def ask(*names):
        body = {"node": {"id": "edge"}, "resource_names": list(names), "type_url": "x"}
        return (await call("POST", "/v3/discovery:endpoints", json=body)).json

    first = await ask("hello")
    (cluster,) = first["resources"]
    (group,) = cluster["endpoints"]
    found = [one["endpoint"]["address"]["socket_address"] for one in group["lb_endpoints"]]
    assert sorted(f"{one['address']}:{one['port_value']}" for one in found) == two
    assert (await ask("hello"))["version_info"] == first["version_info"]
    assert (await ask("nowhere"))["resources"][0]["endpoints"] == [{"lb_endpoints": []}]
    fleet.settle(fleet.scale("hello", replicas=1, actor="test").id)
    assert (await ask())["version_info"] != first["version_info"]
    assert fleet.calls.newest(limit=9) == ()


async def test_who_leaves_is_not_given(call, fleet, two):
    """What a balancer was told counts, not what is still up."""
    fleet.balancer = BalancerStatus(
        BalancerName("edge"),
        (
            ListedServer("hello1", "10.0.0.1", 1, "up"),
            ListedServer("hello2", "10.0.0.1", 2, "draining", leaving=True),
            ListedServer("hello3", "::1", 3, "up"),
        ),
    )
    services = (await call("GET", "/v1/discovery/traefik")).json["http"]["services"]
    urls = [server["url"] for server in services["hello"]["loadBalancer"]["servers"]]
    assert urls == ["http://10.0.0.1:1", "http://[::1]:3"]
