"""The rules for balancers, and for pools behind them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_address
from itertools import combinations
from urllib.parse import urlsplit

from poold.config.lines import Place
from poold.config.mistake import Mistake, absolute, at, port, positive
from poold.config.names import NAME_RULE, is_name
from poold.config.shape import did_you_mean
from poold.config.values import LONGEST_SOCKET_PATH_BYTES, Config
from poold.model.balancing import (
    AnyBalancer,
    Behind,
    Caddy,
    Commanded,
    Haproxy,
    Hooked,
    Pulled,
    Rendered,
)
from poold.model.fleet import Pool
from poold.model.haproxy_words import HIGHEST_WEIGHT, is_haproxy_name, why_no_options

_TCP = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:/\s\[\]]+):(\d{1,5})")


def balancer_mistakes(balancer: AnyBalancer, place: Place) -> Iterator[Mistake]:
    """Judge one balancer."""
    if not is_name(balancer.name):
        yield at(place, message=f"cannot be a balancer's name: {NAME_RULE}")
    yield from positive(getattr(balancer, "timeout_seconds", 1), (*place, "timeout_seconds"))
    match balancer:
        case Haproxy():
            yield from _haproxy(balancer, place)
        case Rendered(template=template, path=path, command=command):
            yield from absolute(template, (*place, "template"))
            yield from absolute(path, (*place, "path"))
            yield from _program(command, (*place, "command"))
        case Commanded(command=command):
            yield from _program(command, (*place, "command"))
        case Hooked(url=url, secret_file=secret):
            yield from _url(url, (*place, "url"))
            yield from absolute(secret, (*place, "secret_file")) if secret is not None else ()
        case Caddy(url=url):
            yield from _url(url, (*place, "url"))
        case Pulled():
            pass


def _program(command: tuple[str, ...], place: Place) -> Iterator[Mistake]:
    if not command or not command[0]:
        message = "cannot be empty: a program and its arguments are needed, and no shell runs them"
        yield at(place, message=message)
    if any("\0" in word for word in command):
        yield at(place, message="cannot have a zero byte in it")


def _url(url: str, place: Place) -> Iterator[Mistake]:
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits or not url.isprintable() or " " in url:
        yield at(place, message="cannot be this: a URL that begins with http:// or https://")


def _haproxy(balancer: Haproxy, place: Place) -> Iterator[Mistake]:
    if balancer.state_file is not None:
        yield from absolute(balancer.state_file, (*place, "state_file"))
    here = (*place, "socket")
    if match := _TCP.fullmatch(balancer.socket):
        yield from port(int(match[2]), here)
    elif not balancer.socket.startswith("/"):
        message = 'an absolute path or "address:port" is needed'
        yield at(here, message=f"cannot be {balancer.socket!r}: {message}")
    elif len(balancer.socket.encode()) > LONGEST_SOCKET_PATH_BYTES:
        message = f"cannot be longer than {LONGEST_SOCKET_PATH_BYTES} bytes, the kernel's limit"
        yield at(here, message=message)
    else:
        yield from absolute(balancer.socket, here)


def balancers_in_common(config: Config) -> Iterator[Mistake]:
    """Refuse two names for one HAProxy, and slots that two pools would fill."""
    proxies = [each for each in config.balancers.values() if isinstance(each, Haproxy)]
    for one, other in combinations(proxies, 2):
        if one.socket == other.socket:
            yield at(
                ("balancers", other.name, "socket"),
                ("balancers", one.name, "socket"),
                message=f"cannot be {other.socket!r}: balancer {one.name!r} has that one already",
            )
    yield from _files_in_common(config)
    for left, right in combinations(config.pools.values(), 2):
        one_behind, other_behind = left.balancer, right.balancer
        if one_behind is None or other_behind is None or not other_behind.slots:
            continue
        if _slots(left, one_behind) == _slots(right, other_behind):
            keys = ("name", "backend", "slots")
            yield at(
                ("pools", right.name, "balancer", "slots"),
                *(("pools", pool.name, "balancer", key) for pool in (left, right) for key in keys),
                message=f"cannot be {other_behind.slots!r}: "
                f"pool {left.name!r} has those slots already",
            )


def _files_in_common(config: Config) -> Iterator[Mistake]:
    """Refuse one file for several pools."""
    for name, balancer in config.balancers.items():
        pools = [p.name for p in config.pools.values() if p.balancer and p.balancer.name == name]
        if isinstance(balancer, Rendered) and "@pool@" not in balancer.path and len(pools) > 1:
            message = f"cannot be {balancer.path!r} for {len(pools)} pools: put @pool@ into it"
            yield at(("balancers", name, "path"), message=message)


def _slots(pool: Pool, behind: Behind) -> tuple[str, str, str]:
    return behind.name, behind.backend or pool.name, behind.slots


def behind_mistakes(pool: Pool, config: Config, place: Place) -> Iterator[Mistake]:
    """Judge a pool's place behind a balancer."""
    behind = pool.balancer
    if behind is None:
        return
    if behind.name not in config.balancers:
        message = f"cannot find a balancer {behind.name!r}"
        hint = did_you_mean(behind.name, config.balancers) or ": add [balancers.NAME]"
        yield at((*place, "name"), ("balancers",), message=message + hint)
    for key in ("backend", "slots"):
        text = getattr(behind, key)
        if text and not is_haproxy_name(text):
            message = f"cannot be {text!r}: letters, digits and _.:- make a name of HAProxy's"
            yield at((*place, key), message=message)
    if not isinstance(config.balancers.get(behind.name), Haproxy):
        if behind.slots:
            message = f"cannot be set: {behind.name!r} is no HAProxy"
            yield at((*place, "slots"), (*place, "name"), message=message)
        if pool.autoscale is not None and behind.name in config.balancers:
            message = f"cannot count at {behind.name!r}: only an HAProxy tells what is under way"
            yield at((*place[:-1], "autoscale"), (*place, "name"), message=message)
        yield from positive(behind.drain_seconds, (*place, "drain_seconds"))
        return
    if why_not := why_no_options(behind.options):
        yield at((*place, "options"), message=why_not)
    if not 1 <= behind.weight <= HIGHEST_WEIGHT:
        message = f"cannot be {behind.weight}: a weight is from 1 to {HIGHEST_WEIGHT}"
        yield at((*place, "weight"), message=message)
    yield from positive(behind.drain_seconds, (*place, "drain_seconds"))
    yield from _reached_by_address(pool, config, place)


def _reached_by_address(pool: Pool, config: Config, place: Place) -> Iterator[Mistake]:
    """Refuse hosts that are published by name: HAProxy would take it, and never resolve it."""
    for name in pool.hosts:
        host = config.hosts.get(name)
        if host is not None and not _is_address(host.published_at):
            key = "publish_address" if host.publish_address else "address"
            yield at(
                ("hosts", name, key),
                place,
                message=f"cannot be {host.published_at!r} with a balancer for pool {pool.name!r}: "
                "an IP address is needed as publish_address",
            )


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text
