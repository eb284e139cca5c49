"""What Prometheus sees of poold.

Flows in: what happened (one typed call each, at the moment it is known) and, every cycle, how the
fleet is now; flows out: the text of `/metrics`. It asks nobody for anything, and is the only module
that knows prometheus-client.
"""

from __future__ import annotations

import asyncio
import platform
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Final, Literal, TypeVar, get_args

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from poold import __version__
from poold.model.fleet import (
    ChangeKind,
    Generation,
    HostName,
    HostStatus,
    Phases,
    PoolName,
    PoolStatus,
    Replica,
    ReplicaState,
    SpareState,
)

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4

Method = Literal["cold", "restore", "spare"]
Outcome = Literal["success", "failure"]
M = TypeVar("M", Counter, Histogram)
Step = Literal["restore", "previous-generation", "cold"]  # where a step down the ladder leads
TransferKind = Literal["generation", "image", "capture"]

# From a restore in milliseconds to the slowest cold start.
START_BUCKETS: Final = (
    0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 7.5, 10.0, 15.0, 30.0,
)  # fmt: skip
PHASE_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BUILD_BUCKETS: Final = (1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)

# `_created` series only double the output; the library has one switch for all registries.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """How the fleet is at one moment."""

    pools: tuple[PoolStatus, ...] = ()
    desired: Mapping[PoolName, int] = field(default_factory=dict)
    by_generation: Mapping[tuple[PoolName, str], int] = field(default_factory=dict)
    replicas: Mapping[tuple[PoolName, ReplicaState], int] = field(default_factory=dict)
    current: Mapping[PoolName, Generation] = field(default_factory=dict)
    hosts: tuple[HostStatus, ...] = ()
    reconciled_at: float | None = None
    memory: Mapping[tuple[PoolName, str], int] = field(default_factory=dict)


class Metrics:
    """All metrics of one daemon, in a registry of its own."""

    def __init__(
        self, *, version: str = __version__, clock: Callable[[], float] = time.time
    ) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        self._starts = self._histogram(
            "poold_replica_start_duration_seconds",
            "Seconds from the beginning of the action to the first successful readiness probe.",
            ("pool", "method", "outcome"),
            START_BUCKETS,
        )
        self._start_phases = self._histogram(
            "poold_replica_start_phase_seconds",
            "Seconds that one phase of a replica's start took.",
            ("pool", "method", "phase"),
            PHASE_BUCKETS,
        )
        self._downtimes = self._histogram(
            "poold_move_downtime_seconds",
            "Seconds for which a moved replica did not answer.",
            ("pool", "outcome"),
            START_BUCKETS,
        )
        self._builds = self._histogram(
            "poold_checkpoint_duration_seconds",
            "Seconds that making a checkpoint took, from the cold start to the proof.",
            ("pool", "outcome"),
            BUILD_BUCKETS,
        )
        self._build_phases = self._histogram(
            "poold_checkpoint_phase_seconds",
            "Seconds that one phase of making a checkpoint took.",
            ("pool", "phase"),
            BUILD_BUCKETS,
        )
        self._ladder = self._counter(
            "poold_restore_fallbacks_total",
            "Steps down from a failed way to bring a replica up to the next one, named by it.",
            ("pool", "step"),
        )
        self._drains = self._histogram(
            "poold_drain_duration_seconds",
            "Seconds until a balancer had let go of a replica, by whether sessions were cut.",
            ("pool", "outcome"),
            BUILD_BUCKETS,
        )
        self._cut = self._counter(
            "poold_drain_sessions_cut_total",
            "Sessions that a drain deadline ended.",
            ("pool",),
        )
        self._changes = self._counter(
            "poold_changes_total", "Changes that ended, by how.", ("pool", "kind", "outcome")
        )
        self._actions = self._counter(
            "poold_actions_total", "Actions on hosts that ended.", ("host", "action", "outcome")
        )
        self._transfers = self._counter(
            "poold_transfer_bytes_total", "Bytes sent to a host.", ("host", "kind")
        )
        self._by_pool: tuple[Counter | Histogram, ...] = (
            self._starts, self._start_phases, self._downtimes, self._builds, self._build_phases,
            self._ladder, self._drains, self._cut, self._changes,
        )  # fmt: skip
        self._by_host: tuple[Counter | Histogram, ...] = (self._actions, self._transfers)
        self._pools: set[str] = set()  # that have series
        self._hosts: set[str] = set()
        self._gauges = _Gauges(version, clock)
        self._registry.register(self._gauges)

    # -- what happened ----------------------------------------------------------------------------

    def replica_started(
        self, pool: PoolName, *, method: Method, outcome: Outcome, seconds: float, phases: Phases
    ) -> None:
        """Count an ended start; `seconds` has the same meaning for both methods."""
        self._of_pool(self._starts, pool, method, outcome).observe(seconds)
        for phase, phase_seconds in phases.items():
            self._of_pool(self._start_phases, pool, method, phase).observe(phase_seconds)

    def replica_moved(self, pool: PoolName, *, outcome: Outcome, downtime_seconds: float) -> None:
        """Count an ended move."""
        self._of_pool(self._downtimes, pool, outcome).observe(downtime_seconds)

    def checkpoint_built(
        self, pool: PoolName, *, outcome: Outcome, seconds: float, phases: Phases
    ) -> None:
        """Count an ended build; how large it is comes with the next `observe`."""
        self._of_pool(self._builds, pool, outcome).observe(seconds)
        for phase, phase_seconds in phases.items():
            self._of_pool(self._build_phases, pool, phase).observe(phase_seconds)

    def fell_back(self, pool: PoolName, step: Step) -> None:
        """Count a step down the ladder; `step` is where it led."""
        self._of_pool(self._ladder, pool, step).inc()

    def drained(self, pool: PoolName, *, seconds: float, sessions_cut: int) -> None:
        """Count a replica that a balancer let go of."""
        outcome = "cut" if sessions_cut else "drained"
        self._of_pool(self._drains, pool, outcome).observe(seconds)
        self._of_pool(self._cut, pool).inc(sessions_cut)

    def change_ended(self, pool: PoolName, kind: ChangeKind, outcome: Outcome) -> None:
        """Count a settled or failed change."""
        self._of_pool(self._changes, pool, kind, outcome).inc()

    def action_ended(self, host: HostName, action: str, outcome: Outcome) -> None:
        """Count an action's outcome; `action` is the verb of its request."""
        self._of_host(self._actions, host, action, outcome).inc()

    def transferred(self, kind: TransferKind, host: HostName, size_bytes: int) -> None:
        """Count bytes that reached a host; may be called for each chunk."""
        self._of_host(self._transfers, host, kind).inc(size_bytes)

    # -- how it is --------------------------------------------------------------------------------

    def observe(
        self,
        *,
        pools: Iterable[PoolStatus],
        replicas: Iterable[Replica] = (),
        hosts: Iterable[HostStatus] = (),
        generations: Mapping[PoolName, Iterable[Generation]] | None = None,
        reconciled_at: float | None = None,
    ) -> None:
        """Show this from now on, and forget the pools and hosts that are not in it.

        Of a pool's generations the current one is shown. `reconciled_at` is when the slowest
        pool's worker last showed that it is alive, in seconds since the epoch.
        """
        pools = tuple(pools)
        replicas = tuple(replicas)
        view = _View(
            pools=pools,
            by_generation=Tally(
                (replica.pool, "none" if replica.generation is None else str(replica.generation))
                for replica in replicas
                if replica.state == "ready"
            ),
            desired={pool.name: pool.desired for pool in pools},
            replicas=Tally((replica.pool, replica.state) for replica in replicas),
            current={
                pool.name: generation
                for pool in pools
                for generation in (generations or {}).get(pool.name, ())
                if generation.number == pool.generation
            },
            hosts=tuple(hosts),
            reconciled_at=reconciled_at,
            memory=_memory(replicas),
        )
        self._gauges.view = view
        for gone in self._pools - view.desired.keys():
            _forget("pool", gone, self._by_pool)
        self._pools &= view.desired.keys()
        known_hosts = {status.name for status in view.hosts}
        for gone in self._hosts - known_hosts:
            _forget("host", gone, self._by_host)
        self._hosts &= known_hosts
        # Rates need a zero to start from: the first event is lost to them otherwise.
        for pool in view.desired:
            for outcome in get_args(Outcome):
                self._of_pool(self._builds, pool, outcome)
                for method in get_args(Method):
                    self._of_pool(self._starts, pool, method, outcome)
            for step in get_args(Step):
                self._of_pool(self._ladder, pool, step)

    def page(self) -> tuple[bytes, str]:
        """Return the text of `/metrics` and its content type."""
        return self.render(), CONTENT_TYPE

    def render(self) -> bytes:
        """Return the text of `/metrics`, of type CONTENT_TYPE."""
        return prometheus_client.generate_latest(self._registry)

    def _of_pool(self, metric: M, pool: PoolName, *labels: str) -> M:
        self._pools.add(pool)
        return metric.labels(pool, *labels)

    def _of_host(self, metric: M, host: HostName, *labels: str) -> M:
        self._hosts.add(host)
        return metric.labels(host, *labels)

    def _histogram(
        self, name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]
    ) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self._registry)

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(name, text, labels, registry=self._registry)


def _memory(replicas: Iterable[Replica]) -> Mapping[tuple[PoolName, str], int]:
    """Sum by pool and kind what hosts told of their replicas."""
    sums = Tally[tuple[PoolName, str]]()
    for replica in replicas:
        for kind, size_bytes in asdict(replica.memory).items() if replica.memory else ():
            sums[replica.pool, kind] += size_bytes
    return sums


def _forget(label: str, gone: str, metrics: Iterable[Counter | Histogram]) -> None:
    for metric in metrics:
        metric.remove_by_labels({label: gone})


class _Gauges(Collector):
    """Gauges made anew from the latest view at each scrape: nothing stale can stay in them."""

    def __init__(self, version: str, clock: Callable[[], float]) -> None:
        self._version = version
        self._clock = clock
        self.view = _View()

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily(
            "poold_build",
            "Which poold this is.",
            value={"version": self._version, "python": platform.python_version()},
        )
        if (reconciled_at := self.view.reconciled_at) is not None:
            yield GaugeMetricFamily(
                "poold_last_reconcile_timestamp_seconds",
                "When the slowest pool's worker last showed that it is alive.",
                value=reconciled_at,
            )
        yield from _task_gauge()
        yield from self._replicas()
        yield from self._spares()
        yield from self._memory()
        yield from self._rolls()
        yield from self._checkpoints()
        yield from self._host_gauges()

    def _replicas(self) -> Iterator[Metric]:
        replicas = GaugeMetricFamily(
            "poold_replicas", "Replicas by state.", labels=("pool", "state")
        )
        for pool in self.view.desired:
            for state in get_args(ReplicaState):
                replicas.add_metric((pool, state), self.view.replicas.get((pool, state), 0))
        yield replicas
        yield _gauge(
            "poold_replicas_desired", "Replicas wished.", "pool", self.view.desired.items()
        )

    def _spares(self) -> Iterator[Metric]:
        spares = GaugeMetricFamily("poold_spares", "Spares by state.", labels=("pool", "state"))
        for pool in self.view.pools:
            for state in get_args(SpareState):
                count = sum(spare.state == state for spare in pool.spares)
                spares.add_metric((pool.name, state), count)
        yield spares
        wished = ((pool.name, pool.spares_wished) for pool in self.view.pools)
        yield _gauge("poold_spares_desired", "Spares wished, on all hosts.", "pool", wished)

    def _memory(self) -> Iterator[Metric]:
        memory = GaugeMetricFamily(
            "poold_replica_memory_bytes",
            "Memory of a pool's replicas together: resident; private to one of them; proportional,"
            " what is shared counted once; merged, what equal pages save (KSM).",
            labels=("pool", "kind"),
        )
        for labels, size_bytes in sorted(self.view.memory.items()):
            memory.add_metric(labels, size_bytes)
        yield memory

    def _rolls(self) -> Iterator[Metric]:
        replicas = GaugeMetricFamily(
            "poold_replicas_by_generation",
            'Ready replicas by the generation that they came up from; "none" is a cold start.',
            labels=("pool", "generation"),
        )
        for labels, count in sorted(self.view.by_generation.items()):
            replicas.add_metric(labels, count)
        yield replicas
        rolls = GaugeMetricFamily(
            "poold_roll", "1 for the state of a pool's roll.", labels=("pool", "state")
        )
        for pool in self.view.pools:
            for state in ("running", "paused"):
                rolls.add_metric(
                    (pool.name, state), pool.roll is not None and pool.roll.state == state
                )
        yield rolls
        held = ((pool.name, pool.held) for pool in self.view.pools)
        yield _gauge(
            "poold_pool_held_generation", "Generation that a pool is held at.", "pool", held
        )

    def _checkpoints(self) -> Iterator[Metric]:
        current = self.view.current
        manifests = {pool: generation.manifest for pool, generation in current.items()}
        now = self._clock()
        yield _gauge(
            "poold_generation",
            "Number of the current generation.",
            "pool",
            ((pool, generation.number) for pool, generation in current.items()),
        )
        yield _gauge(
            "poold_checkpoint_size_bytes",
            "Size of the current checkpoint, unpacked.",
            "pool",
            ((pool, manifest.archive_bytes) for pool, manifest in manifests.items()),
        )
        yield _gauge(
            "poold_checkpoint_packed_size_bytes",
            "Size of the current checkpoint as it travels and rests.",
            "pool",
            ((pool, manifest.packed_bytes) for pool, manifest in manifests.items()),
        )
        yield _gauge(
            "poold_checkpoint_cold_start_seconds",
            "Seconds that the cold start took of which the current checkpoint was made.",
            "pool",
            ((pool, manifest.cold_seconds or None) for pool, manifest in manifests.items()),
        )
        yield _gauge(
            "poold_checkpoint_created_timestamp_seconds",
            "When the current checkpoint was made.",
            "pool",
            ((pool, manifest.created_at) for pool, manifest in manifests.items()),
        )
        yield _gauge(
            "poold_checkpoint_age_seconds",
            "How old the current checkpoint is.",
            "pool",
            ((pool, max(0.0, now - manifest.created_at)) for pool, manifest in manifests.items()),
        )

    def _host_gauges(self) -> Iterator[Metric]:
        hosts = self.view.hosts
        yield _gauge(
            "poold_host_up",
            "1 while the host's agent answers, 0 while nothing is known of it.",
            "host",
            ((host.name, host.state == "up") for host in hosts),
        )
        yield _gauge(
            "poold_host_disk_free_bytes",
            "Free disk space where generations rest.",
            "host",
            ((host.name, host.disk_free_bytes) for host in hosts),
        )
        yield _gauge(
            "poold_host_disk_reserve_bytes",
            "What stays free there: with less nothing that writes much is begun.",
            "host",
            ((host.name, host.disk_reserve_bytes) for host in hosts),
        )
        yield _gauge(
            "poold_host_memory_free_bytes",
            "Memory available for replicas.",
            "host",
            ((host.name, host.memory_free_bytes) for host in hosts),
        )
        yield _gauge(
            "poold_host_quarantined_generations",
            "Generations that are not restored on a host for a while, because they failed there.",
            "host",
            ((host.name, len(host.quarantine)) for host in hosts),
        )


def _task_gauge() -> Iterator[Metric]:
    """Count the tasks of the loop that is scraped; scraped from outside of one there are none."""
    try:
        tasks = len(asyncio.all_tasks())
    except RuntimeError:
        return
    yield GaugeMetricFamily("poold_tasks", "Asyncio tasks of the daemon.", value=tasks)


def _gauge(
    name: str, text: str, label: str, values: Iterable[tuple[str, float | None]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=(label,))
    for label_value, number in values:
        if number is not None:
            family.add_metric((label_value,), number)
    return family
