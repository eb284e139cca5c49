"""From the text of the configuration to a `Config`, or to all of its mistakes at once.

Flows in: text and what to call it; flows out: a Config, or InvalidConfig with every complaint, each
with its dotted path and line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tomli

from poold.config.layout import (
    BALANCERS,
    DAEMON_KEYS,
    HOST_KEYS,
    POOL_KEYS,
    balancer_keys,
    pool_from,
)
from poold.config.lines import Lines, Place
from poold.config.rules import mistakes
from poold.config.shape import Complain, did_you_mean, read_each, read_keys
from poold.config.values import Config, DaemonConfig
from poold.errors import Refused
from poold.model.balancing import AnyBalancer, BalancerName
from poold.model.fleet import Host, HostName, Pool, PoolName

_SECTIONS = ("daemon", "hosts", "balancers", "pools")
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+\Z")


@dataclass(frozen=True, slots=True)
class Complaint:
    """One mistake: where, and what cannot be."""

    path: str
    line: int
    message: str


class InvalidConfig(Refused):
    """The text is no configuration; `problems` has all reasons, in the order of their lines."""

    def __init__(self, source: str, problems: tuple[Complaint, ...]) -> None:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        self.source = source
        self.problems = problems
        super().__init__(
            "config.invalid",
            f"cannot use the configuration {source}: {count}",
            hint=f"poold config check {source}",
            detail="\n".join(self.lines()),
        )

    def lines(self) -> tuple[str, ...]:
        """Return the problems as compilers print them."""
        return tuple(
            f"{self.source}:{problem.line}: {problem.path}: {problem.message}"
            if problem.path
            else f"{self.source}:{problem.line}: {problem.message}"
            for problem in self.problems
        )


def parse(text: str, *, source: str) -> Config:
    """Read a configuration; `source` is what complaints call it. Raises InvalidConfig."""
    try:
        tree = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        # Only its message: the error itself holds the whole document, secrets included.
        complaint = Complaint("", error.lineno, f"cannot read this as TOML: {error.msg}")
        raise InvalidConfig(source, (complaint,)) from None
    found: dict[Place, str] = {}
    config = _read(tree, found.setdefault)
    wrong_shape = tuple(found)
    for mistake in mistakes(config):
        # A default that stands in for something wrong must not be blamed.
        if not any(_touches(place, wrong) for place in mistake.places for wrong in wrong_shape):
            found.setdefault(mistake.places[0], mistake.message)
    if not found:
        return config
    lines = Lines(text)
    raise InvalidConfig(
        source,
        tuple(
            sorted(
                (Complaint(dotted(at), lines.of(at), text) for at, text in found.items()),
                key=lambda problem: problem.line,
            )
        ),
    )


def dotted(place: Place) -> str:
    """Return a place as it would be written in TOML: pools.hello.warmup[0].path."""
    text = ""
    for step in place:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{step}" if _PLAIN_KEY.match(step) else f".{json.dumps(step)}"
    return text.removeprefix(".")


def _read(tree: Mapping[str, Any], complain: Complain) -> Config:
    for name in tree.keys() - _SECTIONS:
        complain((name,), f"cannot use this key{did_you_mean(name, _SECTIONS)}")

    def host(name: str, table: Any, place: Place) -> Host:
        return Host(name=HostName(name), **read_keys(HOST_KEYS, table, place, complain))

    def balancer(name: str, table: Any, place: Place) -> AnyBalancer:
        kind = table.get("kind") if isinstance(table, dict) else None
        values = read_keys(balancer_keys(kind), table, place, complain)
        return BALANCERS[values["kind"]](name=BalancerName(name), **values)

    def pool(name: str, table: Any, place: Place) -> Pool:
        return pool_from(name, read_keys(POOL_KEYS, table, place, complain), tuple(hosts))

    daemon = read_keys(DAEMON_KEYS, tree.get("daemon", {}), ("daemon",), complain)
    hosts: dict[HostName, Host] = read_each(tree.get("hosts", {}), ("hosts",), complain, host)
    balancers: dict[BalancerName, AnyBalancer] = read_each(
        tree.get("balancers", {}), ("balancers",), complain, balancer
    )
    pools: dict[PoolName, Pool] = read_each(tree.get("pools", {}), ("pools",), complain, pool)
    return Config(daemon=DaemonConfig(**daemon), hosts=hosts, balancers=balancers, pools=pools)


def _touches(one: Place, other: Place) -> bool:
    """Is one of the places inside the other, or the same?"""
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]
