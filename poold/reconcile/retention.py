"""Which generations of a pool stay though nothing runs from them: pure, time is handed in.

In: a snapshot. Out: the digests to keep. What is in use stays anyway, and is not looked at here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from poold.model.compat import relevant, why_not_on
from poold.model.fleet import Digest, Generation, Pool
from poold.reconcile.snapshot import Snapshot

_DAY_SECONDS = 86400.0


def retained(snapshot: Snapshot, pool: Pool, now: float) -> frozenset[Digest]:
    """Return the newest ones within the pool's limits, and beyond all limits the good ones.

    The limits hold for each host by itself, of what can be restored there: a pool with several
    classes of hosts keeps as many generations of each.
    """
    kept = [*_within(snapshot.generations, pool, now), *_good(snapshot, snapshot.usable())]
    hosts = (snapshot.hosts[name] for name in pool.hosts if name in snapshot.hosts)
    for host in {relevant(host.facts): host for host in hosts}.values():
        fitting = [g for g in snapshot.generations if not why_not_on(g.manifest, host.facts)]
        kept += _within(fitting, pool, now)
        kept += _good(snapshot, snapshot.usable_on(host))
    return frozenset(generation.digest for generation in kept)


def size_bytes(generation: Generation) -> int:
    """Return what a generation takes on the disk of each host that has it."""
    return generation.manifest.archive_bytes + generation.manifest.packed_bytes


def _within(newest_first: Sequence[Generation], pool: Pool, now: float) -> Iterator[Generation]:
    total = 0
    for generation in newest_first[: pool.keep_generations]:
        total += size_bytes(generation)
        too_old = pool.keep_days is not None and (
            now - generation.proven_at > pool.keep_days * _DAY_SECONDS
        )
        if too_old or (pool.keep_bytes is not None and total > pool.keep_bytes):
            return
        yield generation


def _good(snapshot: Snapshot, usable: Sequence[Generation]) -> Iterator[Generation]:
    """Find the current one, and the newest that no host has in quarantine: the last good one."""
    yield from usable[:1]
    quarantined = {digest for _, digest in snapshot.quarantine}
    yield from [each for each in usable if each.digest not in quarantined][:1]
