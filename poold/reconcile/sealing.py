"""Generations on hosts that bear this daemon's seal: put on what has none, taken at its word.

In: what a listing says that a host holds. Out: generations that the store lost are in it again,
before anybody plans by that listing; and the host has the seal of what it holds. Whether a
checkpoint without a true seal is removed is decided in `books`, like for any that nobody knows.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol

from poold.agent.codec import decode, encode
from poold.agent.messages import GenerationFact, Seal
from poold.checkpoints.distribute import folder_of
from poold.config import Config
from poold.errors import Permanent, Problem
from poold.hosts.base import HostLink
from poold.hosts.transfer import write_bytes
from poold.model.fleet import Digest, Generation, HostName, Manifest, PoolName
from poold.reconcile.actions import restore_rung
from poold.reconcile.news import News
from poold.store import Garbage, Store

LOG = logging.getLogger(__name__)
_LARGEST_MANIFEST_BYTES = 1 << 20


class Sealer(Protocol):
    """Signs, and knows its own signatures."""

    def seal(self, generation: Generation) -> Seal:
        """Return the seal of a proven generation."""

    def is_own(self, digest: Digest, seal: Seal) -> bool:
        """Whether this daemon, in whatever life, sealed that very generation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealing:
    """Used by the watch of each host. `_made` are seals that were put on or found true before."""

    store: Store
    sealer: Sealer
    link: Callable[[HostName], HostLink]
    config: Callable[[], Config]
    news: News
    _made: dict[Digest, Seal] = field(default_factory=dict, init=False, repr=False)

    async def take_back(self, host: HostName, held: Iterable[GenerationFact]) -> None:
        """Put into the store what it lost: held whole, of a pool that is configured, truly sealed.

        A generation that the store knows, be it retired, stays what it is there.
        """
        for fact in held:
            seal = fact.seal
            if seal is None or self._is_made(fact) or not self._is_lost(fact, seal):
                continue
            try:
                manifest = await self._manifest(host, fact.digest)
                if self._is_lost(fact, seal):  # still: another host may have been faster
                    self._know(host, fact.digest, manifest, seal)
            except Problem as problem:  # the next listing tries again
                LOG.warning("%s", problem, extra={"action": "take_back_failed", "host": host})

    async def put_on(self, host: HostName, held: Iterable[GenerationFact]) -> None:
        """Write the seals that miss or are not true any more; tried again by the next listing."""
        held = [fact for fact in held if not self._is_made(fact)]
        facts = {fact.digest: fact for fact in held}
        for pool in sorted({fact.pool for fact in facts.values()}):
            for generation in self.store.generations(pool):
                fact = facts.get(generation.digest)
                seal = self._made.setdefault(generation.digest, self.sealer.seal(generation))
                if fact is None or fact.seal == seal:
                    continue
                try:
                    await self._write(host, generation, seal)
                except Problem as problem:
                    LOG.info("%s", problem, extra={"action": "seal_failed", "host": host})
                    return

    async def _write(self, host: HostName, generation: Generation, seal: Seal) -> None:
        """Write a seal; one that arrives after its generation was removed there goes as well."""
        pool, digest = generation.pool, generation.digest
        path = f"{folder_of(digest)}/seal.json"
        try:
            await write_bytes(self.link(host), path, json.dumps(encode(seal)).encode())
        finally:
            if all(each.digest != digest for each in self.store.generations(pool)):
                self.store.put_garbage(Garbage(digest=digest, host=host, pool=pool))

    def _is_made(self, fact: GenerationFact) -> bool:
        return fact.seal is not None and fact.seal == self._made.get(fact.digest)

    def _is_lost(self, fact: GenerationFact, seal: Seal) -> bool:
        pool = PoolName(seal.pool)
        return (
            pool in self.config().pools
            and fact.pool == pool
            and self.store.generation_number(pool, fact.digest) is None
            and not self.store.is_numbered(pool, seal.number)
            and self.sealer.is_own(fact.digest, seal)
        )

    async def _manifest(self, host: HostName, digest: Digest) -> Manifest:
        data = b""
        async for chunk in self.link(host).read_blob(f"{folder_of(digest)}/manifest.json"):
            data += chunk
            if len(data) > _LARGEST_MANIFEST_BYTES:
                break
        try:
            manifest = decode(Manifest, json.loads(data))
        except (ValueError, Problem) as error:
            raise _damaged(host, digest) from error
        if manifest.digest() != digest:
            raise _damaged(host, digest)
        return manifest

    def _know(self, host: HostName, digest: Digest, manifest: Manifest, seal: Seal) -> None:
        pool = PoolName(seal.pool)
        generation = Generation(
            pool=pool,
            number=seal.number,
            digest=digest,
            manifest=manifest,
            builder=HostName(seal.builder),
            proven_at=seal.proven_at,
        )
        configured = self.config().pools[pool].application
        known = configured.fingerprint() == manifest.fingerprint
        with self.store.transaction():
            self.store.put_generation(generation, configured if known else None)
            for assignment in self.store.assignments(pool):
                if assignment.rung == restore_rung(digest) and assignment.generation is None:
                    self.store.put_assignment(replace(assignment, generation=seal.number))
            self.news.taken_back(generation, host)
        LOG.info(
            "generation %d of %s was found on %s", seal.number, pool, host,
            extra={"action": "generation_found", "pool": pool, "host": host},
        )  # fmt: skip


def _damaged(host: HostName, digest: Digest) -> Permanent:
    return Permanent(
        "generation.damaged",
        f"cannot take back {digest[:19]} from {host}: its manifest is not what was sealed",
    )
