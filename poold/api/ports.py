"""What the API needs from the rest of the daemon, and nothing more.

Flows in: the daemon's parts, passed by the composition root (tests pass fakes). It does not know
how a wish is stored or how a host is reached.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from poold.agent.messages import Finding
from poold.model.fleet import (
    Change,
    ChangeId,
    Generation,
    HostStatus,
    Pool,
    PoolName,
    PoolStatus,
    Replica,
)


class ControlPort(Protocol):
    """Accepts wishes. Every call either stores one durably or raises Refused."""

    def scale(
        self,
        pool: str,
        *,
        replicas: int | None = None,
        delta: int | None = None,
        actor: str,
        reason: str = "",
    ) -> Change:
        """Wish for a number of replicas, or for so many more or fewer."""

    def restore(
        self,
        pool: str,
        *,
        name: str | None = None,
        host: str | None = None,
        actor: str,
        reason: str = "",
    ) -> Change:
        """Wish for one more replica, under a name and on a host where they are given."""

    def remove(self, replica: str, *, actor: str, reason: str = "") -> Change:
        """Wish for one replica less: this one."""

    def move(self, replica: str, *, to: str, actor: str, reason: str = "") -> Change:
        """Wish for a running replica to go on running on another host."""

    def checkpoint(self, pool: str, *, actor: str, reason: str = "") -> Change:
        """Wish for a new generation."""


class HostControlPort(Protocol):
    """Accepts what operators say of hosts. Every call is durable, or raises Refused."""

    def cordon(self, host: str, *, actor: str, reason: str = "") -> Change:
        """Have no new replica placed on a host."""

    def uncordon(self, host: str, *, actor: str, reason: str = "") -> Change:
        """Have replicas placed on a host again."""

    def fence(self, host: str, *, confirmed: bool, actor: str, reason: str = "") -> Change:
        """Take it that a host out of reach is dead: its names are free."""

    def remove(self, host: str, *, confirmed: bool, actor: str, reason: str = "") -> Change:
        """Forget a host that left the configuration."""


class StorePort(Protocol):
    """What was wished and what became of it."""

    def change(self, id: ChangeId, /) -> Change | None:  # noqa: A002
        """Return one change, None where there is none of that number."""

    def changes(self, *, pool: str | None = None, limit: int = 50) -> tuple[Change, ...]:
        """Return the newest changes first."""

    async def wait_change(
        self,
        id: ChangeId,  # noqa: A002
        /,
        *,
        after_seq: int,
        timeout_seconds: float,
    ) -> Change:
        """Return the change once its seq is above `after_seq`, or as it is when time is up."""

    def generations(self, pool: str, /) -> tuple[Generation, ...]:
        """Return a pool's generations, the newest first."""


class WorldPort(Protocol):
    """The daemon's picture of the fleet; asking it asks no host."""

    def replicas(self, pool: str | None = None) -> tuple[Replica, ...]:
        """Return all replicas, or a pool's."""

    def hosts(self) -> tuple[HostStatus, ...]:
        """Return how each host is."""

    def pools(self) -> tuple[PoolStatus, ...]:
        """Return how each pool is."""

    def sentence(self) -> str:
        """Say how the fleet is in one sentence."""


class ConfigPort(Protocol):
    """The part of the configuration that the API shows."""

    @property
    def pools(self) -> Mapping[PoolName, Pool]:
        """The configured pools."""


@dataclass(frozen=True)
class Ports:
    """Everything a view may use. `stopping` ends long polls when the daemon stops."""

    control: ControlPort
    store: StorePort
    world: WorldPort
    config: Callable[[], ConfigPort]
    logs: Callable[[str, int], Awaitable[tuple[str, ...]]]
    examine: Callable[[], Awaitable[dict[str, tuple[Finding, ...]]]]
    metrics: Callable[[], tuple[bytes, str]]
    token: Callable[[], str | None]
    host_control: HostControlPort
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
