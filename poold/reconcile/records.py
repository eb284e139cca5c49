"""Between the store and the plan: takes snapshots, writes the books, shows the result.

In: a pool's name. Out: a snapshot for `plan`, and what its book actions say, durably. It decides
nothing and asks no host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from poold.agent.failpoints import failpoint
from poold.agent.messages import ContainerFact, Restore, Started
from poold.config import Config
from poold.model.fleet import (
    Digest,
    Generation,
    HostName,
    Pool,
    PoolName,
    PoolStatus,
    ReplicaName,
)
from poold.reconcile import images, spares
from poold.reconcile.actions import (
    COLD,
    Adopt,
    Disown,
    FirstWish,
    Forget,
    Introduce,
    Learn,
    Local,
    Pardon,
    Release,
    Retire,
    Serve,
    TurnRoll,
    restore_rung,
)
from poold.reconcile.move import action_of
from poold.reconcile.news import News
from poold.reconcile.plan import Plan
from poold.reconcile.published import Traffic
from poold.reconcile.roll_books import RollBooks
from poold.reconcile.snapshot import HostView, Retry, Snapshot
from poold.reconcile.world import World
from poold.store import Assignment, Garbage, Store, Wish, name_taken
from poold.store.rolls import as_held


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """Reads and writes for one loop."""

    store: Store
    world: World
    config: Callable[[], Config]
    clock: Callable[[], float]
    news: News
    rolls: RollBooks
    explained: set[tuple[PoolName, str]] = field(default_factory=set)

    def names(self) -> tuple[str, ...]:
        """Return every name that is ours to use, so that foreign containers with one are seen."""
        pools = self.config().pools.values()
        return _all_names(self.store.replica_names(), tuple((p.replica_name, p.max) for p in pools))

    def pool(self, name: PoolName) -> Pool | None:
        """Return a configured pool; of a held one the application is that of its generation."""
        found = self.config().pools.get(name)
        return None if found is None else as_held(found, self.store.rolls.hold(name))

    def snapshot(
        self,
        name: PoolName,
        *,
        busy: Mapping[str, str],
        retries: Mapping[str, Retry],
        traffic: Traffic | None = None,
    ) -> Snapshot:
        """Freeze all that a plan for this pool may know."""
        pool, configured = self.pool(name), self._configured(name)
        known = self.store.see_pool(name)
        wishes, mine = self.store.wishes(name), self.store.assignments(name)
        roll, generations = self.store.rolls.get(name), self.store.generations(name)
        extras = frozenset(roll.extras if roll else ()) - {wish.name for wish in wishes}
        wishes += tuple(Wish(name=extra, pool=name) for extra in sorted(extras))
        intents, moves = self.store.intents(name), self.store.moves(name)
        waiting = {i.subject: f"finding out about {i.request.verb} on {i.host}" for i in intents}
        names = {*(w.name for w in wishes), *(a.name for a in mine)}
        if pool is not None:
            names.update(map(ReplicaName, _names_of(pool.replica_name, pool.max)))
        return Snapshot(
            name=name,
            pool=pool,
            seen_at=known.seen_at,
            first_wished=known.first_wish_at is not None,
            introduced=known.introduced,
            wishes=wishes,
            assignments=mine,
            generations=generations,
            moves=moves,
            garbage=self.store.garbage(name),
            changes=self.store.pending_changes(name),
            hosts=self._hosts(name, names),
            busy={**waiting, **busy},
            retries=retries,
            own_actions=frozenset(
                {*(i.action for i in intents), *(action_of(m, "capture") for m in moves)}
            ),
            quarantine={(q.host, q.digest): q for q in self.store.quarantine.all(name)},
            hold=self.store.rolls.hold(name),
            roll=roll,
            extras=extras,
            configured=configured,
            served=known.served,
            served_image=known.served_image,
            unexplained=self._unexplained(name, configured, generations),
            traffic=traffic,
            claimed=frozenset(
                i.request.spare for i in intents if isinstance(i.request, Restore)
            ).difference({""}),
        )

    def _configured(self, name: PoolName) -> str:
        pool = self.config().pools.get(name)
        return pool.application.fingerprint() if pool else ""

    def _unexplained(
        self, name: PoolName, configured: str, generations: Iterable[Generation]
    ) -> tuple[int, ...]:
        """Find what an older poold left, once in a life: what is built since is known."""
        if (name, configured) in self.explained:
            return ()
        bare = self.store.rolls.unexplained(name)
        fitting = (g.number for g in generations if g.manifest.fingerprint == configured)
        numbers = tuple(number for number in fitting if number in bare)
        if not numbers:
            self.explained.add((name, configured))
        return numbers

    def _hosts(self, pool: PoolName, names: Iterable[str]) -> dict[HostName, HostView]:
        rooms = {name: host.max_replicas for name, host in self.config().hosts.items()}
        return self.world.views(pool, names, rooms=rooms, others=self.store.load_without(pool))

    # -- writing ----------------------------------------------------------------------------------

    def write(self, pool: PoolName, books: Iterable[Local]) -> None:
        """Write down what was decided without any host, all at once."""
        with self.store.transaction():
            for action in books:
                self._write(pool, action)
                failpoint("books.before_commit", type(action).__name__)
        failpoint("books.written")

    def _write(self, pool: PoolName, action: Local) -> None:
        match action:
            case Introduce(host, found):
                for fact in found:
                    self._wish_first(Wish(name=ReplicaName(fact.name), pool=pool))
                self.store.introduce(pool, host)
            case FirstWish(names):
                for name in names:
                    self._wish_first(Wish(name=name, pool=pool))
                self.store.first_wished(pool)
            case Adopt(host, fact):
                adopted = self._adopted(pool, host, fact)
                self.store.put_assignment(adopted)
                self.news.adopted(adopted)
            case Forget(name, host):
                self.store.drop_assignment(name, host)
            case Retire(number, digest, hosts):
                self.store.retire_generation(pool, number, digest, hosts)
                self.store.quarantine.drop(pool=pool, digest=digest)
                self.news.retired(pool, number)
            case Disown(digest, host):
                self.store.put_garbage(Garbage(digest=digest, host=host, pool=pool))
                self.news.disowned(pool, digest, host, "it bears no seal of this daemon")
            case Pardon(digest, host, number, reason):
                self.store.quarantine.drop(pool=pool, digest=digest, host=host)
                self.news.pardoned(pool, number, host, reason)
            case TurnRoll() | Serve() | Release() | Learn():
                self.rolls.write(self.config().pools[pool], action)

    def _wish_first(self, wish: Wish) -> None:
        """Wish for a configured or found replica, or say who has its name: then none is wished."""
        if not self.store.put_wish(wish):
            holder = self.store.holder(wish.name, besides=wish.pool) or ""
            raise name_taken(wish.name, wish.pool, holder)

    def _adopted(self, pool: PoolName, host: HostName, fact: ContainerFact) -> Assignment:
        digest = Digest(fact.digest)
        return Assignment(
            name=ReplicaName(fact.name),
            pool=pool,
            host=host,
            since=self.clock(),
            rung=restore_rung(digest) if digest else COLD,
            generation=self.store.generation_number(pool, digest) if digest else None,
            started=_found(fact),
        )

    # -- showing ----------------------------------------------------------------------------------

    def tell(self, pool: PoolName, sentence: str) -> None:
        """Give the sentence to those who wait for a change of the pool."""
        moving = {move.change for move in self.store.moves(pool)}
        for change in self.store.pending_changes(pool):
            if change.id not in moving:
                self.store.tell(change.id, sentence)

    def show(self, snapshot: Snapshot, decided: Plan) -> None:
        """Let readers see the pool as the plan says it is."""
        name, wished, usable = snapshot.name, snapshot.wished(), snapshot.usable()
        if snapshot.pool is None and not decided.replicas:
            self.world.forget_pool(name)
            return
        another = images.renamed(snapshot)
        hold, desired = snapshot.hold, len(wished) - len(snapshot.extras)
        ready = sum(1 for r in decided.replicas if r.state == "ready" and r.name in wished)
        status = PoolStatus(
            name=name,
            desired=desired,
            ready=min(ready, desired),
            generation=usable[0].number if usable else None,
            sentence=decided.sentence,
            held=hold.number if hold else None,
            roll=decided.roll,
            spares=spares.shown(snapshot),
            spares_wished=snapshot.pool.spares_in_all if snapshot.pool else 0,
            image_note=another.sentence if another else "",
        )
        self.world.planned(status, decided.replicas)


@lru_cache(maxsize=1024)
def _names_of(replica_name: str, most: int) -> frozenset[str]:
    """Return the names that a pool can have: the same for every cycle and listing."""
    return frozenset(replica_name.replace("{n}", str(number)) for number in range(1, most + 1))


@lru_cache(maxsize=4)
def _all_names(known: tuple[str, ...], pools: tuple[tuple[str, int], ...]) -> tuple[str, ...]:
    return tuple(sorted({*known}.union(*(_names_of(*pool) for pool in pools))))


def _found(fact: ContainerFact) -> Started:
    method: Literal["restore", "cold"] = "restore" if fact.digest else "cold"
    return Started(
        name=fact.name,
        container_id=fact.container_id,
        address=fact.address,
        method="move" if fact.method == "move" else "spare" if fact.method == "spare" else method,
        seconds=0.0,
        started_at=fact.started_at,
        engine=fact.engine,
    )
