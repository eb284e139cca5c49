"""Who takes traffic, for balancers and monitors that ask: Traefik, Envoy, Prometheus.

Flows in: parsed calls, as in `views`. Flows out: answers in their formats. The set is what a pool's
balancer was told last; of a pool without one, whoever is ready.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from poold.api.ports import Ports
from poold.api.views import Answer, Call
from poold.model.fleet import PoolStatus

ENDPOINTS: Final = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"


class TargetGroup(Struct, frozen=True):
    """One replica for Prometheus' http_sd."""

    targets: tuple[str, ...]
    labels: dict[str, str]


class TraefikView(Struct, frozen=True):
    """A dynamic configuration of Traefik's HTTP provider: a service for each pool."""

    http: dict[str, Any]


class DiscoveryRequest(Struct, frozen=True):
    """Envoy's request; an empty list of names means all."""

    resource_names: tuple[str, ...] = ()
    version_info: str = ""
    response_nonce: str = ""
    type_url: str = ENDPOINTS


class DiscoveryView(Struct, frozen=True):
    """Envoy's response. Another set has another version."""

    version_info: str
    resources: tuple[dict[str, Any], ...]
    type_url: str
    nonce: str = field(default="")


async def prometheus(ports: Ports, call: Call) -> Answer:  # noqa: ARG001
    """List ready replicas as scrape targets, with their pool and host as labels."""
    groups = tuple(
        TargetGroup(
            (replica.address,),
            {
                "pool": replica.pool,
                "replica": replica.name,
                "host": replica.host or "",
                "generation": "" if replica.generation is None else str(replica.generation),
            },
        )
        for replica in ports.world.replicas()
        if replica.state == "ready" and replica.address
    )
    return Answer(groups)


async def traefik(ports: Ports, call: Call) -> Answer:  # noqa: ARG001
    """Name a service for each pool, with a server for each replica."""
    services = {
        backend: {"loadBalancer": {"servers": [{"url": f"http://{place}"} for place in places]}}
        for backend, places in _sets(ports).items()
    }
    return Answer(TraefikView({"services": services} if services else {}))


async def envoy(ports: Ports, call: Call) -> Answer:
    """Answer Envoy's endpoint discovery over REST: a cluster for each pool."""
    asked: DiscoveryRequest = call.body
    sets = _sets(ports)
    names = asked.resource_names or tuple(sets)
    resources = tuple(_cluster(name, sets.get(name, ())) for name in names)
    version = hashlib.sha256(msgspec.json.encode(resources)).hexdigest()[:16]
    return Answer(DiscoveryView(version, resources, ENDPOINTS, version))


def _cluster(name: str, places: tuple[str, ...]) -> dict[str, Any]:
    endpoints = []
    for place in places:
        address, _, port = place.rpartition(":")
        socket = {"address": address.strip("[]"), "port_value": int(port)}
        endpoints.append({"endpoint": {"address": {"socket_address": socket}}})
    return {
        "@type": ENDPOINTS,
        "cluster_name": name,
        "endpoints": [{"lb_endpoints": endpoints}],
    }


def _sets(ports: Ports) -> dict[str, tuple[str, ...]]:
    """Return the addresses by what a pool is called at its balancer."""
    pools = ports.config().pools
    found = {}
    for status in ports.world.pools():
        configured = pools.get(status.name)
        if configured is not None:
            behind = configured.balancer
            name = behind.backend if behind is not None and behind.backend else status.name
            found[str(name)] = _places(ports, status)
    return found


def _places(ports: Ports, status: PoolStatus) -> tuple[str, ...]:
    if status.balancer is not None:
        listed = [each for each in status.balancer.servers if not each.leaving]
        hosts = [f"[{each.address}]" if ":" in each.address else each.address for each in listed]
        return tuple(f"{host}:{each.port}" for host, each in zip(hosts, listed, strict=True))
    return tuple(
        replica.address
        for replica in ports.world.replicas(status.name)
        if replica.state == "ready" and replica.address
    )
