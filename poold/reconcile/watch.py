"""Watching hosts: when each is listed, and what is heard of it between listings.

In: links' states, agents' events. Out: the world, folded, and a call of `seen` after what is new.
It decides nothing, and knows of pools only what agents have to ask their replicas by themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial

from poold.agent.messages import Event, LivenessCheck, Observe
from poold.config import Config
from poold.errors import Problem
from poold.hosts.base import HostLink
from poold.model.fleet import HostName
from poold.reconcile.ask import Asker
from poold.reconcile.news import News
from poold.reconcile.sealing import Sealing
from poold.reconcile.world import World

LOG = logging.getLogger(__name__)


class Watch:
    """Watches hosts for a loop, which runs it once a link.

    `look_seconds`: between looks at a link's status; `list_again_seconds`: after a listing that
    failed. `names` returns every name that is ours to use.
    """

    def __init__(
        self,
        *,
        links: Mapping[HostName, HostLink],
        world: World,
        asker: Asker,
        names: Callable[[], tuple[str, ...]],
        news: News,
        config: Callable[[], Config],
        look_seconds: float,
        list_again_seconds: float,
        seen: Callable[[], None],
        sealing: Sealing | None = None,
    ) -> None:
        self._links = links
        self._world = world
        self._asker = asker
        self._names = names
        self._news = news
        self._config = config
        self._look_seconds = look_seconds
        self._list_again_seconds = list_again_seconds
        self._seen = seen
        self._sealing = sealing
        self._looks: defaultdict[HostName, asyncio.Event] = defaultdict(asyncio.Event)

    def look(self, host: HostName) -> None:
        """Have a host listed at once."""
        self._looks[host].set()

    def heard(self, host: HostName, event: Event) -> None:
        """Take an agent's hint: the host is listed at once, and then its pools are looked at."""
        LOG.info(
            "%s on %s %s%s", event.name, host, event.kind, f": {event.reason}" * bool(event.reason),
            extra={"action": "event", "host": host, "replica": event.name},
        )  # fmt: skip
        if host in self._links:
            self._world.doubt(host, event.container_id)
            self.look(host)

    async def run(self, host: HostName) -> None:
        """List a host when it comes up, when it says something or is asked, and every period."""
        link, seen, due = self._links[host], "", 0.0
        link.listen(partial(self.heard, host))
        while True:
            status = f"{link.status.state} {link.status.boot_id}"
            asked = self._looks[host].is_set()
            self._looks[host].clear()
            if status != seen:
                if seen.startswith("up "):
                    self._world.lost(host)
                seen, asked = status, True
                self._news.hosts(self._world.hosts())
                self._seen()
            if link.status.state == "up" and (asked or time.monotonic() >= due):
                heard = await self.observe(host)
                period = self._config().daemon.reconcile_seconds
                due = time.monotonic() + (
                    period if heard else min(period, self._list_again_seconds)
                )
            await set_or_after(self._looks[host], self._look_seconds)

    async def observe(self, host: HostName) -> bool:
        """List a host once; False when that failed and nothing of it can be believed."""
        names = self._names()
        token = self._world.begin()
        try:
            seen = await self._asker.read(
                host,
                Observe(
                    fleet=self._config().daemon.fleet,
                    names=names,
                    liveness=self.liveness(),
                    images=self.images(),
                ),
            )
        except Problem as problem:
            LOG.warning("%s", problem, extra={"action": "listing_failed", "host": host})
            is_new, heard = self._world.unheard(host, problem.message), False
        else:
            if self._sealing is not None:  # before anybody plans by it
                await self._sealing.take_back(host, seen.generations)
            is_new, heard = self._world.observed(host, token, seen), True
        status = self._world.host(host)
        self._news.hosts([status] if status is not None else [])
        if is_new:  # most listings say what is known, and hundreds of hosts are listed all the time
            self._seen()
        if heard and self._sealing is not None:
            await self._sealing.put_on(host, seen.generations)
        return heard

    def images(self) -> tuple[str, ...]:
        """Return the names of the pools' images, each of which may mean another one one day."""
        return tuple(sorted({pool.application.image for pool in self._config().pools.values()}))

    def liveness(self) -> dict[str, LivenessCheck]:
        """Return what agents have to ask replicas by themselves, by pool."""
        return {
            name: LivenessCheck(
                probe=asked.probe(pool.application.readiness),
                main_port=pool.application.port,
                interval_seconds=asked.interval_seconds,
                failures=asked.failures,
                any_answer=asked.path is None,
            )
            for name, pool in self._config().pools.items()
            if (asked := pool.liveness) is not None
        }


async def set_or_after(event: asyncio.Event, seconds: float) -> None:
    """Return when the event is set, or after so long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
