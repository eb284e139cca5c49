"""Prometheus's own tool takes what poold exports, and the rules that come with it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from poold.metrics import Metrics
from poold.model.fleet import (
    ActionId,
    Digest,
    Generation,
    HostName,
    HostStatus,
    Manifest,
    PoolName,
    PoolStatus,
    Replica,
    ReplicaName,
)

RULES = Path(__file__).parents[2] / "config" / "prometheus-rules.yml"
HELLO, A = PoolName("hello"), HostName("a")

RESTORES = 'poold_replica_start_duration_seconds_bucket{method="restore", outcome="success"'

SCENARIO = f"""\
rule_files: [{RULES}]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - series: 'up{{job="poold", instance="x"}}'
        values: '1x20'
      - series: 'poold_host_up{{job="poold", instance="x", host="b"}}'
        values: '1 0x20'
      - series: 'poold_replicas_desired{{job="poold", instance="x", pool="hello"}}'
        values: '3x20'
      - series: 'poold_replicas{{job="poold", instance="x", pool="hello", state="ready"}}'
        values: '3 2x20'
      - series: 'poold_restore_fallbacks_total{{job="poold", pool="hello", step="cold"}}'
        values: '0 0 1x20'
      - series: '{RESTORES}, pool="slow", le="5"}}'
        values: '0x20'
      - series: '{RESTORES}, pool="slow", le="10"}}'
        values: '0x10 1x10'
      - series: '{RESTORES}, pool="slow", le="+Inf"}}'
        values: '0x10 1x10'
      - series: 'poold_checkpoint_cold_start_seconds{{job="poold", pool="slow"}}'
        values: '4x20'
      - series: '{RESTORES}, pool="hello", le="5"}}'
        values: '0x10 1x10'
      - series: '{RESTORES}, pool="hello", le="+Inf"}}'
        values: '0x10 1x10'
      - series: 'poold_checkpoint_cold_start_seconds{{job="poold", pool="hello"}}'
        values: '7x20'
      - series: 'poold_checkpoint_duration_seconds_count{{pool="hello", outcome="failure"}}'
        values: '0x10 1x10'
      - series: 'poold_host_disk_free_bytes{{job="poold", instance="x", host="b"}}'
        values: '100x20'
      - series: 'poold_host_disk_reserve_bytes{{job="poold", instance="x", host="b"}}'
        values: '200x20'
      - series: 'poold_checkpoint_size_bytes{{job="poold", instance="x", pool="hello"}}'
        values: '50x20'
      - series: 'poold_roll{{job="poold", instance="x", pool="hello", state="paused"}}'
        values: '0 0 1x20'
    alert_rule_test:
      - {{alertname: PooldRollPaused, eval_time: 1m}}
      - alertname: PooldRollPaused
        eval_time: 3m
        exp_alerts:
          - exp_labels:
              {{severity: warning, job: poold, instance: x, pool: hello, state: paused}}
            exp_annotations:
              summary: the roll of hello to another generation is paused
              description: "`poold explain hello` says why; `poold roll` goes on,
                `poold rollback` goes back."
      - {{alertname: PooldHostDown, eval_time: 2m}}
      - alertname: PooldHostDown
        eval_time: 4m
        exp_alerts:
          - exp_labels: {{severity: critical, job: poold, instance: x, host: b}}
            exp_annotations:
              summary: poold cannot reach host b
              description: Its replicas count as unknown and keep their names.
                See `poold hosts` and `poold doctor`.
      - alertname: PooldReplicasMissing
        eval_time: 10m
        exp_alerts:
          - exp_labels: {{severity: warning, job: poold, instance: x, pool: hello}}
            exp_annotations:
              summary: pool hello lacks 1 ready replicas
              description: "`poold ps` says for each replica why it is not ready."
      - alertname: PooldRestoreFallsBack
        eval_time: 4m
        exp_alerts:
          - exp_labels: {{severity: warning, pool: hello, step: cold}}
            exp_annotations:
              summary: replicas of hello came up by cold, not by restoring
              description: They are slower, not wrong. The replica's record has the reason
                and CRIU's last lines.
      - alertname: PooldDiskReserveTouched
        eval_time: 8m
        exp_alerts:
          - exp_labels: {{severity: warning, job: poold, instance: x, host: b}}
            exp_annotations:
              summary: host b begins nothing that writes much
              description: 100B are free, less than its disk_reserve; `poold doctor` names the disk.
      - alertname: PooldDiskLow
        eval_time: 8m
        exp_alerts:
          - exp_labels: {{severity: warning, job: poold, instance: x, host: b}}
            exp_annotations:
              summary: host b has no room for three more checkpoints
              description: 100B are free; lower keep_generations or add disk.
      - {{alertname: PooldDown, eval_time: 10m}}
      - {{alertname: PooldRestoreSlow, eval_time: 5m}}
      - alertname: PooldRestoreSlow
        eval_time: 15m
        exp_alerts:
          - exp_labels: {{severity: warning, pool: slow}}
            exp_annotations:
              summary: restoring slow is not faster than starting it cold
              description: "Compare the phases: poold_replica_start_phase_seconds."
      - alertname: PooldCheckpointsFail
        eval_time: 15m
        exp_alerts:
          - exp_labels: {{severity: warning, pool: hello}}
            exp_annotations:
              summary: pool hello cannot make a checkpoint
              description: The last good one stays in use. `poold explain hello` has the reason.
"""


@pytest.fixture(scope="module")
def promtool() -> str:
    """Find promtool; without it there is nothing to test."""
    program = shutil.which("promtool")
    if program is None:
        reason = "promtool is not installed (Debian: prometheus)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return program


def full_metrics() -> Metrics:
    """Return metrics in which every series exists."""
    manifest = Manifest(
        pool=HELLO, build=ActionId("b"), fingerprint="f", image="i", image_id="x",
        cold_seconds=7.0, archive_sha256="s", archive_bytes=3, packed_sha256="p", packed_bytes=2,
        engine="podman 5", runtime="runc 1", criu="4", kernel="6", machine="x86_64",
        cpu_flags=(), created_at=1.0,
    )  # fmt: skip
    metrics = Metrics(version="0.1.0")
    metrics.observe(
        pools=[PoolStatus(HELLO, desired=1, ready=1, generation=1, sentence="")],
        replicas=[Replica(ReplicaName("hello1"), HELLO, "ready")],
        generations={HELLO: [Generation(HELLO, 1, Digest("sha256:0"), manifest, A, 1.0)]},
        hosts=[HostStatus(A, "up", disk_free_bytes=1, disk_reserve_bytes=1, memory_free_bytes=1)],
        reconciled_at=1.0,
    )
    for method in ("cold", "restore"):
        metrics.replica_started(
            HELLO, method=method, outcome="success", seconds=0.3, phases={"probe": 0.1}
        )
    metrics.checkpoint_built(HELLO, outcome="success", seconds=10.0, phases={"cold": 7.0})
    metrics.replica_moved(HELLO, outcome="success", downtime_seconds=1.0)
    metrics.fell_back(HELLO, "cold")
    metrics.drained(HELLO, seconds=1.0, sessions_cut=2)
    metrics.change_ended(HELLO, "scale", "success")
    metrics.action_ended(A, "restore", "success")
    metrics.transferred("generation", A, 1)
    return metrics


def test_metrics_pass_without_a_warning(promtool: str) -> None:
    """`promtool check metrics` accepts the whole output and has nothing to say about it."""
    done = subprocess.run(
        [promtool, "check", "metrics"],
        input=full_metrics().render(),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout.decode(), done.stderr.decode()) == (0, "", "")


def test_promtool_would_object(promtool: str) -> None:
    """The check above is one that can fail: a badly named counter does not pass."""
    done = subprocess.run(
        [promtool, "check", "metrics"],
        input=b"# HELP x_count y\n# TYPE x_count counter\nx_count 1\n",
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode != 0


def test_rules_are_valid(promtool: str) -> None:
    """`promtool check rules` accepts the rules that come with poold."""
    done = subprocess.run(
        [promtool, "check", "rules", RULES],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_fire_when_they_should(promtool: str, tmp_path: Path) -> None:
    """With a host gone and a replica missing the alerts fire, after their time and not before."""
    scenario = tmp_path / "scenario.yml"
    scenario.write_text(SCENARIO)
    done = subprocess.run(
        [promtool, "test", "rules", scenario],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_use_only_what_is_exported() -> None:
    """Every metric that a rule names is there when everything has happened once."""
    named = set(re.findall(r"\bpoold_[a-z_]+", RULES.read_text()))
    exported = set(
        re.findall(r"^(poold_[a-z_]+)[{ ]", full_metrics().render().decode(), re.MULTILINE)
    )
    assert named
    assert named - exported == {"poold_replica_start_phase_seconds"}  # in a description
