"""Pools on their way to another generation, and pools that are held at one.

In and out: plain values, durably. Which replica is replaced next is decided in
`poold.reconcile.rolling`.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from poold.agent.codec import decode, encode
from poold.errors import Refused
from poold.model.application import Application
from poold.model.fleet import (
    Change,
    ChangeId,
    ChangeKind,
    Digest,
    Generation,
    Pool,
    PoolName,
    ReplicaName,
)
from poold.store.database import Database

if TYPE_CHECKING:
    from poold.store.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Roll:
    """Replicas of a pool being replaced by those of its current generation, which is `digest`.

    `replacing` maps names to the container that has to go; `extras` are replicas wished for only
    meanwhile, `leaving` are former ones that may not be gone yet. A `paused` one replaces nothing.
    """

    pool: PoolName
    change: ChangeId
    surge: int
    unavailable: int
    state: Literal["running", "paused"] = "running"
    reason: str = ""
    generation: int | None = None
    digest: Digest | None = None
    replacing: Mapping[ReplicaName, str] = field(default_factory=dict)
    extras: tuple[ReplicaName, ...] = ()
    leaving: tuple[ReplicaName, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A pool stays with a generation while its configuration has the fingerprint `configured`.

    `application` is what the generation was made of; None: what is configured.
    """

    pool: PoolName
    number: int
    digest: Digest
    configured: str
    at: float
    actor: str
    application: Application | None = None


class Rolls:
    """Part of the store. `clock` counts seconds since the epoch."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    def get(self, pool: str) -> Roll | None:
        """Return a pool's roll, running or paused."""
        return next(iter(self._database.made("roll_get", _rolls, pool=pool)), None)

    def put(self, roll: Roll) -> None:
        """Begin a roll or write down how far it is."""
        self._database.run(
            "roll_put",
            pool=roll.pool,
            change_id=roll.change,
            surge=roll.surge,
            unavailable=roll.unavailable,
            state=roll.state,
            reason=roll.reason,
            generation=roll.generation,
            digest=roll.digest,
            replacing=json.dumps(dict(roll.replacing)),
            extras=json.dumps(roll.extras),
            leaving=json.dumps(roll.leaving),
        )

    def drop(self, pool: PoolName) -> None:
        """Forget a roll."""
        self._database.run("roll_drop", pool=pool)

    def hold(self, pool: str) -> Hold | None:
        """Return at which generation a pool is held."""
        return next(iter(self._database.made("hold_get", _holds, pool=pool)), None)

    def put_hold(
        self, pool: PoolName, generation: Generation, *, configured: str, actor: str
    ) -> None:
        """Hold a pool at a generation until its configuration is not the one of now."""
        self._database.run(
            "hold_put",
            pool=pool,
            number=generation.number,
            digest=generation.digest,
            configured=configured,
            at=self._clock(),
            actor=actor,
        )

    def drop_hold(self, pool: PoolName) -> None:
        """Let a pool go with its configuration again."""
        self._database.run("hold_drop", pool=pool)

    def application(self, pool: str, digest: str) -> Application | None:
        """Return what a generation was made of, None where that is not known."""
        row = self._database.row("generation_application", pool=pool, digest=digest)
        return _application(row["application"]) if row else None

    def learn(self, pool: str, application: Application, numbers: Iterable[int]) -> None:
        """Write down of what generations were made that are older than their application's rows."""
        text = dump_application(application)
        with self._database.transaction():
            for number in numbers:
                self._database.run("generation_learn", pool=pool, number=number, application=text)

    def unexplained(self, pool: str) -> frozenset[int]:
        """Return the numbers of the generations of which nobody knows what they were made of."""
        return self._database.made("generations_bare", _numbers, pool=pool)

    def serve(self, pool: PoolName, fingerprint: str, image_id: str = "") -> None:
        """Remember of which application and of which image the current generation is."""
        served = f"{fingerprint} {bare_id(image_id)}".strip()
        self._database.run("pool_serve", name=pool, served=served)


def _rolls(rows: Iterable[sqlite3.Row]) -> tuple[Roll, ...]:
    found = []
    for row in rows:
        fields: dict[str, Any] = dict(row)
        fields["change"] = fields.pop("change_id")
        fields["replacing"] = json.loads(fields["replacing"])
        for name in ("extras", "leaving"):
            fields[name] = tuple(json.loads(fields[name]))
        found.append(Roll(**fields))
    return tuple(found)


def _holds(rows: Iterable[sqlite3.Row]) -> tuple[Hold, ...]:
    return tuple(
        Hold(**{**dict(row), "application": _application(row["application"])}) for row in rows
    )


def _numbers(rows: Iterable[sqlite3.Row]) -> frozenset[int]:
    return frozenset(row["number"] for row in rows)


def in_service(
    generations: Iterable[Generation], fingerprint: str, hold: Hold | None
) -> tuple[Generation, ...]:
    """Return what replicas may be restored from, the current one first; `generations` newest first.

    Those of the application with this fingerprint. Where the pool is held, none that is newer: the
    held one's builder had made another one by then. Other builders make theirs after it.
    """
    known = tuple(generations)
    fitting = tuple(g for g in known if g.manifest.fingerprint == fingerprint)
    held = next((g for g in fitting if hold is not None and g.digest == hold.digest), None)
    if held is None:
        return fitting
    next_ones = [g.number for g in known if g.builder == held.builder and g.number > held.number]
    before = min(next_ones, default=known[0].number + 1)
    return (held, *(g for g in fitting if g.number < before and g is not held))


def at_home(generations: Iterable[Generation], pool: Pool) -> tuple[Generation, ...]:
    """Return those that the pool's builder made, all where it made none.

    Others were made for hosts that cannot take the builder's.
    """
    known = tuple(generations)
    return tuple(g for g in known if g.builder == pool.builder) or known


def of_one_image(
    generations: Iterable[Generation], pool: Pool, hold: Hold | None
) -> tuple[Generation, ...]:
    """Leave out those of another image than the current one's: that is another application.

    The current one is the held one, or the newest of the pool's builder. Each kind of machine has
    an image of its own, though of the same name.
    """
    known = tuple(generations)
    held = tuple(g for g in known if hold is not None and g.digest == hold.digest)
    images: dict[str, str] = {}
    for each in (*held, *at_home(known, pool)[:1], *known):
        images.setdefault(each.manifest.machine, bare_id(each.manifest.image_id))
    return tuple(g for g in known if images[g.manifest.machine] == bare_id(g.manifest.image_id))


def bare_id(image_id: str) -> str:
    """Return an image's content id without its "sha256:"."""
    return image_id.rpartition(":")[2]


def as_held(pool: Pool, hold: Hold | None) -> Pool:
    """Return the pool with the application that its hold says; an outdated hold says nothing."""
    if hold is None or hold.application is None:
        return pool
    if hold.configured != pool.application.fingerprint():
        return pool
    return Pool(**{**vars(pool), "application": hold.application})


def begin_roll(
    store: Store,
    *,
    pool: PoolName,
    kind: ChangeKind,
    target: Generation | None,
    surge: int,
    unavailable: int,
    actor: str,
    reason: str,
    relieves: bool = False,
) -> Change:
    """Accept a roll, within the caller's transaction or one of its own; it takes the last's place.

    What the last one had under way is left to this one: its extra replicas above all.
    """
    with store.transaction():
        wish: dict[str, object] = {
            "to": target.number if target else None,
            "surge": surge,
            "unavailable": unavailable,
        }
        change = store.accept(
            pool=pool, kind=kind, wish=wish, actor=actor, reason=reason, relieves=relieves
        )
        before = store.rolls.get(pool)
        if before is not None:
            problem = Refused(
                "roll.superseded",
                f"cannot finish this roll of {pool}: change {change.id} took its place",
                hint=f"poold changes {change.id} --wait",
            )
            store.end_change(
                before.change, "failed", progress=problem.message, problem=problem.to_json()
            )
        store.rolls.put(
            Roll(
                pool=pool,
                change=change.id,
                surge=surge,
                unavailable=unavailable,
                generation=before.generation if before else None,
                digest=before.digest if before else None,
                extras=before.extras if before else (),
                leaving=before.leaving if before else (),
            )
        )
    return change


def dump_application(application: Application | None) -> str | None:
    """Return an application as its column has it."""
    return None if application is None else json.dumps(encode(application))


def _application(text: str | None) -> Application | None:
    return None if text is None else decode(Application, json.loads(text))
