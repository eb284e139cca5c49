"""The rules for pools and their applications."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from itertools import combinations
from typing import Any

from poold.config.layout import REPLICA_NAME_KEY
from poold.config.lines import Place
from poold.config.mistake import Mistake, absolute, at, at_least, port, positive
from poold.config.names import NAME_RULE, common_name, is_name, why_no_pattern
from poold.config.shape import did_you_mean
from poold.config.values import DaemonConfig
from poold.model.application import Application, Hook
from poold.model.fleet import HostName, Pool, PoolName

# As podman reads sizes: a number and one of b, k, m, g, also written KiB or MB.
_MEMORY = re.compile(r"\d+(\.\d+)?(b|[kmgt](i?b)?)?", re.IGNORECASE)
_METHOD = re.compile(r"[A-Z]+")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # a token of RFC 9110
_LONGEST_PAUSE_SECONDS = 86_400


def pool_mistakes(
    pool: Pool, hosts: Mapping[HostName, object], daemon: DaemonConfig, place: Place
) -> Iterator[Mistake]:
    """Judge one pool, its application included."""
    if not is_name(pool.name):
        yield at(place, message=f"cannot be a pool's name: {NAME_RULE}")
    elif why_not := why_no_pattern(pool.replica_name):
        yield at((*place, REPLICA_NAME_KEY), message=why_not)
    yield from _counts(pool, place)
    yield from _where(pool, hosts, place)
    yield from _values(pool.application, place)
    yield from _application(pool.application, place)
    yield from _liveness(pool, (*place, "liveness"))
    yield from _asked_ports(pool, place)
    yield from _roll(pool, (*place, "roll"))
    yield from _scaling(pool, (*place, "scaling"))
    yield from _autoscale(pool, (*place, "autoscale"))
    yield from _deadlines(pool.application, daemon, place)


def names_in_common(pools: Mapping[PoolName, Pool]) -> Iterator[Mistake]:
    """Refuse patterns of two pools that can make the same name: a name is one container's."""
    for one, other in combinations(pools.values(), 2):
        if why_no_pattern(one.replica_name) or why_no_pattern(other.replica_name):
            continue
        if name := common_name(one.replica_name, other.replica_name):
            yield at(
                ("pools", other.name, REPLICA_NAME_KEY),
                ("pools", one.name, REPLICA_NAME_KEY),
                message=f"cannot be {other.replica_name!r}: with {one.replica_name!r} of pool "
                f"{one.name!r} both could have a replica {name!r}",
            )


def _counts(pool: Pool, place: Place) -> Iterator[Mistake]:
    lows = {"min": 0, "replicas": 0, "max": 0, "keep_generations": 1, "spares": 0}
    for key, low in lows.items():
        yield from at_least(low, getattr(pool, key), (*place, key))
    yield from positive(pool.keep_days, (*place, "keep_days"))
    yield from positive(pool.spare_max_age_seconds, (*place, "spare_max_age_seconds"))
    yield from positive(pool.keep_bytes, (*place, "keep_bytes"))
    low_place, wish, high = ((*place, key) for key in ("min", "replicas", "max"))
    if pool.min > pool.max:
        yield at(low_place, high, message=f"cannot be {pool.min}, above max = {pool.max}")
    elif pool.replicas < pool.min:
        yield at(wish, low_place, message=f"cannot be {pool.replicas}, below min = {pool.min}")
    elif pool.replicas > pool.max:
        yield at(wish, high, message=f"cannot be {pool.replicas}, above max = {pool.max}")


def _where(pool: Pool, hosts: Mapping[HostName, object], place: Place) -> Iterator[Mistake]:
    listed, builder = (*place, "hosts"), (*place, "builder")
    if not pool.hosts:
        yield at(listed, ("hosts",), message="cannot be empty: a pool runs on one host or more")
    for index, name in enumerate(pool.hosts):
        if name not in hosts:
            message = f"cannot find a host {name!r}{did_you_mean(name, hosts)}"
            yield at((*listed, index), message=message)
        elif name in pool.hosts[:index]:
            yield at((*listed, index), message=f"cannot name the host {name!r} twice")
    if pool.hosts and pool.builder not in pool.hosts:
        message = f"cannot be {pool.builder!r}{did_you_mean(pool.builder, pool.hosts)}"
        yield at(builder, listed, message=f"{message}: it must be one of the pool's hosts")


def _values(value: Any, place: Place) -> Iterator[Mistake]:
    """Judge what a key's name alone says, wherever it stands in the pool's table."""
    for field in fields(value):
        inner, here = getattr(value, field.name), (*place, field.name)
        if field.name == "port":
            yield from port(inner, here)
        elif field.name == "stop_timeout_seconds":
            yield from at_least(0, inner, here)
        elif field.name.endswith(("_seconds", "_ms")) or field.name in ("cpus", "pids"):
            yield from positive(inner, here)
        elif field.name == "path" and not inner.startswith("/"):
            yield at(here, message=f'cannot be {inner!r}: it must begin with "/"')
        elif field.name == "method" and not _METHOD.fullmatch(inner):
            yield at(here, message=f"cannot be {inner!r}: a method such as GET or POST is needed")
        elif field.name == "repeat":
            yield from at_least(1, inner, here)
        elif is_dataclass(inner):
            yield from _values(inner, here)
        elif isinstance(inner, tuple):
            for index, item in enumerate(inner):
                if is_dataclass(item):
                    yield from _values(item, (*here, index))


def _application(app: Application, place: Place) -> Iterator[Mistake]:
    if not app.image or any(mark.isspace() for mark in app.image) or app.image.startswith("-"):
        yield at((*place, "image"), message=f"cannot be {app.image!r}: a reference is needed")
    yield from at_least(0, app.slots, (*place, "slots"))
    for key in ("network", "user"):
        if getattr(app, key) == "":
            yield at((*place, key), message="cannot be empty")
    if app.limits.memory is not None and not _MEMORY.fullmatch(app.limits.memory):
        yield at(
            (*place, "limits", "memory"),
            message=f'cannot be {app.limits.memory!r}: a size such as "512m" or "2g" is needed',
        )
    yield from _ports(app, place)
    yield from _mounts(app, place)
    yield from _texts(app, place)
    for key in ("readiness", "before_checkpoint", "after_restore"):
        command = getattr(getattr(app, key), "command", None)
        if command is not None and not (command and command[0]):
            yield at((*place, key, "command"), message="cannot be empty")


def _liveness(pool: Pool, place: Place) -> Iterator[Mistake]:
    asked, app = pool.liveness, pool.application
    if asked is None:
        return
    for key in ("interval_seconds", "timeout_seconds"):
        yield from positive(getattr(asked, key), (*place, key))
    yield from at_least(1, asked.failures, (*place, "failures"))
    kind = asked.kind or app.readiness.kind
    for key, of_kinds in (("path", ("http",)), ("port", ("http", "tcp")), ("command", ("exec",))):
        if getattr(asked, key) and kind not in of_kinds:
            yield at((*place, key), place, message=f'cannot be used with kind "{kind}"')
    if asked.path is not None and not asked.path.startswith("/"):
        yield at((*place, "path"), message=f'cannot be {asked.path!r}: it must begin with "/"')
    if kind == "exec" and not (asked.command or getattr(app.readiness, "command", ())):
        yield at((*place, "command"), place, message="cannot be left out: an array is needed")


def _asked_ports(pool: Pool, place: Place) -> Iterator[Mistake]:
    """Refuse to ask at a port that is not published: a probe there would never be answered."""
    app = pool.application
    asked: list[tuple[object, Place]] = [
        (getattr(app, key), (*place, key))
        for key in ("readiness", "before_checkpoint", "after_restore")
    ]
    asked += [(request, (*place, "warmup", index)) for index, request in enumerate(app.warmup)]
    for one, here in (*asked, (pool.liveness, (*place, "liveness"))):
        number = getattr(one, "port", None)
        if number is not None and number not in (app.port, *app.extra_ports):
            places = ((*here, "port"), (*place, "port"), (*place, "extra_ports"))
            yield at(*places, message="cannot be asked: it is neither port nor in extra_ports")


def _scaling(pool: Pool, place: Place) -> Iterator[Mistake]:
    if pool.scaling.step is not None:
        yield from at_least(1, pool.scaling.step, (*place, "step"))
    for key in ("out_after_seconds", "in_after_seconds"):
        value = getattr(pool.scaling, key)
        if not 0 <= value <= _LONGEST_PAUSE_SECONDS:
            message = f"cannot be {value:g}: 0 to {_LONGEST_PAUSE_SECONDS} seconds"
            yield at((*place, key), message=message)


def _autoscale(pool: Pool, place: Place) -> Iterator[Mistake]:
    settings = pool.autoscale
    if settings is None:
        return
    if pool.balancer is None:
        message = f"cannot count without a balancer: add [pools.{pool.name}.balancer]"
        yield at(place, message=message)
    for key in ("target", "window_seconds", "panic_seconds"):
        yield from positive(getattr(settings, key), (*place, key))
    if settings.panic_seconds > settings.window_seconds:
        message = f"cannot be longer than the window, {settings.window_seconds:g} s"
        yield at((*place, "panic_seconds"), (*place, "window_seconds"), message=message)


def _roll(pool: Pool, place: Place) -> Iterator[Mistake]:
    surge, unavailable = (*place, "surge"), (*place, "unavailable")
    yield from at_least(0, pool.roll.surge, surge)
    yield from at_least(0, pool.roll.unavailable, unavailable)
    if pool.roll.surge == pool.roll.unavailable == 0:
        message = "cannot be 0 with surge = 0: no replica could ever be replaced"
        yield at(unavailable, surge, place, message=message)


def _ports(app: Application, place: Place) -> Iterator[Mistake]:
    for index, number in enumerate(app.extra_ports):
        here = (*place, "extra_ports", index)
        yield from port(number, here)
        if number == app.port or number in app.extra_ports[:index]:
            yield at(here, (*place, "port"), message=f"cannot publish port {number} twice")


def _mounts(app: Application, place: Place) -> Iterator[Mistake]:
    targets: list[tuple[str, Place]] = []
    for index, volume in enumerate(app.volumes):
        here = (*place, "volumes", index)
        yield from _mountable(volume.source, (*here, "source"))
        yield from _mountable(volume.target, (*here, "target"))
        targets.append((volume.target, (*here, "target")))
    for index, entry in enumerate(app.tmpfs):
        target = entry.partition(":")[0]
        yield from absolute(target, (*place, "tmpfs", index))
        targets.append((target, (*place, "tmpfs", index)))
    for (target, here), (other, there) in combinations(targets, 2):
        if target.rstrip("/") == other.rstrip("/"):
            yield at(there, here, message=f"cannot mount {other!r} twice")
    for index, path in enumerate(app.checkpoint.scan_paths):
        yield from absolute(path, (*place, "checkpoint", "scan_paths", index))


def _mountable(path: str, place: Place) -> Iterator[Mistake]:
    yield from absolute(path, place)
    if ":" in path:
        yield at(place, message=f"cannot be {path!r}: podman separates by colons")


def _texts(app: Application, place: Place) -> Iterator[Mistake]:
    """Judge names in tables; their values may be secrets and are never shown."""
    for name, value in app.env.items():
        here = (*place, "env", name)
        if not name or "=" in name or "\0" in name or "\n" in name:
            yield at(here, message=f"cannot be the name of a variable: {name!r}")
        elif "\0" in value:
            yield at(here, message="cannot have a zero byte in it")
    for index, request in enumerate(app.warmup):
        for name, value in request.headers.items():
            here = (*place, "warmup", index, "headers", name)
            if not _HEADER.fullmatch(name):
                yield at(here, message=f"cannot be the name of a header: {name!r}")
            elif any(mark in value for mark in "\r\n\0"):
                yield at(here, message="cannot have a line break or a zero byte in it")
        twice = [
            name for name, count in Counter(map(str.lower, request.headers)).items() if count > 1
        ]
        for name in twice:
            here = (*place, "warmup", index, "headers")
            yield at(here, message=f"cannot send the header {name!r} twice")


def _deadlines(app: Application, daemon: DaemonConfig, place: Place) -> Iterator[Mistake]:
    """Refuse waits that the daemon's own deadlines would always cut short."""
    probe = app.readiness.deadline_seconds
    start = probe + _hook_seconds(app.after_restore) + app.stop_timeout_seconds
    freeze = app.checkpoint.quiesce_deadline_seconds + app.checkpoint.timeout_seconds
    build = start + probe + _hook_seconds(app.before_checkpoint) + freeze
    for key, needed, parts in (
        ("action_deadline_seconds", start, ("readiness", "after_restore", "stop_timeout_seconds")),
        ("build_deadline_seconds", build, ("readiness", "before_checkpoint", "checkpoint")),
    ):
        allowed = getattr(daemon, key)
        if allowed < needed < float("inf"):
            yield at(
                ("daemon", key),
                *((*place, part) for part in parts),
                message=f"cannot be {allowed:g}: the deadlines of pool {place[-1]!r} "
                f"add up to {needed:g} seconds",
            )


def _hook_seconds(hook: Hook | None) -> float:
    return hook.timeout_seconds if hook else 0.0
