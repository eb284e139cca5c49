"""Slots: what a replica needs and a checkpoint does not decide, made before anyone asks for it.

Flows in: which slots are to be kept for which pool. Flows out: a slot, its ports held, for a
restore that then only has to call the runtime. Making them waits while something is restored. A
slot is a box without a name: what a crash leaves of it is swept up like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Optional, Protocol

from poold.agent.engines.base import Ahead, Published
from poold.agent.oci.boxes import Box
from poold.agent.oci.stages import Stage
from poold.agent.ports import is_free
from poold.agent.process import finish
from poold.errors import Problem, Temporary

_RELEASE_SECONDS = 6.0
_RETRY_SECONDS = 10.0  # after a slot could not be made

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Slot:
    """A box without a name, and the sockets that hold its ports."""

    box: Box
    held: tuple[socket.socket, ...]

    def let_go(self) -> None:
        """Give the ports back."""
        for each in self.held:
            each.close()


@dataclass(frozen=True)
class _Wish:
    stage: Stage
    ahead: Ahead
    taken: Callable[[], frozenset[int]]

    def fits(self, slot: Slot) -> bool:
        inside = tuple(port.container_port for port in slot.box.published)
        addresses = {port.address for port in slot.box.published}
        return (slot.box.stage, inside, addresses) == (
            self.stage.key, self.ahead.container_ports, {self.ahead.address},
        )  # fmt: skip


class Slotter(Protocol):
    """What makes and removes slots."""

    async def slot(self, stage: Stage, published: tuple[Published, ...]) -> Slot:
        """Make one; failing, nothing of it is left."""

    async def remove(self, box: Box) -> None:
        """Take one away."""


class Slots:
    """Slots that wait, by pool. For one event loop; nothing is made outside of `tend`."""

    def __init__(self, slotter: Slotter, wanted: Callable[[str], bool]) -> None:
        """`wanted` tells whether a stage may still be restored from, by its key."""
        self._slotter = slotter
        self._wanted = wanted
        self._wishes: dict[str, _Wish] = {}
        self._waiting: dict[str, list[Slot]] = {}
        self._offered: dict[tuple[Published, ...], tuple[str, Slot]] = {}
        self._news: Optional[asyncio.Event] = None
        self._restoring = 0
        self._quiet: Optional[asyncio.Event] = None

    def offer(self, stage: Stage, ahead: Ahead) -> tuple[Published, ...]:
        """Set a slot aside for a restore that is about to come, and return its ports."""
        waiting = self._waiting.get(ahead.pool, [])
        wish = _Wish(stage, ahead, frozenset)
        for slot in waiting:
            if wish.fits(slot):
                waiting.remove(slot)
                self._offered[slot.box.published] = (ahead.pool, slot)
                return slot.box.published
        return ()

    def take(self, stage: Stage, published: tuple[Published, ...]) -> Optional[Slot]:
        """Return the slot that was offered with these ports."""
        pool, slot = self._offered.pop(published, ("", None))
        if slot is not None and slot.box.stage != stage.key:
            self._waiting.setdefault(pool, []).append(slot)
            return None
        return slot

    def put_back(self, slot: Slot) -> None:
        """Let a slot that was taken be taken again, with the same ports."""
        self._offered[slot.box.published] = ("", slot)

    def keep(self, stage: Stage, ahead: Ahead, taken: Callable[[], frozenset[int]]) -> None:
        """Remember which slots a pool is to have."""
        self._wishes[ahead.pool] = _Wish(stage, ahead, taken)
        if self._news is not None:
            self._news.set()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Make no new slots during the block: what is restored now goes first."""
        self._restoring += 1
        try:
            yield
        finally:
            self._restoring -= 1
            if self._restoring == 0 and self._quiet is not None:
                self._quiet.set()

    async def tend(self) -> None:
        """Keep what was wished for, until cancelled; then take away all that waits."""
        self._news, self._quiet = asyncio.Event(), asyncio.Event()
        self._news.set()
        try:
            while True:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._news.wait(), _RETRY_SECONDS)
                self._news.clear()
                await self._drop_unwanted()
                await self._refill()
        finally:
            self._news = self._quiet = None
            await finish(self._release())

    async def _refill(self) -> None:
        failed: set[str] = set()
        while (pool := self._lacking(failed)) is not None:
            while self._restoring and self._quiet is not None:
                self._quiet.clear()
                await self._quiet.wait()
            wish = self._wishes[pool]
            try:
                slot = await self._slotter.slot(wish.stage, _ports(wish))
            except (Problem, OSError) as error:
                log.warning("cannot make a slot for %s: %s", pool, error)
                failed.add(pool)
            else:
                self._waiting.setdefault(pool, []).append(slot)

    def _lacking(self, failed: set[str]) -> Optional[str]:
        for pool, wish in self._wishes.items():
            fitting = [slot for slot in self._waiting.get(pool, ()) if wish.fits(slot)]
            if pool not in failed and len(fitting) < wish.ahead.count:
                return pool
        return None

    async def _drop_unwanted(self) -> None:
        for pool, wish in list(self._wishes.items()):
            if not self._wanted(wish.stage.key):
                del self._wishes[pool]
        for pool, waiting in self._waiting.items():
            wish_now = self._wishes.get(pool)
            for slot in [each for each in waiting if not (wish_now and wish_now.fits(each))]:
                waiting.remove(slot)
                await self._drop(slot)

    async def _drop(self, slot: Slot) -> None:
        slot.let_go()
        with contextlib.suppress(Problem, OSError):
            await self._slotter.remove(slot.box)

    async def _release(self) -> None:
        """Take away what waits, as far as that goes within a bound; the rest is swept up later."""
        slots = [slot for waiting in self._waiting.values() for slot in waiting]
        slots += [slot for _, slot in self._offered.values()]
        self._waiting.clear()
        self._offered.clear()
        drops = asyncio.gather(*map(self._drop, slots))
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(drops, _RELEASE_SECONDS)


def _ports(wish: _Wish) -> tuple[Published, ...]:
    """Choose free ports, the highest first: restores without a slot choose upwards."""
    ahead, taken = wish.ahead, wish.taken()
    found: list[int] = []
    for port in range(ahead.last_port, ahead.first_port - 1, -1):
        if len(found) == len(ahead.container_ports):
            break
        if port not in taken and is_free(ahead.address, port):
            found.append(port)
    if len(found) < len(ahead.container_ports):
        raise Temporary("host.ports-exhausted", "cannot make a slot: no free port is left")
    return tuple(
        Published(inside, outside, ahead.address)
        for inside, outside in zip(ahead.container_ports, found)
    )
