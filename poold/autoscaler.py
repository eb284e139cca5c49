"""Follows what pools' balancers read: a task that looks every second, and wishes as others do.

In: sessions and queues, as the balancers were read last. Out: wishes with their reasons, and how
many replicas were asked for, also where that is only to be said. `autoscale` decides how many the
figures ask for, `scaling` what of that a pool's limits allow.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from poold.autoscale import Memory, advise
from poold.errors import Problem
from poold.model.fleet import Change, Pool, PoolName, PoolStatus
from poold.model.scaling import Autoscale, Recommended
from poold.scaling import CHANGES_OF_COUNT, Limits, decide

LOG = logging.getLogger(__name__)
ACTOR: Final = "autoscaler"
OLDEST_SECONDS: Final = 10.0  # of a reading that still counts


class Controls(Protocol):
    """Accepts wishes."""

    def count(self, pool: str) -> int:
        """Return how many replicas are wished now."""

    def scale(self, pool: str, *, replicas: int, actor: str, reason: str) -> Change:
        """Wish for a number."""


class Changes(Protocol):
    """What was wished."""

    def changes(self, *, pool: str | None = None, limit: int = 50) -> tuple[Change, ...]:
        """Return the newest changes first."""


class Shows(Protocol):
    """How pools are, and where it is shown what they should be."""

    def pools(self) -> tuple[PoolStatus, ...]:
        """Return how each pool is."""

    def recommend(self, pool: PoolName, recommended: Recommended | None) -> None:
        """Show how many replicas a pool's figures ask for."""


class Autoscaler:
    """`clock`: seconds since the epoch."""

    def __init__(
        self,
        *,
        control: Controls,
        store: Changes,
        world: Shows,
        pools: Callable[[], Mapping[PoolName, Pool]],
        clock: Callable[[], float] = time.time,
        every_seconds: float = 1.0,
    ) -> None:
        self._control = control
        self._store = store
        self._world = world
        self._pools = pools
        self._clock = clock
        self._every_seconds = every_seconds
        self._memories: dict[PoolName, tuple[Autoscale, Memory]] = {}
        self._said: dict[PoolName, str] = {}

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(self._every_seconds)

    def look(self) -> None:
        """Look at every pool once; what is refused is said once, and tried again."""
        pools = self._pools()
        for name in self._memories.keys() - {n for n, p in pools.items() if p.autoscale}:
            del self._memories[name]
            self._world.recommend(name, None)
        for status in self._world.pools():
            pool = pools.get(status.name)
            if pool is None or pool.autoscale is None:
                continue
            try:
                self._follow(pool, pool.autoscale, status)
            except Problem as problem:
                if self._said.get(pool.name) != problem.message:
                    self._said[pool.name] = problem.message
                    LOG.warning("%s", problem, extra={"action": "not_scaled", "pool": pool.name})

    def _follow(self, pool: Pool, settings: Autoscale, status: PoolStatus) -> None:
        now, wished = self._clock(), self._control.count(pool.name)
        of, memory = self._memories.get(pool.name, (settings, Memory()))
        memory, advice = advise(
            settings,
            memory if of == settings else Memory(),
            now=now,
            concurrency=self._concurrency(status, now),
            ready=status.ready,
            wished=wished,
        )
        self._memories[pool.name] = (settings, memory)
        recommended = Recommended(advice.count, advice.text, followed=not settings.dry_run)
        self._world.recommend(pool.name, recommended)
        if settings.dry_run or not advice.known or wished == 0:
            return  # from none there is no way up by figures, and an operator may have meant it
        newest = self._store.changes(pool=pool.name, limit=50)
        last = next((c.created_at for c in newest if c.kind in CHANGES_OF_COUNT), None)
        decision = decide(
            Limits(least=max(pool.min, 1), most=pool.max, scaling=pool.scaling),
            wished=wished,
            count=advice.count,
            idle_seconds=None if last is None else now - last,
        )
        if decision.count != wished:
            reason = f"{advice.text}: {decision.text}"
            self._control.scale(pool.name, replicas=decision.count, actor=ACTOR, reason=reason)
            self._said.pop(pool.name, None)

    @staticmethod
    def _concurrency(status: PoolStatus, now: float) -> float | None:
        """Return sessions and queue, None where they are not known now."""
        behind = status.balancer
        if behind is None or behind.problem or behind.read_at is None:
            return None
        counts = [server.sessions for server in behind.servers]
        if now - behind.read_at > OLDEST_SECONDS or None in counts or behind.queue is None:
            return None
        return float(sum(count or 0 for count in counts) + behind.queue)
