"""What a host has, sorted by pool: made once a listing, asked once a pool and cycle.

In: containers and generations as they were folded. Out: the same by pool. With hundreds of hosts
and pools, each of which looked through all of them, this is what a cycle would be spent on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from poold.agent.messages import ContainerFact, GenerationFact
from poold.model.fleet import Digest


@dataclass(frozen=True, slots=True)
class Listed:
    """What a host has; nobody changes the two it was made of, who has news makes new ones.

    `ours` are all our containers by name, of whichever pool; `names` are theirs.
    """

    made_of: tuple[Mapping[str, ContainerFact], Mapping[Digest, GenerationFact]]
    by_pool: Mapping[str, tuple[ContainerFact, ...]]
    ours: Mapping[str, ContainerFact]
    names: frozenset[str]
    foreign: tuple[ContainerFact, ...]
    held: frozenset[Digest]
    staged: frozenset[Digest]
    held_by_pool: Mapping[str, frozenset[Digest]]

    def containers(self, pool: str, names: frozenset[str]) -> tuple[ContainerFact, ...]:
        """Return a pool's containers, and foreign ones with one of its names."""
        mine = self.by_pool.get(pool, ())
        return mine + tuple(c for c in self.foreign if c.name in names) if self.foreign else mine

    def of_others(self, pool: str, names: frozenset[str]) -> dict[str, str]:
        """Return which of a pool's names a container of another pool has, and which pool's."""
        taken = names & self.names
        return {n: self.ours[n].pool for n in taken if self.ours[n].pool != pool} if taken else {}


def sort_out(
    containers: Mapping[str, ContainerFact], generations: Mapping[Digest, GenerationFact]
) -> Listed:
    """Sort what a host has by pool."""
    by_pool: dict[str, list[ContainerFact]] = {}
    for fact in containers.values():
        if fact.ours:
            by_pool.setdefault(fact.pool, []).append(fact)
    held_by_pool: dict[str, set[Digest]] = {}
    for digest, generation in generations.items():
        held_by_pool.setdefault(generation.pool, set()).add(digest)
    ours = {name: fact for name, fact in containers.items() if fact.ours}
    return Listed(
        made_of=(containers, generations),
        by_pool={pool: tuple(facts) for pool, facts in by_pool.items()},
        ours=ours,
        names=frozenset(ours),
        foreign=tuple(fact for fact in containers.values() if not fact.ours),
        held=frozenset(generations),
        staged=frozenset(digest for digest, fact in generations.items() if fact.staged),
        held_by_pool={pool: frozenset(digests) for pool, digests in held_by_pool.items()},
    )
