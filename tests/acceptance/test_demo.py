"""The one command that shows what this is, with WildFly, as a stranger types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from poold.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.slow]


def test_the_demo_tells_the_whole_story(tmp_path: Path, traces: Callable[[Lab], list[str]]) -> None:
    """WildFly is restored on two hosts, each replica counts for itself, one moves and counts on."""
    name = f"test-{os.getpid()}-demo"
    output, picture = tmp_path / "demo.json", tmp_path / "demo.svg"
    command = [sys.executable, "-m", "poold", "demo", "--name", name, "--runs", "1", "--down"]
    try:
        done = subprocess.run(
            [*command, "--output", str(output), "--picture", str(picture)],
            check=False,
            capture_output=True,
            text=True,
            timeout=900,
        )
    finally:
        Lab(name).down()  # where the demo was stopped before it could
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(output.read_text())
    assert told["app"] == "wildfly"
    assert [len(told[key]) for key in ("cold_seconds", "article_seconds", "restore_seconds")] == [
        1,
        1,
        1,
    ]
    replicas = told["replicas"]
    assert [one["name"] for one in replicas] == ["hello1", "hello2", "hello3"]
    assert {one["host"] for one in replicas} == {"a", "b"}
    assert [one["counters"] for one in replicas] == [[2, 3]] * 3
    assert told["move"]["after"] == told["move"]["before"] + 1
    assert told["move"]["source"] != told["move"]["target"]
    assert told["move_downtime_seconds"] > 0
    assert told["on_tmpfs"]["counters"] == [2, 3]
    for phases in ("cold_phases", "article_phases", "restore_phases"):
        assert all("ready" in run for run in told[phases]), phases
    assert told["article_checkpoint_seconds"] > 0
    assert "poold restore" in done.stdout
    assert picture.read_text().startswith("<svg")
    assert traces(Lab(name)) == []
