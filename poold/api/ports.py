"""What the API needs from the rest of the daemon, and nothing more.

Flows in: the daemon's parts, passed by the composition root (tests pass fakes). It does not know
how a wish is stored or how a host is reached.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from poold.agent.messages import Finding
from poold.model.events import AcceptedCall, Event, Explanation
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
from poold.store.calls import Remembered


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

    def import_archive(
        self, pool: str, *, file: str, host: str | None = None, actor: str, reason: str = ""
    ) -> Change:
        """Wish for a generation made of an archive that podman exported, a file on that host."""

    def count(self, pool: str) -> int:
        """Return how many replicas are wished now, by the last call too."""


class HostControlPort(Protocol):
    """Accepts what operators say of hosts. Every call is durable, or raises Refused."""

    def cordon(self, host: str, *, actor: str, reason: str = "") -> Change:
        """Have no new replica placed on a host."""

    def uncordon(self, host: str, *, actor: str, reason: str = "") -> Change:
        """Have replicas placed on a host again."""

    def pardon(self, host: str, *, pool: str = "", actor: str, reason: str = "") -> Change:
        """Have quarantined generations tried on a host again."""

    def fence(self, host: str, *, confirmed: bool, actor: str, reason: str = "") -> Change:
        """Take it that a host out of reach is dead: its names are free."""

    def remove(self, host: str, *, confirmed: bool, actor: str, reason: str = "") -> Change:
        """Forget a host that left the configuration."""


class RolloutPort(Protocol):
    """Accepts which generation is to serve. Every call stores a wish durably or raises Refused."""

    def roll(
        self,
        pool: str,
        *,
        to: int | None = None,
        surge: int | None = None,
        unavailable: int | None = None,
        actor: str,
        reason: str = "",
    ) -> Change:
        """Wish for all replicas to be of the newest generation that fits, or of this one."""

    def rollback(
        self,
        pool: str,
        *,
        to: int | None = None,
        surge: int | None = None,
        unavailable: int | None = None,
        actor: str,
        reason: str = "",
    ) -> Change:
        """Wish for all replicas to be of the generation before, or of this one, and to stay so."""


class EventsPort(Protocol):
    """What happened."""

    def after(self, event: int, *, pool: str | None = None, limit: int) -> tuple[Event, ...]:
        """Return the oldest events with a higher id, oldest first."""

    def newest(self, *, pool: str | None = None, limit: int) -> tuple[Event, ...]:
        """Return the newest events, oldest first."""

    def bounds(self) -> tuple[int, int]:
        """Return the ids of the oldest event kept (0: none) and of the last one ever added."""

    async def wait(self, event: int) -> None:
        """Return once an event with a higher id was added."""


class CallsPort(Protocol):
    """What was asked for, and by whom."""

    def find(self, actor: str, key: str) -> Remembered | None:
        """Return what the actor used a key for during the last day."""

    def add(
        self,
        *,
        actor: str,
        origin: str,
        operation: str,
        path: str,
        request: Mapping[str, object],
        pool: str,
        reason: str,
        key: str | None,
        answer: Remembered,
    ) -> None:
        """Record an accepted call."""

    def newest(self, *, pool: str | None = None, limit: int) -> tuple[AcceptedCall, ...]:
        """Return the newest calls first."""

    def revision(self, pool: str) -> int:
        """Return a number that rises with everything wished of a pool."""

    def host_revision(self, host: str) -> int:
        """Return a number that rises with everything said of a host."""

    def pool_of(self, replica: str) -> str | None:
        """Return the pool that wishes for a replica."""


class AlertsPort(Protocol):
    """Which alerts were acted on."""

    def is_known(self, *identity: str) -> bool:
        """Return whether one was."""

    def acted_on(self, *identity: str) -> None:
        """Remember one."""


class StorePort(Protocol):
    """What was wished and what became of it."""

    @property
    def alerts(self) -> AlertsPort:
        """Which alerts were acted on."""

    @property
    def events(self) -> EventsPort:
        """What happened."""

    @property
    def calls(self) -> CallsPort:
        """What was asked for, and by whom."""

    def transaction(self) -> AbstractContextManager[None]:
        """Make everything inside durable at once, or nothing."""

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

    def weighed(self, pool: str | None = None) -> tuple[Replica, ...]:
        """Return the same, each with its memory where its host told it."""

    def hosts(self) -> tuple[HostStatus, ...]:
        """Return how each host is."""

    def pools(self) -> tuple[PoolStatus, ...]:
        """Return how each pool is."""

    def sentence(self) -> str:
        """Say how the fleet is in one sentence."""

    def note(self) -> str:
        """Return what concerns the whole daemon and no pool; mostly nothing."""


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
    rollout: RolloutPort
    explain: Callable[[str], Explanation]
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
