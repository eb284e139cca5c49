"""Which names a pool's replicas get and which are given up: pure functions.

In: what is wished, which names others have, which replicas are ready. Out: names. Whether so many
may be wished for at all is not decided here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from poold.model.fleet import Pool, ReplicaName
from poold.store import Wish


def missing_names(
    pool: Pool, wished: Collection[str], count: int, foreign: Collection[str]
) -> list[ReplicaName]:
    """Return the lowest free names that nobody else has, as many as are missing to `count`."""
    names: list[ReplicaName] = []
    number = 0
    while len(names) < count - len(wished):
        number += 1
        name = pool.replica(number)
        if name not in wished and name not in foreign:
            names.append(name)
    return names


def surplus_names(
    pool: Pool,
    wishes: Iterable[Wish],
    count: int,
    *,
    ready: Collection[str],
    moving: Collection[str],
) -> list[ReplicaName]:
    """Return `count` names to give up: those not ready first, then the highest numbers."""
    names = [wish.name for wish in wishes if wish.name not in moving]
    names.sort(key=lambda name: (name in ready, -(pool.number(name) or 0)))
    return names[: max(0, count)]
