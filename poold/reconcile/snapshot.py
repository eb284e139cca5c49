"""Everything that deciding may know of one pool, frozen at one moment.

Values only: taken from the store and the world by the loop, handed to `plan`. Nothing here asks a
host or a clock. `index` holds the same by name: with thousands of replicas a plan that searched for
every name would be quadratic.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from poold.agent.messages import ContainerFact
from poold.model.compat import relevant, why_not_on
from poold.model.fleet import (
    Change,
    Digest,
    Generation,
    HostName,
    Pool,
    PoolName,
    Quarantine,
    ReplicaName,
)
from poold.reconcile.actions import replica_subject
from poold.reconcile.published import Traffic
from poold.store import Assignment, Garbage, Hold, Move, Roll, Wish
from poold.store.rolls import in_service, of_one_image


@dataclass(frozen=True, slots=True, kw_only=True)
class HostView:
    """What is known of a host. Only an `up` one was listed since it was last reached.

    `containers` are those of this pool and foreign ones with a name of it; `of_others` are names of
    this pool that a container of another pool of ours has, and which pool's; `unsure` are names
    whose state has to be listed again before anything is decided on them; `others` counts the
    replicas of other pools; `images` are names known to be there, which may be forgotten;
    `image_ids` say what names of images mean there, by the last listing;
    `of_pool` are those of `held` that were made of this pool. `closed` says why nothing new is
    placed there, until `closed_until` if that ends by itself; the replicas of a `fenced` one were
    declared dead: what is found there is removed where it lives elsewhere.
    """

    name: HostName
    state: Literal["up", "connecting", "unknown"] = "unknown"
    reason: str = ""
    containers: tuple[ContainerFact, ...] = ()
    of_others: Mapping[str, str] = field(default_factory=dict)
    unsure: frozenset[str] = frozenset()
    held: frozenset[Digest] = frozenset()
    staged: frozenset[Digest] = frozenset()
    of_pool: frozenset[Digest] = frozenset()
    images: frozenset[str] = frozenset()
    image_ids: Mapping[str, str] = field(default_factory=dict)
    running_actions: frozenset[str] = frozenset()
    max_replicas: int = 100
    others: int = 0
    closed: str = ""
    closed_until: float | None = None
    fenced: bool = False
    boot_id: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    memory_free_bytes: int | None = None
    ahead_seconds: float = 0.0  # its clock before the daemon's
    _by_name: dict[str, ContainerFact] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def up(self) -> bool:
        """Whether its answers can be believed now."""
        return self.state == "up"

    def ours(self, name: str) -> ContainerFact | None:
        """Return our container of that name."""
        return self.all_ours().get(name)

    def all_ours(self) -> Mapping[str, ContainerFact]:
        """Return our containers by name."""
        if not self._by_name:  # filled at the first question: a plan asks once a replica
            self._by_name.update({c.name: c for c in reversed(self.containers) if c.ours})
        return self._by_name

    def foreign(self, name: str) -> bool:
        """Whether somebody else's container has the name."""
        return any(c.name == name and not c.ours for c in self.containers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Something failed and is tried again at `at`; `definite` failures step down a ladder."""

    at: float
    failed_at: float
    failures: int
    definite: bool
    problem: Mapping[str, Any]

    @property
    def message(self) -> str:
        """The failure in one sentence."""
        return str(self.problem.get("message", "failed"))

    @property
    def evidence(self) -> str:
        """What the failure left, in lines: the end of CRIU's log, a program's last words."""
        return str(self.problem.get("detail", ""))


@dataclass(slots=True)
class Index:
    """What a snapshot's other fields say, by name; filled at the first question."""

    matching: tuple[Generation, ...] | None = None
    fitting: dict[tuple[str, ...], tuple[Generation, ...]] = field(default_factory=dict)
    wished: dict[ReplicaName, Wish] | None = None
    assigned: dict[ReplicaName, Assignment] | None = None
    loads: Counter[HostName] | None = None
    resting: dict[ReplicaName, ContainerFact] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One pool at one moment; `pool` is None when it left the configuration.

    `busy` maps the subject of each action under way to a participle ("restoring"); `retries` are
    by subject; `own_actions` are ids of open intents. While `hold` is there, the pool's application
    is that of its generation; `configured` is the configuration's fingerprint, `served` the one
    whose generation became current last, `served_image` the bare id of its image. `extras` are
    wishes of the roll alone.
    """

    name: PoolName
    pool: Pool | None
    seen_at: float = 0.0
    first_wished: bool = True
    introduced: frozenset[HostName] = frozenset()
    wishes: tuple[Wish, ...] = ()
    assignments: tuple[Assignment, ...] = ()
    generations: tuple[Generation, ...] = ()  # newest first, retired ones left out
    moves: tuple[Move, ...] = ()
    garbage: tuple[Garbage, ...] = ()
    changes: tuple[Change, ...] = ()  # pending ones, oldest first
    hosts: Mapping[HostName, HostView] = field(default_factory=dict)
    busy: Mapping[str, str] = field(default_factory=dict)
    retries: Mapping[str, Retry] = field(default_factory=dict)
    own_actions: frozenset[str] = frozenset()
    quarantine: Mapping[tuple[HostName, Digest], Quarantine] = field(default_factory=dict)
    hold: Hold | None = None
    roll: Roll | None = None
    extras: frozenset[ReplicaName] = frozenset()
    configured: str = ""
    served: str = ""
    traffic: Traffic | None = None  # None: no balancer is told of its replicas
    served_image: str = ""
    unexplained: tuple[int, ...] = ()  # generations of it, not known to be of what is configured
    claimed: frozenset[str] = frozenset()  # spares that open actions were offered
    index: Index = field(default_factory=Index, init=False, repr=False, compare=False)

    def usable(self) -> tuple[Generation, ...]:
        """Return the generations that this pool's application may be restored from.

        Those of the builder's class of hosts, the current one first; see `usable_on`.
        """
        builder = self.hosts.get(self.pool.builder) if self.pool is not None else None
        if builder is not None and builder.facts:
            return self.usable_on(builder)
        matching = self._matching()
        own = tuple(g for g in matching if self.pool is None or g.builder == self.pool.builder)
        return own or matching

    def usable_on(self, host: HostView) -> tuple[Generation, ...]:
        """Return the generations that the application may be restored from on this host."""
        fitting, kind = self.index.fitting, relevant(host.facts)
        if kind not in fitting:  # hundreds of hosts are of few kinds
            fitting[kind] = tuple(
                g for g in self._matching() if not why_not_on(g.manifest, host.facts)
            )
        return fitting[kind]

    def _matching(self) -> tuple[Generation, ...]:
        if self.pool is None or not self.generations:
            return ()
        if self.index.matching is None:
            fingerprint = self.pool.application.fingerprint()
            fitting = in_service(self.generations, fingerprint, self.hold)
            self.index.matching = of_one_image(fitting, self.pool, self.hold)
        return self.index.matching

    def wished(self) -> Mapping[ReplicaName, Wish]:
        """Return the wishes by name."""
        if self.index.wished is None:
            self.index.wished = {wish.name: wish for wish in self.wishes}
        return self.index.wished

    def assigned(self) -> Mapping[ReplicaName, Assignment]:
        """Return the assignments by name."""
        if self.index.assigned is None:
            self.index.assigned = {each.name: each for each in self.assignments}
        return self.index.assigned

    def loads(self) -> Counter[HostName]:
        """Return how many of the pool's names each host has, or is to get by a move."""
        if self.index.loads is None:
            held = {(each.host, each.name) for each in self.assignments}
            held |= {(move.target, move.name) for move in self.moves}
            self.index.loads = Counter(host for host, _ in held)
        return self.index.loads

    def resting(self) -> Mapping[ReplicaName, ContainerFact]:
        """Return the replicas with which nothing is to be done, and their containers.

        They are ready where they are assigned and wished, that is certain, and nothing happens to
        them. In a fleet of thousands these are nearly all, most of the time: a plan looks at each
        of them here, and then only at the others.
        """
        if self.index.resting is None:
            self.index.resting = self._find_resting()
        return self.index.resting

    def _find_resting(self) -> dict[ReplicaName, ContainerFact]:
        wished, assigned = self.wished(), self.assigned()
        touched = {move.name for move in self.moves} | _acted_on(self.busy, wished)
        touched.update(self.extras, self.roll.replacing if self.roll else ())
        found: dict[ReplicaName, ContainerFact] = {}
        for host in self.hosts.values():
            if not host.up:
                continue
            here = host.name
            for each, fact in host.all_ours().items():
                name = ReplicaName(each)
                wish, assignment = wished.get(name), assigned.get(name)
                if (
                    fact.ready
                    and fact.running
                    and fact.role == "replica"
                    and wish is not None
                    and (wish.host is None or wish.host == here)
                    and assignment is not None
                    and assignment.host == here
                    and name not in host.unsure
                    and name not in touched
                ):
                    found[name] = fact
        return found

    def acting(self, busy: Mapping[str, str]) -> Snapshot:
        """Return the same moment with more under way; what was indexed is not indexed again."""
        after = replace(self, busy={**self.busy, **busy})
        at, touched = after.index, _acted_on(busy, self.wished())
        at.wished, at.assigned = self.index.wished, self.index.assigned
        at.matching, at.fitting = self.index.matching, self.index.fitting
        at.resting = {n: f for n, f in self.resting().items() if n not in touched}
        return after


def _acted_on(busy: Mapping[str, str], names: Iterable[ReplicaName]) -> set[ReplicaName]:
    return {name for name in names if replica_subject(name) in busy} if busy else set()
