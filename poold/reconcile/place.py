"""Which host takes which name: a pure function.

In: names with their pins, and what speaks for and against each host. Out: a host for each name, or
why there is none. Equal inputs give equal answers, whatever their order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush, heapreplace

from poold.model.fleet import HostName, ReplicaName
from poold.store import Wish


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A host that may take replicas of the pool.

    `room` is how many more it takes at all; `of_pool` how many of this pool it has, `spares` how
    many wait there to be claimed. It must not
    take the names in `taken` (somebody else's container has them) and rather not those in `avoid`
    (they failed there lately).
    """

    host: HostName
    room: int
    of_pool: int = 0
    spares: int = 0
    load: int = 0
    staged: bool = False
    taken: frozenset[str] = frozenset()
    avoid: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Placed:
    """Where each name goes, and why some go nowhere."""

    hosts: dict[ReplicaName, HostName] = field(default_factory=dict)
    refused: dict[ReplicaName, str] = field(default_factory=dict)


def place(wishes: Iterable[Wish], candidates: Iterable[Candidate]) -> Placed:
    """Spread names over hosts: pins first, then fewest of the pool, a spare, staged, least loaded.

    A name's number decides nothing; pinned names are served first, so that a free one does not
    take the last room from them.
    """
    placed = Placed()
    hosts = {candidate.host: candidate for candidate in candidates}
    room = {host: candidate.room for host, candidate in hosts.items()}
    given = dict.fromkeys(hosts, 0)

    def rank(name: ReplicaName, host: HostName) -> tuple[bool, int, bool, bool, int, HostName]:
        candidate = hosts[host]
        return (
            name in candidate.avoid,
            candidate.of_pool + given[host],
            candidate.spares <= given[host],
            not candidate.staged,
            candidate.load + given[host],
            host,
        )

    def key(host: HostName) -> tuple[int, bool, bool, int, HostName]:
        return rank(ReplicaName(""), host)[1:]

    # The hosts by rank, so that thousands of names are not each compared on hundreds of hosts. A
    # host's key only ever grows: an entry that is out of date stands too early, and is put right.
    heap = sorted(key(host) for host in hosts)

    def first(name: ReplicaName) -> HostName | None:
        """Return the best host with nothing against the name; None: there is none."""
        passed = []
        while heap:
            entry = heap[0]
            host = entry[-1]
            if room[host] <= 0:
                heappop(heap)
            elif entry != key(host):
                heapreplace(heap, key(host))
            elif name in hosts[host].taken or name in hosts[host].avoid:
                passed.append(heappop(heap))
            else:
                break
        found = heap[0][-1] if heap else None
        for entry in passed:
            heappush(heap, entry)
        return found

    for wish in sorted(wishes, key=lambda w: (w.host is None, len(w.name), w.name)):
        best = first(wish.name) if wish.host is None else None
        if best is not None:
            placed.hosts[wish.name] = best
            room[best] -= 1
            given[best] += 1
            continue
        able = [host for host in hosts if wish.host in (None, host)]
        free = [host for host in able if wish.name not in hosts[host].taken]
        fitting = [host for host in free if room[host] > 0]
        if not fitting:
            placed.refused[wish.name] = _why(wish, able, free)
            continue
        best = min(fitting, key=lambda host: rank(wish.name, host))
        placed.hosts[wish.name] = best
        room[best] -= 1
        given[best] += 1
    return placed


def _why(wish: Wish, able: list[HostName], free: list[HostName]) -> str:
    if not able:
        return f"waiting for host {wish.host}" if wish.host else "waiting for a host to come up"
    if not free:
        return (
            f"cannot use the name {wish.name}: a container that is not ours has it "
            f"on {', '.join(sorted(able))}"
        )
    return f"no room: {', '.join(sorted(free))} have as many replicas as they may (max_replicas)"
