"""What the daemon believes of its hosts and pools: in memory, for readers and for planning.

In: listings, outcomes and plans, folded as they come. Out: immutable values. Asking it asks no
host, and it decides nothing.

An outcome is newer than a listing that began before it: such a listing does not overrule it. After
an action that ended badly nobody knows what it left: the name is *unsure* until a listing that
began later. The same holds when an agent said that a container ended, and an outcome that took
longer to arrive still says that it came up.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from poold.agent.messages import ContainerFact, GenerationFact, Observation, Started
from poold.hosts.base import HostLink
from poold.model.balancing import BalancerStatus
from poold.model.fleet import (
    Digest,
    HostName,
    HostStatus,
    Memory,
    PoolName,
    PoolStatus,
    Quarantine,
    Replica,
)
from poold.model.scaling import Recommended
from poold.reconcile.flapping import Steadiness
from poold.reconcile.listed import Listed, sort_out
from poold.reconcile.snapshot import HostView
from poold.store import HostMark

K = TypeVar("K")
V = TypeVar("V")


@dataclass(slots=True)
class _Host:
    """One host's facts; `touched` is the tick of the last outcome by container or digest.

    `containers` and `generations` are replaced, never changed in place.
    """

    heard: bool = False
    doubted: dict[str, int] = field(default_factory=dict)  # container id -> tick of the event
    reason: str = ""
    boot_id: str = ""
    seen_at: float | None = None
    containers: Mapping[str, ContainerFact] = field(default_factory=dict)
    generations: Mapping[Digest, GenerationFact] = field(default_factory=dict)
    sorted_out: Listed | None = None
    running_actions: frozenset[str] = frozenset()
    facts: dict[str, str] = field(default_factory=dict)
    disk_free_bytes: int | None = None
    disk_reserve_bytes: int | None = None
    memory_free_bytes: int | None = None
    ahead_seconds: float = 0.0
    memory: Mapping[str, Memory] = field(default_factory=dict)  # by container id
    images: set[str] = field(default_factory=set)
    image_ids: Mapping[str, str] = field(default_factory=dict)
    touched: dict[str, int] = field(default_factory=dict)
    unsure: dict[str, int] = field(default_factory=dict)
    steadiness: Steadiness = field(default_factory=Steadiness)

    def listed(self) -> Listed:
        """Return what the host has by pool."""
        found = self.sorted_out
        if (
            found is None
            or found.made_of[0] is not self.containers
            or found.made_of[1] is not self.generations
        ):
            found = self.sorted_out = sort_out(self.containers, self.generations)
        return found

    def believed(self) -> tuple[object, ...]:
        """Return what plans are made of; what is replaced by each listing, not changed in place."""
        return (
            self.heard,
            self.reason,
            self.boot_id,
            self.containers,
            self.generations,
            self.running_actions,
            self.facts,
            self.image_ids,
            frozenset(self.unsure),
        )


@dataclass(frozen=True, slots=True)
class Shown:
    """A pool as its last plan left it."""

    status: PoolStatus
    replicas: tuple[Replica, ...]


class World:
    """Folded from one thread; what it hands out never changes. `clock`: seconds since the epoch."""

    def __init__(
        self,
        *,
        links: Mapping[HostName, HostLink],
        clock: Callable[[], float] = time.time,
        marks: Callable[[], Mapping[HostName, HostMark]] = dict,
        quarantine: Callable[[], Iterable[Quarantine]] = tuple,
    ) -> None:
        """Follow `links`, which may get and lose hosts; `marks` is what operators said of them."""
        self._links = links
        self._clock = clock
        self._marks = marks
        self._quarantine = quarantine
        self._hosts: defaultdict[HostName, _Host] = defaultdict(_Host)
        self._remark = ""
        self._pools: dict[PoolName, Shown] = {}
        self._balancers: dict[PoolName, BalancerStatus] = {}
        self._recommended: dict[PoolName, Recommended] = {}
        self._tick = 0

    # -- reading ----------------------------------------------------------------------------------

    def replicas(self, pool: str | None = None) -> tuple[Replica, ...]:
        """Return all replicas, or a pool's, as of the last plan."""
        shown = (s for name, s in sorted(self._pools.items()) if pool in (None, name))
        return tuple(replica for each in shown for replica in each.replicas)

    def weighed(self, pool: str | None = None) -> tuple[Replica, ...]:
        """Return the same with what each has of its host's memory, as of the last listing."""
        return tuple(
            replace(one, memory=self._hosts[one.host].memory.get(one.container_id or ""))
            if one.host is not None
            else one
            for one in self.replicas(pool)
        )

    def pools(self) -> tuple[PoolStatus, ...]:
        """Return how each pool is."""
        return tuple(
            replace(
                shown.status,
                balancer=self._balancers.get(name),
                recommended=self._recommended.get(name),
            )
            for name, shown in sorted(self._pools.items())
        )

    def sentence(self) -> str:
        """Say how the fleet is in one line: "hello 1/3: restoring hello2 on b …"."""
        sentences = "; ".join(status.sentence for status in self.pools()) or "no pools yet"
        return f"{sentences} ({self._remark})" if self._remark else sentences

    def note(self) -> str:
        """Return what concerns the whole daemon and no pool: "not reloaded: …"."""
        return self._remark

    def remark(self, text: str) -> None:
        """Have the sentence end with something that concerns the whole daemon; "" ends that."""
        self._remark = text

    def hosts(self) -> tuple[HostStatus, ...]:
        """Return how each host is."""
        marks = self._marks()
        return tuple(self._status(name, marks.get(name)) for name in tuple(self._links))

    def host(self, name: HostName) -> HostStatus | None:
        """Return how a host is, None for one that is not configured."""
        return self._status(name, self._marks().get(name)) if name in self._links else None

    def in_reach(self, name: HostName) -> bool:
        """Whether the host's agent answers, whatever its listings say."""
        return name in self._links and self._links[name].status.state == "up"

    def found_on(self, name: HostName) -> frozenset[str]:
        """Return the names of our containers that a host had when it was listed last."""
        return frozenset(c.name for c in self._hosts[name].containers.values() if c.ours)

    def foreign_on(self, name: HostName) -> frozenset[str]:
        """Return the names like ours that others' containers had when the host was listed last."""
        known = self._hosts.get(name)
        return (
            frozenset(c.name for c in known.listed().foreign) if known is not None else frozenset()
        )

    def lost(self, name: HostName) -> None:
        """Note that a host went away, or booted: who does so too often gets nothing new."""
        known = self._hosts[name]
        known.heard = False  # it may be back already, but what it has is for the next listing
        known.steadiness = known.steadiness.lost(self._clock())

    def forget_host(self, name: HostName) -> None:
        """Believe nothing of a host any more, as if it had never been heard."""
        self._hosts.pop(name, None)

    def _closed(self, name: HostName, mark: HostMark | None) -> str:
        if mark is not None:
            why = f": {mark.reason}" if mark.reason else ""
            return f"{name} is {mark.mark} by {mark.actor}{why}"
        steadiness = self._hosts[name].steadiness
        return steadiness.sentence(name) if steadiness.holds(self._clock()) else ""

    def _status(self, name: HostName, mark: HostMark | None) -> HostStatus:
        known, link = self._hosts[name], self._links[name].status
        state, reason = self._state(name)
        now = self._clock()
        return HostStatus(
            name=name,
            state=state,
            boot_id=known.boot_id or link.boot_id,
            seen_at=known.seen_at or link.seen_at,
            facts={**link.facts, **known.facts},
            disk_free_bytes=known.disk_free_bytes,
            disk_reserve_bytes=known.disk_reserve_bytes,
            memory_free_bytes=known.memory_free_bytes,
            reason=reason,
            mark=mark.mark if mark else "",
            closed=self._closed(name, mark),
            quarantine=tuple(q for q in self._quarantine() if q.host == name and q.until > now),
        )

    def _state(self, name: HostName) -> tuple[Literal["up", "connecting", "unknown"], str]:
        """Believe a host to be up when it is reached and was listed since, in this boot."""
        known, link = self._hosts[name], self._links[name].status
        if link.state != "up":
            known.heard = False
            return link.state, link.reason or known.reason
        if known.boot_id and link.boot_id and link.boot_id != known.boot_id:
            known.heard = False
        if known.heard:
            return "up", ""
        return ("unknown", known.reason) if known.reason else ("connecting", "not listed yet")

    def views(
        self,
        pool: PoolName,
        names: Iterable[str],
        *,
        rooms: Mapping[HostName, int],
        others: Mapping[HostName, int],
    ) -> dict[HostName, HostView]:
        """Return the hosts as a pool's plan may see them; `names` are the pool's.

        `rooms` says of each host how many replicas it may have, `others` how many of other pools
        it has.
        """
        marks, wanted = self._marks(), frozenset(names)
        return {
            name: self._view(
                name, pool, wanted, marks.get(name), room=room, others=others.get(name, 0)
            )
            for name, room in rooms.items()
        }

    def _view(
        self,
        name: HostName,
        pool: PoolName,
        wanted: frozenset[str],
        mark: HostMark | None,
        *,
        room: int,
        others: int,
    ) -> HostView:
        known = self._hosts[name]
        state, reason = self._state(name)
        closed = self._closed(name, mark)
        listed = known.listed()
        return HostView(
            name=name,
            state=state,
            reason=reason,
            containers=listed.containers(pool, wanted),
            of_others=listed.of_others(pool, wanted),
            unsure=frozenset(known.unsure),
            held=listed.held,
            staged=listed.staged,
            of_pool=listed.held_by_pool.get(pool, frozenset()),
            images=frozenset(known.images),
            image_ids=known.image_ids,
            running_actions=known.running_actions,
            max_replicas=room,
            others=others,
            closed=closed,
            closed_until=known.steadiness.until if closed and mark is None else None,
            fenced=mark is not None and mark.mark == "fenced",
            boot_id=known.boot_id,
            facts={**self._links[name].status.facts, **known.facts},
            memory_free_bytes=known.memory_free_bytes,
            ahead_seconds=known.ahead_seconds,
        )

    # -- listings ---------------------------------------------------------------------------------

    def begin(self) -> int:
        """Return a token for a listing that begins now."""
        self._tick += 1
        return self._tick

    def observed(self, name: HostName, token: int, seen: Observation) -> bool:
        """Fold a listing, but for what outcomes since `token` said otherwise.

        Return whether it said anything new, so that a plan may come out otherwise.
        """
        known = self._hosts[name]
        before = known.believed()
        if known.boot_id and known.boot_id != seen.boot_id:
            known.containers, known.touched, known.unsure = {}, {}, {}
        newer = {key for key, tick in known.touched.items() if tick > token}
        containers = {c.name: c for c in seen.containers if c.name not in newer}
        kept = {k: c for k, c in known.containers.items() if k in newer}
        generations = {g.digest: g for g in seen.generations if g.digest not in newer}
        held = {k: g for k, g in known.generations.items() if k in newer}
        known.containers = _unless_same(known.containers, {**containers, **kept})
        known.generations = _unless_same(known.generations, {**generations, **held})
        known.unsure = {k: tick for k, tick in known.unsure.items() if tick > token}
        known.touched = {k: tick for k, tick in known.touched.items() if tick > token}
        listed = {c.container_id for c in seen.containers}
        known.doubted = {k: t for k, t in known.doubted.items() if t > token or k in listed}
        known.heard, known.reason = True, ""
        known.boot_id, known.seen_at = seen.boot_id, self._clock()
        known.ahead_seconds = seen.now - known.seen_at
        known.running_actions = frozenset(seen.running_actions)
        known.facts = dict(seen.facts)
        known.image_ids = dict(seen.images)
        known.disk_free_bytes = seen.disk_free_bytes
        known.disk_reserve_bytes = seen.disk_reserve_bytes
        known.memory_free_bytes = seen.memory_free_bytes
        known.memory = seen.memory
        return known.believed() != before

    def unheard(self, name: HostName, reason: str) -> bool:
        """Fold a listing that failed: nothing of the host can be believed until the next.

        Return whether that is new.
        """
        known = self._hosts[name]
        before = known.believed()
        known.heard, known.reason = False, reason
        return known.believed() != before

    # -- outcomes ---------------------------------------------------------------------------------

    def started(
        self,
        name: HostName,
        pool: str,
        started: Started,
        digest: str,
        *,
        role: Literal["replica", "spare"] = "replica",
    ) -> None:
        """Fold a replica that came up, or a spare; one that was claimed is no spare any more."""
        if started.spare:
            self.gone(name, started.spare)
        self._touch(name, started.name)
        self._has(
            name,
            ContainerFact(
                name=started.name,
                container_id=started.container_id,
                ours=True,
                pool=pool,
                role=role,
                running=True,
                status="running",
                digest=digest,
                method=started.method,
                address=started.address,
                started_at=started.started_at,
                ready=True,
                engine=started.engine,
            ),
        )
        if started.container_id in self._hosts[name].doubted:
            self.unsure(name, started.name)

    def doubt(self, name: HostName, container_id: str) -> None:
        """Note that the agent said something of this container: only a later listing knows."""
        self._hosts[name].doubted[container_id] = self.begin()

    def frozen(self, name: HostName, replica: str) -> None:
        """Fold a replica that was captured and left frozen."""
        self._touch(name, replica)
        fact = self._hosts[name].containers.get(replica)
        if fact is not None:
            self._has(
                name,
                replace(fact, role="captured", running=False, ready=False, status="captured"),
            )

    def gone(self, name: HostName, replica: str, container_id: str = "") -> None:
        """Fold a removal; with an id, only of that very container."""
        fact = self._hosts[name].containers.get(replica)
        if fact is not None and container_id in ("", fact.container_id):
            self._touch(name, replica)
            self._hosts[name].containers = _without(self._hosts[name].containers, replica)

    def unsure(self, name: HostName, replica: str) -> None:
        """Nobody knows what a failed action left under this name: the next listing tells."""
        self._hosts[name].unsure[replica] = self.begin()

    def hosts_unsure(self) -> tuple[HostName, ...]:
        """Return the hosts on which something has to be listed again."""
        return tuple(n for n, known in self._hosts.items() if known.unsure and n in self._links)

    def staged(self, name: HostName, pool: str, digest: Digest, size_bytes: int) -> None:
        """Fold a generation that a host has verified and unpacked."""
        self._touch(name, digest)
        fact = GenerationFact(digest=digest, pool=pool, staged=True, bytes=size_bytes)
        self._hosts[name].generations = {**self._hosts[name].generations, digest: fact}

    def imaged(self, name: HostName, image: str) -> None:
        """Fold an image that a host has."""
        self._hosts[name].images.add(image)

    def built_of(self, name: HostName, image: str, image_id: str) -> None:
        """Fold what an image's name meant on a host when something was built of it."""
        self._hosts[name].image_ids = {**self._hosts[name].image_ids, image: image_id}

    def dropped(self, name: HostName, digest: Digest) -> None:
        """Fold a generation that a host has deleted."""
        self._touch(name, digest)
        self._hosts[name].generations = _without(self._hosts[name].generations, digest)

    def _has(self, name: HostName, fact: ContainerFact) -> None:
        self._hosts[name].containers = {**self._hosts[name].containers, fact.name: fact}

    def _touch(self, name: HostName, key: str) -> None:
        self._hosts[name].touched[key] = self.begin()
        self._hosts[name].unsure.pop(key, None)

    # -- plans ------------------------------------------------------------------------------------

    def planned(self, status: PoolStatus, replicas: tuple[Replica, ...]) -> None:
        """Show a pool as its plan says it is."""
        self._pools[status.name] = Shown(status, replicas)

    def published(self, pool: PoolName, status: BalancerStatus | None) -> None:
        """Show who is behind a pool's balancer; None: it has none."""
        if status is None:
            self._balancers.pop(pool, None)
        else:
            self._balancers[pool] = status

    def recommend(self, pool: PoolName, recommended: Recommended | None) -> None:
        """Show how many replicas a pool's figures ask for; None: nobody counts."""
        if recommended is None:
            self._recommended.pop(pool, None)
        else:
            self._recommended[pool] = recommended

    def forget_pool(self, pool: PoolName) -> None:
        """Show a pool no more."""
        self._pools.pop(pool, None)


def _without(facts: Mapping[K, V], key: K) -> Mapping[K, V]:
    return {k: v for k, v in facts.items() if k != key}


def _unless_same(before: Mapping[K, V], after: Mapping[K, V]) -> Mapping[K, V]:
    """Return what is known already where it is the same: what was made of it can be kept."""
    return before if before == after else after
