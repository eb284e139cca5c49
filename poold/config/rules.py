"""What a well-shaped configuration may still have wrong: pure, a Config in, mistakes out.

It looks at nothing but the Config: no file, no host, no clock.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields

from poold.config.balancer_rules import balancer_mistakes, balancers_in_common, behind_mistakes
from poold.config.host_rules import fleet_mistakes, host_mistakes
from poold.config.lines import Place
from poold.config.mistake import Mistake, absolute, at, disk_reserve, port, positive
from poold.config.names import NAME_RULE, is_name
from poold.config.pool_rules import names_in_common, pool_mistakes
from poold.config.values import LONGEST_SOCKET_PATH_BYTES, Config, DaemonConfig

_OCTAL_MODE = re.compile(r"0?[0-7]{3}")
_LISTEN = re.compile(r"(\[[0-9a-fA-F:.%]+\]|[^:\s\[\]]+):(\d{1,5})")


def mistakes(config: Config) -> Iterator[Mistake]:
    """Yield everything wrong; the same place may be named more than once."""
    yield from _daemon(config.daemon, ("daemon",))
    if not config.hosts:
        yield at(("hosts",), message="cannot run anything without a host: add [hosts.NAME]")
    for name, host in config.hosts.items():
        yield from host_mistakes(host, ("hosts", name))
    yield from fleet_mistakes(config.hosts)
    for balancer in config.balancers.values():
        yield from balancer_mistakes(balancer, ("balancers", balancer.name))
    yield from balancers_in_common(config)
    for pool_name, pool in config.pools.items():
        yield from pool_mistakes(pool, config.hosts, config.daemon, ("pools", pool_name))
        yield from behind_mistakes(pool, config, ("pools", pool_name, "balancer"))
    yield from names_in_common(config.pools)


def _daemon(daemon: DaemonConfig, place: Place) -> Iterator[Mistake]:
    for key in ("state_dir", "socket", "token_file", "seal_key_file"):
        if (path := getattr(daemon, key)) is not None:
            yield from absolute(path, (*place, key))
    if len(daemon.socket.encode()) > LONGEST_SOCKET_PATH_BYTES:
        message = f"cannot be longer than {LONGEST_SOCKET_PATH_BYTES} bytes, the kernel's limit"
        yield at((*place, "socket"), message=message)
    if not _OCTAL_MODE.fullmatch(daemon.socket_mode):
        message = f'cannot be {daemon.socket_mode!r}: an octal mode such as "0660" is needed'
        yield at((*place, "socket_mode"), message=message)
    yield from disk_reserve(daemon.disk_reserve, (*place, "disk_reserve"))
    if not is_name(daemon.fleet):
        yield at((*place, "fleet"), message=f"cannot be {daemon.fleet!r}: {NAME_RULE}")
    for field in fields(daemon):
        if field.name.endswith("_seconds"):
            yield from positive(getattr(daemon, field.name), (*place, field.name))
    if daemon.listen is not None:
        yield from _listen(daemon, daemon.listen, place)


def _listen(daemon: DaemonConfig, listen: str, place: Place) -> Iterator[Mistake]:
    here = (*place, "listen")
    if match := _LISTEN.fullmatch(listen):
        yield from port(int(match[2]), here)
    else:
        yield at(here, message=f'cannot be {listen!r}: "host:port" is needed')
    if not daemon.token_file:
        yield at(
            (*place, "token_file"),
            here,
            message="cannot be left out with listen: callers over TCP need its token",
        )
