"""Balancers that are told a set and do not tell what is under way: what they have in common.

In: the set. Out: what they were told, and who has to be given time. Whoever leaves stays listed as
draining for the pool's drain time after the balancer was told, and is stopped then, whatever is
under way on it. How a balancer is told is a `Teller`'s.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Protocol

from poold.balancers.base import Left, Server, Shown, ShownServer
from poold.errors import Refused
from poold.model.balancing import BalancerName, Behind
from poold.model.fleet import Pool, PoolName

Place = tuple[str, int]


class Teller(Protocol):
    """The way to tell one kind of balancer."""

    async def tell(self, pool: Pool, servers: tuple[Server, ...], *, anew: bool) -> bool:
        """Have the balancer send requests to these and no others; True where that was news to it.

        Bounded in time, and may be repeated. `anew`: it is not known whether it was told before.
        Raises a Problem ("balancer.…") where it is not known to have been told.
        """


@dataclass
class _Memory:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    told: tuple[Server, ...] | None = None
    maybe_told: dict[Place, Server] = field(default_factory=dict)  # since the last success
    failed: bool = False
    leaving: dict[Place, tuple[Server, float]] = field(default_factory=dict)
    settled_at: float = 0.0


class ToldBalancer:
    """One balancer. `clock`: monotonic seconds."""

    def __init__(
        self,
        name: BalancerName,
        teller: Teller,
        *,
        identity: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._teller = teller
        self._identity = identity
        self._clock = clock
        self._memories: defaultdict[tuple[PoolName, str], _Memory] = defaultdict(_Memory)

    @property
    def name(self) -> BalancerName:
        """What the configuration calls it."""
        return self._name

    async def identity(self) -> str:
        """Return how it is told: nothing else tells it from others."""
        return self._identity

    async def publish(self, pool: Pool, servers: Collection[Server]) -> Shown:
        """Tell the set where it is news. See `Balancer.publish`."""
        behind = pool.balancer
        if behind is None:
            raise Refused("balancer.none", f"cannot publish {pool.name}: it has no balancer")
        memory = self._memories[pool.name, backend_of(pool)]
        async with memory.lock:
            return await self._publish(pool, behind, _sorted(servers), memory)

    async def _publish(
        self, pool: Pool, behind: Behind, wanted: tuple[Server, ...], memory: _Memory
    ) -> Shown:
        anew = memory.told is None or memory.failed or memory.told != wanted
        # Until it is known better; cancelled or failed, it is not.
        memory.failed = True
        memory.maybe_told |= {(each.address, each.port): each for each in wanted}
        news = await self._teller.tell(pool, wanted, anew=anew)
        memory.failed = False
        now = self._clock()
        if memory.told is None and news:  # whom it listed in an earlier life is not known
            memory.settled_at = now + behind.drain_seconds
        there = {(each.address, each.port) for each in wanted}
        for place, each in memory.maybe_told.items():
            memory.leaving.setdefault(place, (each, now))
        memory.told = wanted
        memory.maybe_told = {(each.address, each.port): each for each in wanted}
        memory.leaving = {p: each for p, each in memory.leaving.items() if p not in there}
        over = {
            place: each
            for place, each in memory.leaving.items()
            if now - each[1] >= behind.drain_seconds
        }
        for place in over:
            del memory.leaving[place]
        return Shown(
            servers=(
                *(_shown(each, leaving=False) for each in wanted),
                *(_shown(each, leaving=True) for each, _ in memory.leaving.values()),
            ),
            left=tuple(
                Left(
                    name=each.name,
                    address=each.address,
                    port=each.port,
                    seconds=now - since,
                    sessions_cut=0,
                )
                for each, since in over.values()
            ),
            commands=int(news),
            settling=now < memory.settled_at,
        )


def backend_of(pool: Pool) -> str:
    """Return what the pool is called there."""
    return (pool.balancer.backend if pool.balancer else "") or pool.name


def as_json(pool: Pool, servers: Collection[Server]) -> dict[str, object]:
    """Return the set as programs get it."""
    return {
        "pool": pool.name,
        "backend": backend_of(pool),
        "servers": [
            {"name": each.name, "address": each.address, "port": each.port} for each in servers
        ],
    }


def endpoint(server: Server) -> str:
    """Return an address with its port, in brackets where it is one of IPv6."""
    return f"[{server.address}]:{server.port}" if ":" in server.address else (
        f"{server.address}:{server.port}"
    )  # fmt: skip


def _sorted(servers: Collection[Server]) -> tuple[Server, ...]:
    return tuple(sorted(servers, key=lambda each: (len(each.name), each.name)))


def _shown(server: Server, *, leaving: bool) -> ShownServer:
    return ShownServer(
        name=server.name,
        address=server.address,
        port=server.port,
        state="draining" if leaving else "up",
        weight=0 if leaving else 100,
        leaving=leaving,
    )
