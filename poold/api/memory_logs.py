"""The event log and the trail of calls in memory, for the fleet in memory.

Flows in and out: the same as of the store's; one contract test runs against both.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from poold.model.events import AcceptedCall, Event
from poold.store.calls import KEY_SECONDS, Remembered


@dataclass
class MemoryEvents:
    """The last `keep` events."""

    clock: Callable[[], float] = time.time
    keep: int = 1000
    _events: list[Event] = field(default_factory=list)
    _last: int = 0
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def add(
        self,
        kind: str,
        text: str,
        *,
        pool: str = "",
        replica: str = "",
        host: str = "",
        change: int | None = None,
        data: Mapping[str, object] | None = None,
    ) -> None:
        """Record that something happened."""
        self._last += 1
        self._events.append(
            Event(
                self._last, self.clock(), kind, text, pool, replica, host, change, dict(data or {})
            )
        )
        del self._events[: max(0, len(self._events) - self.keep)]
        self._news.set()
        self._news = asyncio.Event()

    def after(self, event: int, *, pool: str | None = None, limit: int) -> tuple[Event, ...]:
        """Return the oldest events with a higher id, oldest first."""
        return tuple(e for e in self._events if e.id > event and pool in (None, e.pool))[:limit]

    def newest(self, *, pool: str | None = None, limit: int) -> tuple[Event, ...]:
        """Return the newest events, oldest first."""
        return tuple(e for e in self._events if pool in (None, e.pool))[-limit:]

    def bounds(self) -> tuple[int, int]:
        """Return the ids of the oldest event kept (0: none) and of the last one ever added."""
        return (self._events[0].id if self._events else 0, self._last)

    async def wait(self, event: int) -> None:
        """Return once an event with a higher id was added."""
        while self._last <= event:
            await self._news.wait()


@dataclass
class MemoryCalls:
    """All calls. `pool_of_replica` finds the pool that wishes for a replica."""

    pool_of_replica: Callable[[str], str | None]
    clock: Callable[[], float] = time.time
    revisions: dict[str, int] = field(default_factory=dict)
    host_revisions: dict[str, int] = field(default_factory=dict)
    _calls: list[AcceptedCall] = field(default_factory=list)
    _keys: dict[tuple[str, str], tuple[float, Remembered]] = field(default_factory=dict)

    def find(self, actor: str, key: str) -> Remembered | None:
        """Return what the actor used a key for during the last day."""
        at, known = self._keys.get((actor, key), (0.0, None))
        return known if at > self.clock() - KEY_SECONDS else None

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
        number, now = len(self._calls) + 1, self.clock()
        asked = dict(request)
        self._calls.append(
            AcceptedCall(
                number, now, actor, origin, operation, path, asked, pool, reason, answer.change
            )
        )
        if key is not None:
            self._keys[actor, key] = (now, answer)

    def newest(self, *, pool: str | None = None, limit: int) -> tuple[AcceptedCall, ...]:
        """Return the newest calls first."""
        return tuple(c for c in reversed(self._calls) if pool in (None, c.pool))[:limit]

    def revision(self, pool: str) -> int:
        """Return a number that rises with everything wished of a pool."""
        return self.revisions.get(pool, 0)

    def host_revision(self, host: str) -> int:
        """Return a number that rises with everything said of a host."""
        return self.host_revisions.get(host, 0)

    def pool_of(self, replica: str) -> str | None:
        """Return the pool that wishes for a replica."""
        return self.pool_of_replica(replica)


class MemoryAlerts:
    """Alerts that were acted on."""

    def __init__(self) -> None:
        self._known: set[tuple[str, ...]] = set()

    def is_known(self, *identity: str) -> bool:
        """Return whether one was."""
        return identity in self._known

    def acted_on(self, *identity: str) -> None:
        """Remember one."""
        self._known.add(identity)
