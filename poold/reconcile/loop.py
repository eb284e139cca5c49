"""The loop: one worker per pool, serial for a pool, parallel across pools and hosts.

In: wakes (a wish, an outcome, a listing, the clock). Out: actions under way as tasks, each folded
when it ends. `cycle` is one iteration, without waiting for any host; tests call it directly.

A daemon that ends, in order or not, stops waiting and touches nothing: open intents are asked for
again, with the same ids, by the first cycle of its next life.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

from poold.agent.failpoints import failpoint
from poold.balancers.base import Balancer
from poold.config import Config
from poold.errors import Problem, Temporary
from poold.hosts.base import HostLink
from poold.model.balancing import BalancerName
from poold.model.events import Explanation
from poold.model.fleet import HostName, PoolName
from poold.reconcile.actions import Remote, TakeDown, hosts_of
from poold.reconcile.apply import PER_HOST, Apply
from poold.reconcile.ask import Asker
from poold.reconcile.backoff import Backoff
from poold.reconcile.deaths import Deaths
from poold.reconcile.explain import explain
from poold.reconcile.fold import Fold
from poold.reconcile.jobs import Jobs
from poold.reconcile.mover import Mover
from poold.reconcile.news import News
from poold.reconcile.plan import Plan, plan
from poold.reconcile.publishing import Publishing
from poold.reconcile.recorder import Recorder
from poold.reconcile.records import Records
from poold.reconcile.roll_books import RollBooks
from poold.reconcile.sealing import Sealer, Sealing
from poold.reconcile.shown import describe, shown
from poold.reconcile.snapshot import Snapshot
from poold.reconcile.watch import Watch, set_or_after
from poold.reconcile.world import World
from poold.store import Intent, Store

EXPLAINED_EVENTS = 8
LOG = logging.getLogger(__name__)

BOOK_ROUNDS = 20  # each kind of book can bring up each other once or twice


@dataclass(frozen=True, slots=True, kw_only=True)
class Pauses:
    """Seconds between repetitions, where there is no event to wait for or none may come.

    `beat`: a worker with nothing to do still shows that it lives. `look`: at a link's status.
    `list_again`: after a listing that failed. `ask_again`: for the outcome of an action on a host
    that cannot be reached. `after_bug`: when folding itself failed, a full disk for example.
    `publish`: what a balancer shows is compared.
    """

    beat: float = 5.0
    look: float = 0.5
    list_again: float = 2.0
    ask_again: float = 1.0
    after_bug: float = 1.0
    publish: float = 1.0


class Loop:
    """Reconciles all pools. `clock`: seconds since the epoch.

    With a `sealer` a store that was lost gets its generations back from the hosts.
    """

    def __init__(
        self,
        *,
        store: Store,
        world: World,
        links: Mapping[HostName, HostLink],
        config: Callable[[], Config],
        recorder: Recorder,
        clock: Callable[[], float] = time.time,
        pauses: Pauses = Pauses(),
        sealer: Sealer | None = None,
        balancers: Mapping[BalancerName, Balancer] = MappingProxyType({}),
    ) -> None:
        self._pauses = pauses
        self._store = store
        self._world = world
        self._deaths = Deaths()
        self._links = links
        self._config = config
        self._clock = clock
        self._backoff = Backoff(clock)
        self._asker = Asker(
            links,
            lambda: config().daemon,
            again_seconds=pauses.ask_again,
            fenced=lambda host: host in store.hosts.fenced(),
        )
        self._recorder = recorder
        self._news = News(store.events)
        fold = Fold(
            store=store,
            world=world,
            backoff=self._backoff,
            recorder=recorder,
            news=self._news,
            clock=clock,
        )
        receiving: defaultdict[HostName, asyncio.Lock] = defaultdict(asyncio.Lock)
        mover = Mover(
            store=store,
            world=world,
            asker=self._asker,
            backoff=self._backoff,
            recorder=recorder,
            news=self._news,
            clock=clock,
            receiving=receiving,
            ended=self._show_ended,
        )
        self._apply = Apply(
            store=store,
            world=world,
            asker=self._asker,
            fold=fold,
            mover=mover,
            backoff=self._backoff,
            recorder=recorder,
            news=self._news,
            config=config,
            clock=clock,
            slots=defaultdict(lambda: asyncio.Semaphore(PER_HOST)),
            receiving=receiving,
        )
        self._records = Records(
            store=store,
            world=world,
            config=config,
            clock=clock,
            news=self._news,
            rolls=RollBooks(store=store, news=self._news, recorder=recorder),
        )
        self._publishing = Publishing(
            balancers=balancers,
            config=config,
            clock=clock,
            wake=self.wake,
            show=world.published,
            recorder=recorder,
            every_seconds=pauses.publish,
        )
        self.publish = self._publishing.once
        self._jobs = Jobs(self._backoff, after_bug_seconds=pauses.after_bug, ended=self._look_after)
        self._wakes: defaultdict[PoolName, asyncio.Event] = defaultdict(asyncio.Event)
        self._watch = Watch(
            links=links,
            world=world,
            asker=self._asker,
            names=self._records.names,
            news=self._news,
            config=config,
            look_seconds=pauses.look,
            list_again_seconds=pauses.list_again,
            seen=self._wake_all,
            sealing=None
            if sealer is None
            else Sealing(
                store=store, sealer=sealer, link=self._asker.link, config=config, news=self._news
            ),
        )
        self.heard, self.observe = self._watch.heard, self._watch.observe
        self._beats: dict[PoolName, float] = {}
        self._pulse_at = time.monotonic()
        self._said: dict[PoolName, str] = {}
        self._fenced = store.hosts.fenced()
        self._staff: dict[str, tuple[object, asyncio.Task[None]]] = {}
        self._reconfigured = asyncio.Event()
        store.listen(self.wake)
        store.listen(self._let_go_of_fenced)

    # -- running ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Reconcile until cancelled; whatever dies in here ends it."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pulse(), name="pulse")
                while True:
                    self._reconfigured.clear()
                    self._staff_up(group)
                    await self._reconfigured.wait()
        finally:
            self._staff.clear()
            await self.close()

    def _staff_up(self, group: asyncio.TaskGroup) -> None:
        """Have one worker per pool that is known and one watch per link, and no others."""
        wanted: dict[str, tuple[object, Callable[[], Coroutine[Any, Any, None]]]] = {}
        for host, link in self._links.items():
            wanted[f"watch {host}"] = (link, partial(self._watch.run, host))
        for pool in self._pools():
            wanted[f"pool {pool}"] = (None, partial(self._work, pool))
            if self._publishing.concerns(pool):
                wanted[f"balancer of {pool}"] = (None, partial(self._publishing.run, pool))
        for name, (of, task) in tuple(self._staff.items()):
            if name not in wanted or wanted[name][0] is not of:
                task.cancel()
                del self._staff[name]
        for name, (of, work) in wanted.items():
            if name not in self._staff:
                self._staff[name] = (of, group.create_task(work(), name=name))

    def reconfigured(self) -> None:
        """Follow a configuration and links that changed, from now on; running replicas stay.

        What was under way at a host that left stays open in the store, as after a restart.
        """
        self._jobs.cancel(lambda host: host not in self._links)
        self._reconfigured.set()
        self._wake_all()

    def _let_go_of_fenced(self, _pool: PoolName) -> None:
        """Stop what is under way at hosts that were declared dead, so that it never arrives."""
        fenced = self._store.hosts.fenced()
        new, self._fenced = fenced - self._fenced, fenced
        if new:
            self._jobs.cancel(lambda host: host in new)

    async def close(self) -> None:
        """Stop waiting for actions under way; they go on where they are."""
        await self._jobs.close()

    def beat(self) -> float:
        """Return the monotonic time at which the slowest worker was last seen alive.

        Workers never wait for a host: a long action does not hold them up, a stuck one does not
        beat.
        """
        return min(self._beats.values(), default=self._pulse_at)

    def wake(self, pool: PoolName) -> None:
        """Have a pool looked at now."""
        self._wakes[pool].set()

    def _wake_all(self) -> None:
        for pool in self._pools():
            self.wake(pool)

    def _pools(self) -> list[PoolName]:
        return sorted({*self._config().pools, *self._store.known_pools()})

    async def _work(self, pool: PoolName) -> None:
        while True:
            self._beats[pool] = time.monotonic()
            self._wakes[pool].clear()
            try:
                wake_at = (await self.cycle(pool)).wake_at
            except Temporary as problem:  # the store's disk is full
                LOG.error("%s", problem, extra={"action": "cycle_failed", "pool": pool})  # noqa: TRY400
                wake_at = self._clock() + self._pauses.after_bug
            delay = self._pauses.beat if wake_at is None else wake_at - self._clock()
            await set_or_after(self._wakes[pool], min(max(delay, 0.01), self._pauses.beat))

    async def _pulse(self) -> None:
        """Beat for a daemon without pools: nothing to do is not stuck."""
        while True:
            self._pulse_at = time.monotonic()
            await asyncio.sleep(self._pauses.beat)

    # -- one iteration ----------------------------------------------------------------------------

    async def cycle(self, pool: PoolName) -> Plan:
        """Write the books, plan, end changes and begin what the plan says; waits for no host."""
        snapshot, decided = self._decide(pool)
        if self._said.get(pool) != decided.sentence:
            self._said[pool] = decided.sentence
            LOG.info("%s", decided.sentence, extra={"action": "planned", "pool": pool})
            self._records.tell(pool, decided.sentence)
        self._records.show(snapshot, decided)
        if decided.servers is not None or snapshot.traffic is None:  # or it stands still, as told
            # before anything is done by this plan
            self._publishing.want(pool, decided.servers, decided.leaving)
        for forced in decided.forced:
            LOG.warning("%s", forced, extra={"action": "stopped_listed", "pool": pool})
        self._end(decided)
        self._resume_intents(pool)
        for action in decided.actions:
            self._begin(pool, action)
        await asyncio.sleep(0)
        return decided

    def _decide(self, pool: PoolName) -> tuple[Snapshot, Plan]:
        for _ in range(BOOK_ROUNDS):
            snapshot = self._snapshot(pool, self._jobs.busy(pool))
            decided = plan(snapshot, self._clock())
            if not decided.books:
                self._news.seen(snapshot)
                return snapshot, decided
            try:
                self._records.write(pool, decided.books)
            except Temporary as problem:  # the store's disk is full, or another pool has a name
                return snapshot, self._standing_still(snapshot, problem)
        endless = Temporary("loop.books", "cannot settle its books", hint="please report it")
        return snapshot, self._standing_still(snapshot, endless)

    def _standing_still(self, snapshot: Snapshot, problem: Problem) -> Plan:
        """Decide nothing for a pool whose books cannot be written, say why, and look again."""
        text = f"{snapshot.name}: {problem}"
        if self._said.get(snapshot.name) != text:
            extra = {"action": "cycle_failed", "pool": snapshot.name, "code": problem.code}
            LOG.error("%s", text, extra=extra)
        return Plan(
            replicas=shown(snapshot, {}, {}),
            sentence=text,
            wake_at=self._clock() + self._pauses.after_bug,
        )

    def _snapshot(self, pool: PoolName, busy: Mapping[str, str]) -> Snapshot:
        """Freeze what a plan may know, who died and has to wait for it included."""
        snapshot = self._records.snapshot(
            pool,
            busy=busy,
            retries=self._backoff.of(pool),
            traffic=self._publishing.known(pool),
        )
        for death in self._deaths.look(snapshot, self._clock()):
            LOG.warning("%s", death, extra={"action": "died", "pool": pool, "replica": death.name})
        return self._deaths.with_waits(snapshot)

    def explain(self, name: str) -> Explanation:
        """Say why a pool is as it is and what it waits for; asks no host, changes nothing."""
        pool, now = PoolName(name), self._clock()
        snapshot = self._deaths.with_waits(
            self._records.snapshot(
                pool,
                busy=self._jobs.busy(pool),
                retries=self._backoff.of(pool),
                traffic=self._publishing.known(pool),
            )
        )
        decided = plan(snapshot, now)
        if decided.books:  # about to be written; until then it is shown as it was
            shown = next((s for s in self._world.pools() if s.name == name), None)
            decided = replace(
                decided,
                replicas=self._world.replicas(name),
                sentence=shown.sentence if shown else f"{name} is looked at",
            )
        return explain(
            snapshot,
            decided,
            now,
            revision=self._store.calls.revision(name),
            events=self._store.events.newest(pool=name, limit=EXPLAINED_EVENTS),
        )

    def _show_ended(self, pool: PoolName, subject: str) -> None:
        """Show a pool as it is when an action that is about to end will have ended."""
        busy = {s: text for s, text in self._jobs.busy(pool).items() if s != subject}
        snapshot = self._snapshot(pool, busy)
        decided = plan(snapshot, self._clock())
        if not decided.books:
            self._records.show(snapshot, decided)

    def _end(self, decided: Plan) -> None:
        for verdict in decided.verdicts:
            change = verdict.change
            failpoint("change.before_end", change.kind)
            self._store.end_change(
                change.id,
                verdict.state,
                progress=verdict.progress,
                problem=verdict.problem,
                phases=verdict.phases,
            )
            self._recorder.change_ended(
                change.pool, change.kind, "success" if verdict.state == "settled" else "failure"
            )
            failpoint("change.ended", change.kind)
            LOG.info(
                "change %d %s: %s", change.id, verdict.state, verdict.progress,
                extra={"action": verdict.state, "pool": change.pool, "change": change.id},
            )  # fmt: skip

    def _resume_intents(self, pool: PoolName) -> None:
        """Ask again for what nobody waits for any more: left by a crash, or by a lost timer."""
        for intent in self._store.intents(pool):
            if intent.host in self._links:
                self._jobs.begin(
                    pool,
                    intent.subject,
                    _resumed(intent),
                    partial(self._apply.finish, intent),
                    {intent.host},
                )

    def _begin(self, pool: PoolName, action: Remote) -> None:
        found = self._records.pool(pool)
        if found is None:
            if isinstance(action, TakeDown):  # a spare that nobody will ever need
                remove = partial(self._apply.take_down, pool, action, stop_timeout_seconds=0)
                self._jobs.begin(pool, action.subject, describe(action), remove, {action.host})
            return
        try:
            reserved = self._apply.reserve(found, action)
        except Temporary as problem:  # nothing may start that is not written down
            LOG.error("%s", problem, extra={"action": "reserve_failed", "pool": pool})  # noqa: TRY400
            self._backoff.failed(pool, action.subject, problem, definite=False)
            return
        self._deaths.begun(pool, action)
        self._jobs.begin(
            pool,
            action.subject,
            describe(action),
            partial(self._apply.run, found, action, reserved),
            hosts_of(action, self._store.moves(pool)),
        )

    def _look_after(self, pool: PoolName) -> None:
        """Look again at a pool for which an action ended, and at hosts that it left uncertain."""
        for host in self._world.hosts_unsure():
            self._watch.look(host)
        self.wake(pool)

    async def drain(self) -> None:
        """Wait until no action is under way."""
        await self._jobs.drain()


def _resumed(intent: Intent) -> str:
    return f"finding out about {intent.request.verb} on {intent.host}"
