"""What `/metrics` says."""

from __future__ import annotations

import asyncio
import platform
from dataclasses import replace

from prometheus_client.parser import text_string_to_metric_families

from poold.metrics import CONTENT_TYPE, Metrics
from poold.model.fleet import (
    ActionId,
    Digest,
    Generation,
    HostName,
    HostStatus,
    Manifest,
    PoolName,
    PoolStatus,
    Quarantine,
    Replica,
    ReplicaName,
    RollStatus,
)

HELLO = PoolName("hello")
A, B = HostName("a"), HostName("b")
QUARANTINE = Quarantine(HELLO, 7, Digest("sha256:7"), A, since=1.0, until=2.0)
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def generation(pool: PoolName, number: int, *, created_at: float) -> Generation:
    manifest = Manifest(
        pool=pool, build=ActionId("b"), fingerprint="f", image="i", image_id="x",
        archive_sha256="s", archive_bytes=300_000_000, packed_sha256="p", packed_bytes=70_000_000,
        engine="podman 5", runtime="runc 1", criu="4", kernel="6", machine="x86_64", cpu_flags=(),
        created_at=created_at, cold_seconds=7.0,
    )  # fmt: skip
    return Generation(pool, number, Digest("sha256:0"), manifest, A, created_at)


def wished(pool: PoolName, desired: int, *, generation: int | None = None) -> PoolStatus:
    return PoolStatus(pool, desired, ready=0, generation=generation, sentence="")


def series(metrics: Metrics) -> Series:
    """Return every sample, as Prometheus would read it."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def value(found: Series, name: str, **labels: str) -> float | None:
    return found.get((name, frozenset(labels.items())))


def test_one_histogram_for_both_methods() -> None:
    """Cold starts and restores differ by a label, and their buckets reach from 10 ms to 30 s."""
    metrics = Metrics(version="1")
    metrics.replica_started(HELLO, method="cold", outcome="success", seconds=6.5, phases={})
    metrics.replica_started(
        HELLO, method="restore", outcome="success", seconds=0.34, phases={"podman": 0.3}
    )
    found = series(metrics)
    name = "poold_replica_start_duration_seconds"
    labels = {"pool": "hello", "outcome": "success"}
    assert value(found, f"{name}_sum", method="cold", **labels) == 6.5
    assert value(found, f"{name}_bucket", method="restore", le="0.3", **labels) == 0
    assert value(found, f"{name}_bucket", method="restore", le="0.5", **labels) == 1
    bounds = {
        float(dict(labels)["le"]) for sample, labels in found if sample == f"{name}_bucket"
    } - {float("inf")}
    assert (min(bounds), max(bounds)) == (0.01, 30.0)
    phase = "poold_replica_start_phase_seconds_count"
    assert value(found, phase, pool="hello", method="restore", phase="podman") == 1


def test_counts_what_happened() -> None:
    """Builds, moves, fallbacks, changes, actions and bytes each have their counter."""
    metrics = Metrics(version="1")
    metrics.checkpoint_built(HELLO, outcome="success", seconds=20.0, phases={"warm": 2.0})
    metrics.replica_moved(HELLO, outcome="failure", downtime_seconds=1.5)
    metrics.fell_back(HELLO, "cold")
    metrics.drained(HELLO, seconds=1.0, sessions_cut=0)
    metrics.drained(HELLO, seconds=30.0, sessions_cut=3)
    metrics.change_ended(HELLO, "scale", "success")
    metrics.action_ended(A, "restore", "failure")
    metrics.transferred("image", A, 100)
    metrics.transferred("image", A, 20)
    found = series(metrics)
    builds = "poold_checkpoint_duration_seconds_sum"
    assert value(found, builds, pool="hello", outcome="success") == 20
    assert value(found, "poold_checkpoint_phase_seconds_sum", pool="hello", phase="warm") == 2
    assert value(found, "poold_move_downtime_seconds_sum", pool="hello", outcome="failure") == 1.5
    assert value(found, "poold_restore_fallbacks_total", pool="hello", step="cold") == 1
    drains = "poold_drain_duration_seconds_sum"
    assert value(found, drains, pool="hello", outcome="drained") == 1
    assert value(found, drains, pool="hello", outcome="cut") == 30
    assert value(found, "poold_drain_sessions_cut_total", pool="hello") == 3
    changes = {"pool": "hello", "kind": "scale", "outcome": "success"}
    assert value(found, "poold_changes_total", **changes) == 1
    actions = {"host": "a", "action": "restore", "outcome": "failure"}
    assert value(found, "poold_actions_total", **actions) == 1
    assert value(found, "poold_transfer_bytes_total", kind="image", host="a") == 120


def test_shows_the_fleet_as_observed() -> None:
    """Gauges are those of the last view; states without a replica are zero, not absent."""
    metrics = Metrics(version="0.1.0", clock=lambda: 1060.0)
    metrics.observe(
        pools=[
            replace(
                wished(HELLO, 3, generation=7),
                held=7,
                roll=RollStatus("paused", 7, 1, 3, 42, "hello2 did not come up"),
            )
        ],
        replicas=iter(
            [
                Replica(ReplicaName("hello1"), HELLO, "ready", generation=7),
                Replica(ReplicaName("hello2"), HELLO, "ready"),
                Replica(ReplicaName("hello3"), HELLO, "starting"),
            ]
        ),
        generations={
            HELLO: [
                generation(HELLO, 8, created_at=1050.0),
                generation(HELLO, 7, created_at=1000.0),
            ]
        },
        hosts=[
            HostStatus(A, "up", disk_free_bytes=5, disk_reserve_bytes=7, quarantine=(QUARANTINE,)),
            HostStatus(B, "unknown"),
        ],
        reconciled_at=1059.0,
    )
    found = series(metrics)
    assert value(found, "poold_replicas", pool="hello", state="ready") == 2
    assert value(found, "poold_replicas", pool="hello", state="failed") == 0
    assert value(found, "poold_replicas_desired", pool="hello") == 3
    assert value(found, "poold_replicas_by_generation", pool="hello", generation="7") == 1
    assert value(found, "poold_replicas_by_generation", pool="hello", generation="none") == 1
    assert value(found, "poold_roll", pool="hello", state="paused") == 1
    assert value(found, "poold_roll", pool="hello", state="running") == 0
    assert value(found, "poold_pool_held_generation", pool="hello") == 7
    assert value(found, "poold_generation", pool="hello") == 7
    assert value(found, "poold_checkpoint_size_bytes", pool="hello") == 3e8
    assert value(found, "poold_checkpoint_packed_size_bytes", pool="hello") == 7e7
    assert value(found, "poold_checkpoint_created_timestamp_seconds", pool="hello") == 1000
    assert value(found, "poold_checkpoint_cold_start_seconds", pool="hello") == 7
    assert value(found, "poold_checkpoint_age_seconds", pool="hello") == 60
    assert value(found, "poold_host_up", host="a") == 1
    assert value(found, "poold_host_up", host="b") == 0
    assert value(found, "poold_host_quarantined_generations", host="a") == 1
    assert value(found, "poold_host_quarantined_generations", host="b") == 0
    assert value(found, "poold_host_disk_free_bytes", host="a") == 5
    assert value(found, "poold_host_disk_free_bytes", host="b") is None
    assert value(found, "poold_host_disk_reserve_bytes", host="a") == 7
    assert value(found, "poold_last_reconcile_timestamp_seconds") == 1059
    build = {"version": "0.1.0", "python": platform.python_version()}
    assert value(found, "poold_build_info", **build) == 1


def test_rates_have_a_zero_to_start_from() -> None:
    """A pool that was only observed has its counters already, at zero."""
    metrics = Metrics(version="1")
    metrics.observe(pools=[wished(HELLO, 0)])
    found = series(metrics)
    labels = {"pool": "hello", "method": "restore", "outcome": "failure"}
    assert value(found, "poold_replica_start_duration_seconds_count", **labels) == 0
    assert value(found, "poold_restore_fallbacks_total", pool="hello", step="cold") == 0
    build = {"pool": "hello", "outcome": "failure"}
    assert value(found, "poold_checkpoint_duration_seconds_count", **build) == 0


def test_forgets_what_is_gone() -> None:
    """No series of a pool or host outlives it, even one that comes in after it went."""
    metrics = Metrics(version="1")
    other = PoolName("other")

    def observe_the_rest() -> None:
        metrics.observe(pools=[wished(other, 1)], hosts=[HostStatus(B, "up")])

    metrics.observe(
        pools=[wished(HELLO, 1, generation=1), wished(other, 1)],
        replicas=[Replica(ReplicaName("hello1"), HELLO, "ready")],
        generations={HELLO: [generation(HELLO, 1, created_at=0.0)]},
        hosts=[HostStatus(A, "up"), HostStatus(B, "up")],
    )
    metrics.transferred("generation", A, 1)
    metrics.transferred("generation", B, 1)
    observe_the_rest()
    metrics.replica_started(HELLO, method="cold", outcome="failure", seconds=1.0, phases={"x": 1})
    metrics.action_ended(A, "start", "failure")
    observe_the_rest()
    labels = [dict(labels) for _, labels in series(metrics)]
    assert {each["pool"] for each in labels if "pool" in each} == {"other"}
    assert {each["host"] for each in labels if "host" in each} == {"b"}


def test_daemons_do_not_share_metrics() -> None:
    """Two daemons in one process each have their own."""
    one, other = Metrics(version="1"), Metrics(version="1")
    one.transferred("image", A, 1)
    assert value(series(other), "poold_transfer_bytes_total", kind="image", host="a") is None


def test_content_type_is_what_is_rendered() -> None:
    """The plain text format, whose names need no escaping."""
    metrics = Metrics(version="1", clock=lambda: 0.0)
    body, content_type = metrics.page()
    assert body.startswith(b"# HELP ")
    assert content_type == CONTENT_TYPE == "text/plain; version=0.0.4; charset=utf-8"


async def test_the_loops_own_tasks_are_counted() -> None:
    """A scrape inside the daemon's loop counts its tasks: one that leaks shows."""
    metrics = Metrics(version="1")
    before = value(series(metrics), "poold_tasks")
    assert before is not None
    more = [asyncio.create_task(asyncio.sleep(60)) for _ in range(3)]
    assert value(series(metrics), "poold_tasks") == before + 3
    for task in more:
        task.cancel()
    await asyncio.gather(*more, return_exceptions=True)
