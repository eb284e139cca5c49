"""Which image a pool's replicas are of, and whether its name means another one by now: pure.

In: a snapshot. Out: content ids and a sentence. The image of the current generation is part of what
is served: whatever its name means meanwhile, restores and cold starts are of that very image. What
is done about another one is decided in `plan` and `rolling`.
"""

from __future__ import annotations

from dataclasses import dataclass

from poold.model.fleet import Generation, HostName, Pool
from poold.reconcile.snapshot import HostView, Snapshot
from poold.store.rolls import bare_id

_SHORT = 12


@dataclass(frozen=True, slots=True)
class Renamed:
    """The name of a pool's image means `image_id`, which `generation`, the current one, is not of.

    `builder` is the host where it means that.
    """

    pool: Pool
    image_id: str
    generation: Generation
    builder: HostName

    @property
    def sentence(self) -> str:
        """Say so, with the way out where nothing is done by itself."""
        text = (
            f"{self.pool.application.image} means another image on {self.builder} now"
            f" ({self.image_id[:_SHORT]}) than generation {self.generation.number} was made of"
            f" ({served_id(self.generation)[:_SHORT]})"
        )
        if self.pool.roll.auto:
            return f"{text}: a generation of it is made, and rolled to"
        name = self.pool.name
        return f"{text}: poold checkpoint {name}, then poold roll {name}"


def served_id(generation: Generation) -> str:
    """Return the bare content id of the image that a generation is of."""
    return bare_id(generation.manifest.image_id)


def renamed(snapshot: Snapshot) -> Renamed | None:
    """Say whether what would be built now is of another image than what is served.

    A pool that is held stays where it is, whatever its image's name means.
    """
    pool, usable = snapshot.pool, snapshot.usable()
    if pool is None or snapshot.hold is not None or not usable:
        return None
    builder = snapshot.hosts.get(pool.builder)
    if builder is None or not builder.up:
        return None
    now = bare_id(builder.image_ids.get(pool.application.image, ""))
    if not now or now == served_id(usable[0]):
        return None
    return Renamed(pool, now, usable[0], pool.builder)


def for_host(snapshot: Snapshot, host: HostView) -> str:
    """Return of which image a replica starts cold on a host; "": what the name means there.

    That of the current generation. Without one, what the name means on the builder, so that all
    hosts have the same. An image is for one kind of machine: another kind goes by its own.
    """
    for generation in (*snapshot.usable()[:1], *snapshot.usable_on(host)[:1]):
        if _runs_on(host, generation.manifest.machine):
            return served_id(generation)
    if snapshot.usable() or snapshot.pool is None or host.name == snapshot.pool.builder:
        return ""
    builder = snapshot.hosts.get(snapshot.pool.builder)
    if builder is None or not _runs_on(host, builder.facts.get("machine", "")):
        return ""
    return bare_id(builder.image_ids.get(snapshot.pool.application.image, ""))


def _runs_on(host: HostView, machine: str) -> bool:
    return host.facts.get("machine", machine) == machine
