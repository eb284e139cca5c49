"""What sends traffic to a pool's replicas, and what part of it a pool has.

Written by the operator (`[balancers.NAME]`, and the pool's table `balancer`). Standard library
only, Python 3.9; annotations are resolved at run time there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NewType, Optional, Union

BalancerName = NewType("BalancerName", str)


@dataclass(frozen=True)
class Haproxy:
    """An HAProxy, and how its runtime API is reached.

    `socket` is a path, or "address:port" of a socket that listens on TCP. With `master` it is the
    master's socket (`haproxy -W -S …`), which passes commands on to the worker.
    """

    name: BalancerName
    socket: str
    kind: Literal["haproxy"] = "haproxy"
    master: bool = False
    state_file: Optional[str] = None  # `server-state-file` of its configuration; None: not written
    timeout_seconds: float = 2.0  # of one command


@dataclass(frozen=True)
class Rendered:
    """Any balancer that reads a file: it is rendered from a template, then a command is run.

    `@pool@` in the path is the pool's name: there is a file for each.
    """

    name: BalancerName
    kind: Literal["file"]
    template: str
    path: str
    command: tuple[str, ...]
    timeout_seconds: float = 10.0


@dataclass(frozen=True)
class Commanded:
    """A program that gets the set as JSON on its standard input."""

    name: BalancerName
    kind: Literal["command"]
    command: tuple[str, ...]
    timeout_seconds: float = 10.0


@dataclass(frozen=True)
class Hooked:
    """A URL that the set is posted to as JSON, signed where there is a secret."""

    name: BalancerName
    kind: Literal["webhook"]
    url: str
    secret_file: Optional[str] = None
    timeout_seconds: float = 5.0


@dataclass(frozen=True)
class Caddy:
    """Caddy's admin API; a pool's backend is the `@id` of its reverse_proxy."""

    name: BalancerName
    kind: Literal["caddy"]
    url: str = "http://127.0.0.1:2019"
    timeout_seconds: float = 5.0


@dataclass(frozen=True)
class Pulled:
    """A balancer that asks poold itself: Traefik's HTTP provider, Envoy's endpoint discovery."""

    name: BalancerName
    kind: Literal["pull"]


AnyBalancer = Union[Haproxy, Rendered, Commanded, Hooked, Caddy, Pulled]


@dataclass(frozen=True)
class Behind:
    """A pool's place behind a balancer. `slots`, `options` and `weight` are HAProxy's only.

    `slots` is the prefix of a `server-template`: its servers are used. Empty: servers are added
    under the replicas' names and deleted. `options` are words of HAProxy's server line.
    """

    name: BalancerName
    backend: str = ""  # "" means the pool's name
    slots: str = ""
    options: str = "check"
    weight: int = 100
    drain_seconds: float = 30.0  # then what is left on a replica that leaves is cut, and counted


@dataclass(frozen=True)
class ListedServer:
    """An entry of a pool in its balancer. Counts that it did not tell are None."""

    name: str  # the balancer's: a replica's, or a slot's
    address: str
    port: int
    state: Literal["up", "down", "draining", "maintenance"]
    leaving: bool = False  # the pool wants it there no more
    sessions: Optional[int] = None
    queue: Optional[int] = None


@dataclass(frozen=True)
class BalancerStatus:
    """Who is behind a pool's balancer, as it was read last; `problem` says why that may be old."""

    name: BalancerName
    servers: tuple[ListedServer, ...] = ()
    queue: Optional[int] = None  # requests that wait for any of them
    read_at: Optional[float] = None  # seconds since the epoch
    problem: str = ""
