"""The rules for hosts: each alone, and none in the way of another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations

from poold.config.lines import Place
from poold.config.mistake import (
    Mistake,
    absolute,
    at,
    at_least,
    disk_reserve,
    port,
    port_range,
)
from poold.config.names import NAME_RULE, is_name
from poold.model.fleet import Host, HostName

_FOR_SSH = ("address", "key_file", "known_hosts_file")
_DEFAULT_ADDRESS = Host.address


def host_mistakes(host: Host, place: Place) -> Iterator[Mistake]:
    """Judge one host."""
    if not is_name(host.name):
        yield at(place, message=f"cannot be a host's name: {NAME_RULE}")
    yield from port(host.port, (*place, "port"))
    yield from at_least(1, host.max_replicas, (*place, "max_replicas"))
    yield from absolute(host.agent_dir, (*place, "agent_dir"))
    if port_range(host.publish_ports) is None:
        yield at(
            (*place, "publish_ports"),
            message=f'cannot be {host.publish_ports!r}: a range such as "20000-20999" is needed',
        )
    yield from disk_reserve(host.disk_reserve, (*place, "disk_reserve"))
    for key in ("address", "publish_address", "user", "python"):
        text = getattr(host, key)
        may_be_empty = key == "publish_address"
        if not may_be_empty and not text:
            yield at((*place, key), message="cannot be empty")
        elif text.startswith("-") or any(mark.isspace() or mark == "\0" for mark in text):
            yield at((*place, key), message=f"cannot be {text!r}: no blanks, no dash in front")
    for key in ("key_file", "known_hosts_file"):
        if path := getattr(host, key):
            yield from absolute(path, (*place, key))
    if host.kind == "ssh":
        yield from _reachable_by_ssh(host, place)


def _reachable_by_ssh(host: Host, place: Place) -> Iterator[Mistake]:
    kind = (*place, "kind")
    if host.address == _DEFAULT_ADDRESS:
        yield at(
            (*place, "address"),
            kind,
            message='cannot be left out for a host of kind "ssh" (this machine is kind "local")',
        )
    if not host.key_file:
        yield at(
            (*place, "key_file"),
            kind,
            message='cannot be left out for a host of kind "ssh": the private key to log in with',
        )
    if not host.known_hosts_file:
        yield at(
            (*place, "known_hosts_file"),
            kind,
            message='cannot be left out for a host of kind "ssh": '
            "its key is pinned (ssh-keyscan writes such a file; compare it with the host's own)",
        )


def fleet_mistakes(hosts: Mapping[HostName, Host]) -> Iterator[Mistake]:
    """Judge the hosts against each other: two names for one machine break every promise."""
    for (name, one), (other_name, other) in combinations(hosts.items(), 2):
        here, there = ("hosts", name), ("hosts", other_name)
        if one.kind == other.kind == "local":
            yield at(
                (*there, "kind"),
                (*here, "kind"),
                message=f'cannot be "local" twice: host {name!r} is this machine already',
            )
        elif (one.kind, one.address, one.port) == (other.kind, other.address, other.port):
            yield at(
                (*there, "address"),
                *((*side, key) for side in (here, there) for key in ("kind", "address", "port")),
                message=f"cannot be {other.address!r}: host {name!r} has that address already",
            )
        elif one.published_at == other.published_at and _overlap(one, other):
            keys = ("address", "publish_address", "publish_ports")
            yield at(
                (*there, "publish_ports"),
                *((*side, key) for side in (here, there) for key in keys),
                message=f"cannot share ports with host {name!r}: "
                f"both publish at {other.published_at}",
            )


def _overlap(one: Host, other: Host) -> bool:
    left, right = port_range(one.publish_ports), port_range(other.publish_ports)
    return left is not None and right is not None and left[0] <= right[1] and right[0] <= left[1]
