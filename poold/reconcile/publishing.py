"""Telling balancers: one task a pool, at once when its set changed, and every second.

In: the set of each plan. Out: what the balancer showed last, for the next plan, which is asked for
when that is news. It decides nothing, and nobody waits for it: a balancer that hangs holds up the
replicas that leave it, and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from poold.balancers.base import Balancer, Server, Shown
from poold.config import Config
from poold.errors import Permanent, Problem
from poold.model.balancing import BalancerName, BalancerStatus
from poold.model.fleet import Pool, PoolName
from poold.reconcile.published import LETTING_GO_SECONDS, Place, Traffic
from poold.reconcile.recorder import Recorder
from poold.reconcile.watch import set_or_after

LOG = logging.getLogger(__name__)
LEAVING = 0.1  # of the period: how often is looked at a replica that drains


@dataclass(frozen=True, slots=True)
class _Former:
    """Where a pool was before its configuration changed: it has to leave there."""

    balancer: Balancer
    pool: Pool
    asked: frozenset[Place]
    since: float


@dataclass
class _Wanted:
    """What a pool's balancer is to be told, where that was, and where it was before."""

    changed: asyncio.Event
    servers: tuple[Server, ...] | None = None  # None: there was no plan yet
    known: Traffic | None = None
    leaving_since: dict[Place, float] = field(default_factory=dict)
    told: tuple[Balancer, Pool] | None = None
    former: list[_Former] = field(default_factory=list)


class Publishing:
    """Publishes for a loop. `clock`: the plans' seconds; `wake` has a pool planned again."""

    def __init__(
        self,
        *,
        balancers: Mapping[BalancerName, Balancer],
        config: Callable[[], Config],
        clock: Callable[[], float],
        wake: Callable[[PoolName], None],
        show: Callable[[PoolName, BalancerStatus | None], None],
        recorder: Recorder,
        every_seconds: float,
    ) -> None:
        self._balancers = balancers
        self._config = config
        self._clock = clock
        self._wake = wake
        self._show = show
        self._recorder = recorder
        self._every_seconds = every_seconds
        self._pools: dict[PoolName, _Wanted] = {}

    def balancer(self, name: PoolName) -> Balancer | None:
        """Return what a pool is behind, None where it is behind nothing."""
        pool = self._config().pools.get(name)
        if pool is None or pool.balancer is None:
            return None
        return self._balancers.get(pool.balancer.name)

    def known(self, name: PoolName) -> Traffic | None:
        """Return what a plan may know; what is being told counts as told."""
        wanted = self._wanted(name)
        if self.balancer(name) is None:
            return self._left_behind(wanted)
        known = wanted.known or Traffic()
        asked = known.asked.union(*(former.asked for former in wanted.former))
        return replace(
            known,
            asked=asked,
            leaving_since=dict(wanted.leaving_since),
            patience_seconds=self._patience(name),
        )

    def _left_behind(self, wanted: _Wanted) -> Traffic | None:
        """Return what a pool has at balancers that it has to leave, with none to go to."""
        places = [(former.pool, former.asked) for former in wanted.former]
        if wanted.told is not None and wanted.known is not None:  # nobody looked since
            places.append((wanted.told[1], wanted.known.asked))
        if not places:
            return None
        seconds = (pool.balancer.drain_seconds for pool, _ in places if pool.balancer is not None)
        return Traffic(
            asked=frozenset().union(*(asked for _, asked in places)),
            shown=Shown(servers=()),
            leaving_since=dict(wanted.leaving_since),
            patience_seconds=max(seconds, default=0.0),
        )

    def concerns(self, name: PoolName) -> bool:
        """Return whether there is, or was, somebody to tell of a pool."""
        return self.balancer(name) is not None or self._wanted(name).told is not None

    def want(
        self,
        name: PoolName,
        servers: tuple[Server, ...] | None,
        leaving: Collection[Place] = (),
    ) -> None:
        """Take the set of a plan; it is told as soon as the one before was.

        None: the pool is behind nothing, and what it had there once says nothing any more.
        `leaving`: where replicas wait to be let go of. How long they have is forgotten only when
        they are back in the set: a removal that failed and is tried again does not wait anew.
        """
        wanted = self._wanted(name)
        for one in servers or ():
            wanted.leaving_since.pop((one.address, one.port), None)
        for place in leaving:
            wanted.leaving_since.setdefault(place, self._clock())
        if wanted.servers != servers:
            wanted.servers = servers
            wanted.changed.set()

    async def run(self, name: PoolName) -> None:
        """Publish at each change and every period, more often while one leaves, until cancelled."""
        while True:
            wanted = self._wanted(name)
            wanted.changed.clear()
            await self.once(name)
            await set_or_after(wanted.changed, self._every_seconds * _haste(wanted))

    async def once(self, name: PoolName) -> None:
        """Publish a pool's set once; a balancer that cannot be asked is a fact, not a failure."""
        balancer, wanted = self.balancer(name), self._wanted(name)
        pool = self._config().pools.get(name)
        if pool is None:  # it left the configuration: nothing is decided about it any more
            return
        self._note_place(wanted, balancer, pool)
        if balancer is None:
            self._show(name, None)
        if balancer is not None and wanted.servers is not None:
            await self._tell(name, wanted, balancer, pool, wanted.servers)
        if wanted.former:
            wanted.former = [e for e in wanted.former if not await self._leave(e, balancer, pool)]
            self._wake(name)

    def _note_place(self, wanted: _Wanted, balancer: Balancer | None, pool: Pool) -> None:
        """See whether the pool is told of elsewhere than before."""
        if wanted.told is not None and (
            wanted.told[0] is not balancer or _entries(wanted.told[1]) != _entries(pool)
        ):
            asked = wanted.known.asked if wanted.known else frozenset()
            wanted.former.append(_Former(*wanted.told, asked, self._clock()))
            wanted.told = wanted.known = None
        if balancer is not None:
            wanted.told = (balancer, pool)

    async def _leave(self, former: _Former, now_at: Balancer | None, pool: Pool) -> bool:
        """Leave a place; True when nothing of the pool is there, or when its time is over."""
        try:
            if now_at is not None and await self._is_the_same(former, now_at, pool):
                return True
            shown = await former.balancer.publish(former.pool, ())
        except Problem as problem:
            why = str(problem)
        else:
            if not shown.servers:
                return True
            why = f"{len(shown.servers)} servers did not go"
        behind = former.pool.balancer
        patience = LETTING_GO_SECONDS + (behind.drain_seconds if behind is not None else 0)
        over = self._clock() - former.since >= patience
        if over:
            LOG.warning(
                "%s may still be where it was: %s", former.pool.name, why,
                extra={"action": "publish_failed", "pool": former.pool.name},
            )  # fmt: skip
        return over

    async def _is_the_same(self, former: _Former, now_at: Balancer, pool: Pool) -> bool:
        """Whether the pool is still there, the balancer only being reached in another way."""
        if _entries(former.pool) != _entries(pool):
            return False
        return former.balancer is now_at or (
            await former.balancer.identity() == await now_at.identity()
        )

    async def _tell(
        self,
        name: PoolName,
        wanted: _Wanted,
        balancer: Balancer,
        pool: Pool,
        servers: tuple[Server, ...],
    ) -> None:
        before = wanted.known or Traffic()
        asked = frozenset((one.address, one.port) for one in servers)
        # Whatever becomes of it, cancelled or not answered: it may have been told.
        wanted.known = replace(before, asked=before.asked | asked)
        try:
            shown = await balancer.publish(pool, servers)
        except Problem as problem:
            wanted.known = self._unread(name, wanted.known, problem)
        except Exception as error:
            LOG.exception("publishing failed", extra={"action": "bug", "pool": name})
            bug = Permanent("balancer.failed", f"cannot publish {name}: {error}")
            wanted.known = self._unread(name, wanted.known, bug)
        else:
            wanted.known = self._read(name, before, asked, shown)
        self._show(name, wanted.known.status(balancer.name))
        if _news(before) != _news(wanted.known):
            self._wake(name)

    def _read(
        self, name: PoolName, before: Traffic, asked: frozenset[Place], shown: Shown
    ) -> Traffic:
        for left in shown.left:
            self._recorder.drained(name, seconds=left.seconds, sessions_cut=left.sessions_cut)
            cut = f", {left.sessions_cut} sessions were cut" * bool(left.sessions_cut)
            LOG.log(
                logging.WARNING if left.sessions_cut else logging.INFO,
                "%s left the balancer of %s after %.1f s%s",
                left.name, name, left.seconds, cut,
                extra={"action": "left_balancer", "pool": name, "replica": left.name},
            )  # fmt: skip
        problem = "; ".join(str(problem) for problem in shown.problems)
        self._say(name, before, problem)
        return Traffic(asked=asked, shown=shown, read_at=self._clock(), problem=problem)

    def _unread(self, name: PoolName, before: Traffic, problem: Problem) -> Traffic:
        self._say(name, before, str(problem))
        since = self._clock() if before.silent_since is None else before.silent_since
        return replace(before, silent_since=since, problem=str(problem))

    def _say(self, name: PoolName, before: Traffic, problem: str) -> None:
        """Say a problem when it is new, and when it is over: it is met every second."""
        if problem == before.problem:
            return
        extra = {"action": "publish_failed" if problem else "publishing_again", "pool": name}
        LOG.log(
            logging.WARNING if problem else logging.INFO,
            "%s: %s", name, problem or "its balancer shows its replicas again", extra=extra,
        )  # fmt: skip

    def _patience(self, name: PoolName) -> float:
        behind = self._config().pools[name].balancer
        return behind.drain_seconds if behind is not None else 0.0

    def _wanted(self, name: PoolName) -> _Wanted:
        return self._pools.setdefault(name, _Wanted(asyncio.Event()))


def _haste(wanted: _Wanted) -> float:
    """Return the part of a period after which to look again: somebody may wait for who leaves."""
    shown = wanted.known.shown if wanted.known else None
    leaves = shown is not None and any(server.leaving for server in shown.servers)
    return LEAVING if leaves else 1.0


def _entries(pool: Pool) -> object:
    """Return which entries are the pool's in a balancer."""
    behind = pool.balancer
    if behind is None:
        return None
    return behind.backend or pool.name, behind.slots, "" if behind.slots else pool.replica_name


def _news(known: Traffic) -> object:
    """Return what a plan decides by; counts alone change every second."""
    if known.shown is None:
        return known.problem, known.silent_since, known.asked
    servers = known.shown.servers
    there = frozenset((s.address, s.port) for s in servers)
    leaving = tuple((s.name, s.state, s.sessions, s.queue) for s in servers if s.leaving)
    return known.problem, known.silent_since, known.asked, there, leaving
