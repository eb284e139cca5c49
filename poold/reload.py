"""Another configuration for a running daemon: taken whole, or not at all.

In: SIGHUP, and the file as it is then. Out: links opened and closed, the loop told, one change that
says what became of it. Running replicas are not touched: a pool or host that left is one that
nobody decides about any more, exactly as after a restart with that file.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol

from poold import config as configuration
from poold.agent.failpoints import failpoint
from poold.agent.space import read_reserve
from poold.balancers import Balancer, balancer_to
from poold.config import Config
from poold.errors import Problem, Refused
from poold.hosts import HostLink
from poold.model.balancing import AnyBalancer, BalancerName
from poold.model.fleet import Host, HostName
from poold.reconcile.loop import Loop
from poold.reconcile.world import World
from poold.store import Move, Store
from poold.systemd import Notifier

LOG = logging.getLogger(__name__)

# What is bound, locked or written on containers when the daemon starts.
FIXED: Final = ("state_dir", "socket", "socket_mode", "listen", "fleet", "seal_key_file")
_CLOSE_SECONDS = 10.0


class Live(Protocol):
    """Where the configuration is kept that everything reads; assigned as a whole."""

    config: Config


@dataclass
class Kept:
    """The configuration of a daemon."""

    config: Config


# -- judging, pure --------------------------------------------------------------------------------


def refusals(old: Config, new: Config, moves: Collection[Move]) -> Iterator[str]:
    """Say why one configuration cannot take the place of the other in a running daemon."""
    for key in FIXED:
        before, after = getattr(old.daemon, key), getattr(new.daemon, key)
        if before != after:
            yield f"daemon.{key}: cannot change from {before!r} to {after!r} without a restart"
    for name in sorted({*relinked(old, new), *(old.hosts.keys() - new.hosts.keys())}):
        moving = sorted(m.name for m in moves if name in (m.source, m.target))
        if moving:
            yield f"hosts.{name}: cannot change while {', '.join(moving)} moves from or to it"


def relinked(old: Config, new: Config) -> set[HostName]:
    """Return the hosts in both that are reached in another way now."""
    both = old.hosts.keys() & new.hosts.keys()
    return {name for name in both if _reached(old.hosts[name]) != _reached(new.hosts[name])}


def _reached(host: Host) -> Host:
    """Leave out what does not concern the link."""
    return replace(host, publish_address="", publish_ports="", max_replicas=0)


def difference(old: Config, new: Config) -> str:
    """Say what a reload changes: "pools: +new -old ~hello"."""
    parts = []
    for what, before, after in (
        ("hosts", old.hosts, new.hosts),
        ("balancers", old.balancers, new.balancers),
        ("pools", old.pools, new.pools),
    ):
        marked = tuple(_marked(before, after))
        if marked:
            parts.append(f"{what}: {' '.join(marked)}")
    if old.daemon != new.daemon:
        parts.append("daemon")
    return ", ".join(parts) or "nothing changed"


def _marked(before: Mapping[Any, object], after: Mapping[Any, object]) -> Iterator[str]:
    old: dict[str, object] = {str(name): value for name, value in before.items()}
    new: dict[str, object] = {str(name): value for name, value in after.items()}
    yield from (f"+{name}" for name in sorted(new.keys() - old.keys()))
    yield from (f"-{name}" for name in sorted(old.keys() - new.keys()))
    yield from (f"~{name}" for name in sorted(old.keys() & new.keys()) if old[name] != new[name])


# -- doing ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Reload:
    """Reloads a daemon's configuration. `check` raises a Problem for what else cannot be used."""

    path: Path
    live: Live
    store: Store
    world: World
    loop: Loop
    links: MutableMapping[HostName, HostLink]
    link_to: Callable[[Host], HostLink]
    notifier: Notifier
    check: Callable[[Config], None] = lambda _: None
    balancers: MutableMapping[BalancerName, Balancer] = field(default_factory=dict)
    balancer_to: Callable[[AnyBalancer], Balancer] = balancer_to

    async def run(self, asked: asyncio.Event) -> None:
        """Reload each time that it is asked for, one after the other."""
        while True:
            await asked.wait()
            asked.clear()
            await self.once()

    async def once(self) -> bool:
        """Reload now; False when the old configuration stays. Never raises a Problem."""
        self.notifier.reloading()
        try:
            return await self._once()
        finally:
            self.notifier.ready(self.world.sentence())

    async def _once(self) -> bool:
        old = self.live.config
        try:
            new = self._read(old)
            links = self._make_links(old, new)
        except Problem as problem:
            self._refused(problem)
            return False
        left = self._swap(new, links)
        self._note("settled", f"reloaded: {difference(old, new)}")
        await asyncio.gather(*(link.open() for link in links.values()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await asyncio.gather(*(link.close() for link in left), return_exceptions=True)
        return True

    def _read(self, old: Config) -> Config:
        new = configuration.load(self.path)
        reasons = tuple(refusals(old, new, self.store.moves()))
        if reasons:
            raise Refused(
                "config.needs-restart",
                f"cannot reload {self.path}: {reasons[0]}"
                + (f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""),
                hint="restart the daemon; replicas run on meanwhile",
                detail="\n".join(reasons),
            )
        self.check(new)
        return new

    def _make_links(self, old: Config, new: Config) -> dict[HostName, HostLink]:
        names = (new.hosts.keys() - old.hosts.keys()) | relinked(old, new)
        return {name: self.link_to(new.hosts[name]) for name in sorted(names)}

    def _swap(self, new: Config, links: Mapping[HostName, HostLink]) -> list[HostLink]:
        """Put the new in place of the old without a pause; return the links that are over."""
        over = [name for name in self.links if name not in new.hosts or name in links]
        left = [self.links.pop(name) for name in over]
        for name in over:
            self.world.forget_host(name)
        self.links.update(links)
        self._swap_balancers(new)
        if new.daemon.log_level != self.live.config.daemon.log_level:
            logging.getLogger().setLevel(new.daemon.log_level.upper())
        self.store.reserve = read_reserve(new.daemon.disk_reserve)
        self.live.config = new
        self.world.remark("")
        self.loop.reconfigured()
        return left

    def _swap_balancers(self, new: Config) -> None:
        """Keep those that are the same: they know since when who has been leaving."""
        for name in self.balancers.keys() - new.balancers.keys():
            del self.balancers[name]
        for name, configured in new.balancers.items():
            if self.live.config.balancers.get(name) != configured:
                self.balancers[name] = self.balancer_to(configured)

    def _refused(self, problem: Problem) -> None:
        LOG.error("%s; the old configuration stays", problem, extra={"action": "reload_refused"})
        for line in problem.detail.splitlines():
            LOG.error("%s", line, extra={"action": "reload_refused"})
        self.world.remark(f"not reloaded: {problem.message}")
        self._note("failed", problem.message, problem)

    def _note(self, state: str, text: str, problem: Problem | None = None) -> None:
        """Leave a change for who looks later; a store that cannot be written does not matter."""
        if problem is None:
            LOG.info("%s", text, extra={"action": "reloaded"})
        with contextlib.suppress(Problem), self.store.transaction():
            change = self.store.accept(
                pool="",
                kind="reload",
                wish={"file": str(self.path)},
                actor="signal",
                reason="",
                relieves=True,
            )
            self.store.end_change(
                change.id,
                "settled" if state == "settled" else "failed",
                progress=text,
                problem=problem.to_json() if problem else None,
            )
            failpoint("wish.before_commit", change.kind)
            self.store.after_commit(lambda: failpoint("wish.accepted", "reload"))
