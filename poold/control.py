"""What may be asked of the daemon: each accepted wish is one durable transaction.

In: calls of the API. Out: changes, or a Refused that says why not. It writes wishes and knows
nothing of how they are fulfilled; the loop is told through the store and decides later.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Protocol

from poold.agent.failpoints import failpoint
from poold.errors import Refused
from poold.model.compat import incompatible
from poold.model.fleet import (
    Change,
    ChangeKind,
    Host,
    HostName,
    HostStatus,
    Pool,
    PoolName,
    Replica,
    ReplicaName,
)
from poold.naming import missing_names, surplus_names
from poold.store import Move, Store, Wish, way_to_free

LOG = logging.getLogger(__name__)


class Configured(Protocol):
    """The part of the configuration that wishes are checked against."""

    @property
    def hosts(self) -> Mapping[HostName, Host]:
        """The configured hosts."""

    @property
    def pools(self) -> Mapping[PoolName, Pool]:
        """The configured pools."""


class Replicas(Protocol):
    """The part of the world that wishes are checked against."""

    def replicas(self, pool: str | None = None) -> tuple[Replica, ...]:
        """Return a pool's replicas as last known."""

    def hosts(self) -> tuple[HostStatus, ...]:
        """Return how each host is."""

    def foreign_on(self, name: HostName, /) -> frozenset[str]:
        """Return the names like ours that others' containers on a host were seen to have."""


class Control:
    """Accepts or refuses; every method either raises Refused or has written a change."""

    def __init__(self, *, store: Store, world: Replicas, config: Callable[[], Configured]) -> None:
        self._store = store
        self._world = world
        self._config = config

    def scale(
        self,
        pool: str,
        *,
        replicas: int | None = None,
        delta: int | None = None,
        actor: str,
        reason: str = "",
    ) -> Change:
        """Wish for so many replicas, or for `delta` more or fewer than are wished now."""
        found = self._pool(pool)
        if (replicas is None) == (delta is None):
            raise Refused(
                "scale.ambiguous",
                f"cannot scale {pool}: give a number or a difference, one of both",
            )
        with self._store.transaction():
            wishes = self._store.wishes(pool)
            count = replicas if replicas is not None else len(wishes) + (delta or 0)
            self._check_bounds(found, count)
            self._refuse_unsettled_moves(found, len(wishes) - count)
            wished = {wish.name for wish in wishes}
            added = missing_names(found, wished, count, self._foreign_on(found.hosts))
            moving = {move.name for move in self._store.moves(pool)}
            removed = surplus_names(
                found, wishes, len(wishes) - count, ready=self._ready(found), moving=moving
            )
            for name in added:
                self._put(Wish(name=name, pool=found.name))
            for name in removed:
                self._store.drop_wish(name)
            self._settle_first_wish(found)
            names = sorted(wished - set(removed) | set(added))
            change = self._accept(
                found,
                "scale",
                {"replicas": count, "names": names, "removed": removed},
                actor=actor,
                reason=reason,
                done=not added and not removed and self._are_ready(found, names),
                relieves=bool(removed),
            )
        return self._accepted(change)

    def restore(
        self,
        pool: str,
        *,
        name: str | None = None,
        host: str | None = None,
        actor: str,
        reason: str = "",
    ) -> Change:
        """Wish for one more replica; one that is wished already is no more than waited for."""
        found = self._pool(pool)
        if name is not None and found.number(name) is None:
            raise Refused(
                "replica.bad-name",
                f"cannot restore {name}: it is not a replica's name of the pool {pool}",
                hint=f"its names are {found.replica(1)}, {found.replica(2)}, …",
            )
        pin = self._host_of_pool(found, host) if host is not None else None
        with self._store.transaction():
            wishes = {wish.name: wish for wish in self._store.wishes(pool)}
            if name is not None and name in wishes:
                chosen = ReplicaName(name)
                self._refuse_elsewhere(chosen, pin)
            else:
                self._check_bounds(found, len(wishes) + 1)
                self._refuse_closed(pin)
                chosen = self._name_on(found, name, wishes, (pin,) if pin else found.hosts)
                self._put(Wish(name=chosen, pool=found.name, host=pin))
            wish = {"name": chosen, "host": pin, "names": [chosen]}
            done = chosen in wishes and chosen in self._ready(found)
            change = self._accept(found, "restore", wish, actor=actor, reason=reason, done=done)
        return self._accepted(change)

    def remove(self, replica: str, *, actor: str, reason: str = "") -> Change:
        """Wish for this replica no more."""
        with self._store.transaction():
            wish = self._wish(replica)
            found = self._pool_of(wish, "remove")
            self._refuse_moving(wish.name, "remove")
            self._check_bounds(found, len(self._store.wishes(wish.pool)) - 1)
            self._store.drop_wish(wish.name)
            change = self._accept(
                found,
                "remove",
                {"name": wish.name, "removed": [wish.name]},
                actor=actor,
                reason=reason,
                relieves=True,
            )
        return self._accepted(change)

    def move(self, replica: str, *, to: str, actor: str, reason: str = "") -> Change:
        """Wish for a ready replica to go on running on another host, its memory with it."""
        with self._store.transaction():
            wish = self._wish(replica)
            found = self._pool_of(wish, "move")
            target = self._host_of_pool(found, to)
            self._refuse_moving(wish.name, "move")
            self._refuse_closed(target)
            assignment = self._store.assignment(wish.name)
            if assignment is not None and assignment.host == target:
                raise Refused("move.same-host", f"cannot move {replica} to {to}: it is there")
            now = next((r for r in self._world.replicas(found.name) if r.name == replica), None)
            if assignment is None or now is None or now.state != "ready":
                state = now.state if now else "waiting"
                raise Refused(
                    "move.not-ready",
                    f"cannot move {replica}: it is {state}, and only a ready replica can move",
                    hint="wait until it is ready",
                )
            self._refuse_incompatible(wish.name, assignment.host, target)
            self._refuse_full(wish.name, target)
            change = self._accept(
                found,
                "move",
                {"name": wish.name, "from": assignment.host, "to": target},
                actor=actor,
                reason=reason,
            )
            self._store.put_move(
                Move(
                    name=wish.name,
                    pool=found.name,
                    change=change.id,
                    source=assignment.host,
                    target=target,
                    step="image",
                    action=uuid.uuid4().hex,
                    container_id=now.container_id or "",
                )
            )
        return self._accepted(change)

    def checkpoint(self, pool: str, *, actor: str, reason: str = "") -> Change:
        """Wish for a new generation, proven and on every reachable host of the pool."""
        found = self._pool(pool)
        hold = self._store.rolls.hold(pool)
        if hold is not None:
            raise Refused(
                "pool.held",
                f"cannot checkpoint {pool}: it is held at generation {hold.number}",
                hint=f"poold roll {pool} ends that",
            )
        change = self._accept(found, "checkpoint", {}, actor=actor, reason=reason)
        return self._accepted(change)

    def import_archive(
        self, pool: str, *, file: str, host: str | None = None, actor: str, reason: str = ""
    ) -> Change:
        """Wish for a generation made of an archive that podman exported, a file on that host."""
        found = self._pool(pool)
        where = self._host_of_pool(found, host) if host is not None else found.builder
        hold = self._store.rolls.hold(pool)
        if hold is not None:
            raise Refused(
                "pool.held",
                f"cannot import into {pool}: it is held at generation {hold.number}",
                hint=f"poold roll {pool} ends that",
            )
        wish = {"file": file, "host": where}
        return self._accepted(self._accept(found, "import", wish, actor=actor, reason=reason))

    def count(self, pool: str) -> int:
        """Return how many replicas are wished now."""
        return len(self._store.wishes(self._pool(pool).name))

    # -- checks -----------------------------------------------------------------------------------

    def _pool(self, name: str) -> Pool:
        pools = self._config().pools
        found = pools.get(PoolName(name))
        if found is None:
            raise Refused(
                "pool.unknown",
                f"cannot find the pool {name}",
                hint=f"configured are: {', '.join(sorted(pools)) or 'none'}",
            )
        return found

    def _pool_of(self, wish: Wish, verb: str) -> Pool:
        found = self._config().pools.get(wish.pool)
        if found is None:
            raise Refused(
                "pool.unknown",
                f"cannot {verb} {wish.name}: its pool {wish.pool} left the configuration",
                hint=f"put {wish.pool} back into the configuration; what runs is left running",
            )
        return found

    def _host_of_pool(self, pool: Pool, name: str) -> HostName:
        if name not in self._config().hosts:
            raise Refused(
                "host.unknown",
                f"cannot find the host {name}",
                hint=f"configured are: {', '.join(sorted(self._config().hosts)) or 'none'}",
            )
        if name not in pool.hosts:
            raise Refused(
                "host.not-of-pool",
                f"cannot use the host {name} for the pool {pool.name}: it is not one of its hosts",
                hint=f"its hosts are: {', '.join(pool.hosts)}",
            )
        return HostName(name)

    def _wish(self, replica: str) -> Wish:
        found = next((wish for wish in self._store.wishes() if wish.name == replica), None)
        if found is None:
            raise Refused(
                "replica.unknown",
                f"cannot find the replica {replica}",
                hint=self._why_unknown(replica),
            )
        return found

    def _why_unknown(self, replica: str) -> str:
        for pool in self._config().pools:
            roll = self._store.rolls.get(pool)
            if roll is not None and replica in (*roll.extras, *roll.leaving):
                return f"it is an extra one while {pool} rolls, and goes by itself"
        return "poold ps lists them"

    def _check_bounds(self, pool: Pool, count: int) -> None:
        if not pool.min <= count <= pool.max:
            raise Refused(
                "scale.out-of-bounds",
                f"cannot run {count} replicas of {pool.name}: it may have {pool.min} to {pool.max}",
                hint="change min or max of the pool in the configuration",
            )

    def _refuse_elsewhere(self, name: ReplicaName, pin: HostName | None) -> None:
        assignment = self._store.assignment(name)
        if pin is not None and assignment is not None and assignment.host != pin:
            raise Refused(
                "replica.elsewhere",
                f"cannot restore {name} on {pin}: the name is in use on {assignment.host}",
                hint=f"poold move {name} --to {pin}",
            )

    def _refuse_closed(self, host: HostName | None) -> None:
        mark = self._store.hosts.of(host) if host is not None else None
        if mark is not None:
            raise Refused(
                "host.cordoned",
                f"cannot place anything on {host}: it is {mark.mark} by {mark.actor}"
                + (f": {mark.reason}" if mark.reason else ""),
                hint=f"poold host uncordon {host}, or choose another host",
            )

    def _refuse_incompatible(self, name: ReplicaName, source: HostName, target: HostName) -> None:
        """Compare the hosts as they are known: what is frozen on one is thawed on the other."""
        there = {status.name: status.facts for status in self._world.hosts()}
        reasons = incompatible(there.get(source, {}), there.get(target, {}))
        if reasons:
            raise Refused(
                "host.incompatible",
                f"cannot move {name} from {source} to {target}: {', '.join(reasons)}",
                hint="move it to a host like its own; poold hosts shows how they differ",
            )

    def _refuse_full(self, name: ReplicaName, host: HostName) -> None:
        """Count what the host has and what is on its way there, of all pools."""
        coming = (move.name for move in self._store.moves() if move.target == host)
        count = len({*self._store.hosts.names(host), *coming})
        most = self._config().hosts[host].max_replicas
        if count >= most:
            raise Refused(
                "host.full",
                f"cannot move {name} to {host}: it has as many replicas as it may, {most}",
                hint="choose another host, or raise its max_replicas",
            )

    def _refuse_moving(self, name: ReplicaName, verb: str) -> None:
        move = next((move for move in self._store.moves() if move.name == name), None)
        if move is not None:
            raise Refused(
                "replica.moving",
                f"cannot {verb} {name}: it is moving from {move.source} to {move.target}",
                hint=f"wait for change {move.change}",
            )

    def _refuse_unsettled_moves(self, pool: Pool, surplus: int) -> None:
        moving = len(self._store.moves(pool.name))
        if surplus > len(self._store.wishes(pool.name)) - moving:
            raise Refused(
                "replica.moving",
                f"cannot remove {surplus} replicas of {pool.name}: {moving} are moving",
                hint="wait until they have moved",
            )

    # -- names ------------------------------------------------------------------------------------

    def _name_on(
        self, pool: Pool, asked: str | None, wished: Collection[str], hosts: Iterable[HostName]
    ) -> ReplicaName:
        """Return the name asked for, or the lowest free one, that can be had on these hosts."""
        foreign = self._foreign_on(hosts)
        if asked is None:
            return missing_names(pool, wished, len(wished) + 1, foreign)[0]
        if asked in foreign:
            raise Refused(
                "replica.name-taken",
                f"cannot use the name {asked} on {', '.join(sorted(hosts))}: a container that is "
                "not ours has it",
                hint="remove or rename that container, or wish for another name or host",
            )
        return ReplicaName(asked)

    def _foreign_on(self, hosts: Iterable[HostName]) -> frozenset[str]:
        """Return the names that others' containers have on every one of these hosts."""
        return frozenset.intersection(*map(self._world.foreign_on, hosts))

    def _are_ready(self, pool: Pool, names: Iterable[str]) -> bool:
        held = {assignment.name for assignment in self._store.assignments(pool.name)}
        return held <= set(names) <= self._ready(pool)

    def _ready(self, pool: Pool) -> set[ReplicaName]:
        return {r.name for r in self._world.replicas(pool.name) if r.state == "ready"}

    # -- acceptance -------------------------------------------------------------------------------

    def _settle_first_wish(self, pool: Pool) -> None:
        """Let a number that was asked for take the place of the configuration's first one."""
        if self._store.see_pool(pool.name).first_wish_at is None:
            self._store.first_wished(pool.name)

    def _put(self, wish: Wish) -> None:
        if self._store.put_wish(wish):
            return
        holder = self._store.holder(wish.name, besides=wish.pool) or PoolName("")
        raise Refused(
            "replica.bad-name",
            f"cannot use the name {wish.name} for {wish.pool}: the pool {holder} has it",
            hint="give one of the two pools another replica_name"
            if holder in self._config().pools
            else way_to_free(holder),
        )

    def _accept(
        self,
        pool: Pool,
        kind: ChangeKind,
        wish: Mapping[str, object],
        *,
        actor: str,
        reason: str,
        done: bool = False,
        relieves: bool = False,
    ) -> Change:
        change = self._store.accept(
            pool=pool.name,
            kind=kind,
            wish=wish,
            actor=actor,
            reason=reason,
            done=done,
            relieves=relieves,
        )
        failpoint("wish.before_commit", kind)
        return change

    def _accepted(self, change: Change) -> Change:
        """Say so when it is durable: with the outermost transaction, which may be the caller's."""
        self._store.after_commit(partial(self._say, change))
        return change

    def _say(self, change: Change) -> None:
        failpoint("wish.accepted", change.kind)
        LOG.info(
            "accepted %s of %s: %s",
            change.kind,
            change.pool,
            change.wish,
            extra={"action": "accepted", "pool": change.pool, "change": change.id},
        )
        self._store.notify(change.pool)
