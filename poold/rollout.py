"""What may be asked about generations in service: to roll to one, and to go back.

In: calls of the API. Out: changes, or a Refused that says why not. It writes which generation is
to serve; which replica is replaced when, the loop decides.

A pool goes with its configuration: the newest generation of the application as it is configured is
the current one. Rolling to any other one *holds* the pool there, its application included, until
it is rolled on or the configuration's application changes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from poold.agent.failpoints import failpoint
from poold.errors import Refused
from poold.model.fleet import Change, ChangeKind, Generation, Pool, PoolName, Replica
from poold.store import Store
from poold.store.rolls import as_held, begin_roll, in_service

LOG = logging.getLogger(__name__)


class Configured(Protocol):
    """The part of the configuration that is needed here."""

    @property
    def pools(self) -> Mapping[PoolName, Pool]:
        """The configured pools."""


class Replicas(Protocol):
    """The part of the world that is needed here."""

    def replicas(self, pool: str | None = None) -> tuple[Replica, ...]:
        """Return a pool's replicas as last known."""


class Rollout:
    """Accepts or refuses; every method either raises Refused or has written a change."""

    def __init__(self, *, store: Store, world: Replicas, config: Callable[[], Configured]) -> None:
        self._store = store
        self._world = world
        self._config = config

    def roll(
        self,
        pool: str,
        *,
        to: int | None = None,
        surge: int | None = None,
        unavailable: int | None = None,
        actor: str,
        reason: str = "",
    ) -> Change:
        """Wish for all replicas to be of one generation: the newest that fits, or this one.

        A roll that is paused or under way goes on as this one.
        """
        found = self._pool(pool)
        limits = _limits(found, surge, unavailable)
        with self._store.transaction():
            generations = self._store.generations(pool)
            fitting = in_service(generations, found.application.fingerprint(), None)
            newest = tuple(g for g in fitting if g.builder == found.builder) or fitting
            target = newest[0] if newest else None
            if to is not None:
                target = _numbered(found, generations, to)
            is_newest = target is None or target in newest[:1]
            self._serve(found, None if is_newest else target, actor)
            change = self._begin(found, "roll", target, limits, actor, reason)
        return self._accepted(change)

    def rollback(
        self,
        pool: str,
        *,
        to: int | None = None,
        surge: int | None = None,
        unavailable: int | None = None,
        actor: str,
        reason: str = "",
    ) -> Change:
        """Wish for all replicas to be of the generation before the current one, or of this one.

        The pool is held there, whatever its configuration says.
        """
        found = self._pool(pool)
        limits = _limits(found, surge, unavailable)
        with self._store.transaction():
            generations = self._store.generations(pool)
            if to is not None:
                target = _numbered(found, generations, to)
            else:
                target = self._before(found, generations)
            self._serve(found, target, actor)
            change = self._begin(found, "rollback", target, limits, actor, reason)
        return self._accepted(change)

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

    def _before(self, pool: Pool, generations: tuple[Generation, ...]) -> Generation:
        """Return the newest generation older than the current one; without one, the newest.

        Those that other hosts made for their own kind follow the builder's.
        """
        generations = tuple(g for g in generations if g.builder == pool.builder) or generations
        hold = self._store.rolls.hold(pool.name)
        fingerprint = as_held(pool, hold).application.fingerprint()
        usable = in_service(generations, fingerprint, hold)
        older = [g for g in generations if not usable or g.number < usable[0].number]
        if not older:
            now = f"generation {usable[0].number}" if usable else "what is built first"
            raise Refused(
                "rollback.no-generation",
                f"cannot roll {pool.name} back: nothing older than {now} is kept",
                hint="keep_generations of the pool says how many are kept",
            )
        return older[0]

    def _serve(self, pool: Pool, target: Generation | None, actor: str) -> None:
        """Hold the pool at a generation, or let it go with its configuration."""
        configured = pool.application.fingerprint()
        if target is None:
            self._store.rolls.drop_hold(pool.name)
            return
        known = self._store.rolls.application(pool.name, target.digest)
        if known is None and target.manifest.fingerprint != configured:
            raise Refused(
                "rollback.unknown-application",
                f"cannot roll {pool.name} to generation {target.number}: an older poold made it "
                "and did not write down how its application is started",
                hint="put the application's old settings back into the configuration, reload, "
                f"and poold roll {pool.name}",
            )
        self._store.rolls.put_hold(pool.name, target, configured=configured, actor=actor)

    # -- acceptance -------------------------------------------------------------------------------

    def _begin(
        self,
        pool: Pool,
        kind: ChangeKind,
        target: Generation | None,
        limits: tuple[int, int],
        actor: str,
        reason: str,
    ) -> Change:
        surge, unavailable = limits
        if target is not None:
            self._pardon(pool, target, kind)
        if target is not None and self._is_there(pool, target):
            wish = {"to": target.number}
            change = self._store.accept(
                pool=pool.name,
                kind=kind,
                wish=wish,
                actor=actor,
                reason=reason,
                done=True,
                said=self._stays(pool, target),
                relieves=kind == "rollback",
            )
        else:
            change = begin_roll(
                self._store,
                pool=pool.name,
                kind=kind,
                target=target,
                surge=surge,
                unavailable=unavailable,
                actor=actor,
                reason=reason,
                relieves=kind == "rollback",
            )
        failpoint("wish.before_commit", kind)
        return change

    def _stays(self, pool: Pool, target: Generation) -> str:
        """Say what became of a pool whose replicas are all of the target already."""
        if self._store.rolls.hold(pool.name) is not None:
            return f"{pool.name} is held at generation {target.number}, and all of it is of that"
        return f"all of {pool.name} is of generation {target.number}"

    def _pardon(self, pool: Pool, target: Generation, kind: ChangeKind) -> None:
        """Let the target be tried again wherever it failed: somebody asks for it."""
        for entry in self._store.quarantine.all(pool.name):
            if entry.digest == target.digest:
                self._store.events.add(
                    "generation.pardoned",
                    f"generation {target.number} of {pool.name} may be tried on {entry.host}"
                    f" again: a {kind} goes there",
                    pool=pool.name,
                    host=entry.host,
                    data={"generation": target.number},
                )
        self._store.quarantine.drop(pool=pool.name, digest=target.digest)

    def _is_there(self, pool: Pool, target: Generation) -> bool:
        """Whether every wished replica is of it already, and nothing is left of another roll."""
        if self._store.rolls.get(pool.name) is not None:
            return False
        there = {
            replica.name
            for replica in self._world.replicas(pool.name)
            if replica.state == "ready" and replica.generation == target.number
        }
        return all(wish.name in there for wish in self._store.wishes(pool.name))

    def _accepted(self, change: Change) -> Change:
        self._store.after_commit(partial(self._say, change))
        return change

    def _say(self, change: Change) -> None:
        failpoint("wish.accepted", change.kind)
        LOG.info(
            "accepted %s of %s: %s", change.kind, change.pool, change.wish,
            extra={"action": "accepted", "pool": change.pool, "change": change.id},
        )  # fmt: skip
        self._store.notify(change.pool)


def _limits(pool: Pool, surge: int | None, unavailable: int | None) -> tuple[int, int]:
    more = pool.roll.surge if surge is None else surge
    fewer = pool.roll.unavailable if unavailable is None else unavailable
    if more < 0 or fewer < 0 or more == fewer == 0:
        raise Refused(
            "roll.no-limits",
            f"cannot roll {pool.name} with surge {more} and unavailable {fewer}: "
            "no replica could be replaced",
            hint="one of both has to be 1 or more",
        )
    return more, fewer


def _numbered(pool: Pool, generations: tuple[Generation, ...], number: int) -> Generation:
    found = next((g for g in generations if g.number == number), None)
    if found is None:
        kept = ", ".join(str(g.number) for g in reversed(generations)) or "none"
        raise Refused(
            "generation.unknown",
            f"cannot find generation {number} of {pool.name}",
            hint=f"kept are: {kept}",
        )
    return found
