"""`poold bench` as its user types it, on a pool that serves meanwhile."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.lab, pytest.mark.slow]

_FOLDER = "/var/lib/poold-benched"


def _bench(fleet, *words, pool="app"):
    argv = [sys.executable, "-m", "poold", "bench", pool, "--config", str(fleet.config), *words]
    return subprocess.run(
        fleet.lab.run_argv(argv), check=False, capture_output=True, text=True, timeout=240
    )


def test_every_way_is_measured_in_turn(fleet, tmp_path):
    """Every way has its seconds; the replica that serves stays, nothing else does."""
    (serving,) = fleet.scaled("app", 1)
    picture = tmp_path / "bench.svg"
    words = ["--runs", "2", "--burst", "1", "--burst", "2", "--picture", str(picture), "--json"]
    done = _bench(fleet, *words)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [(row["path"], row["burst"]) for row in told["rows"]] == [
        *[(path, 1) for path in ("cold", "article", "podman-tar", "bare", "podman")],
        *[(path, 2) for path in ("article", "podman-tar", "bare", "podman")],
    ]
    for row in told["rows"]:
        assert len(row["seconds"]) == 2
        assert 0 < row["median"] <= row["p95"] <= row["p99"]
        assert "ready" in row["phases"], row
    assert "2/2 of 2 at once" in done.stderr
    assert picture.read_text().startswith("<svg")
    (after,) = fleet.ready("app", 1)
    assert after.container_id == serving.container_id


def test_what_cannot_be_measured_is_said(fleet):
    """A burst that the pool has no room for ends the run with its reason; nothing is left."""
    fleet.scaled("app", 1)
    done = _bench(fleet, "--runs", "1", "--burst", "60", "--only", "poold")
    assert done.returncode != 0
    assert "cannot restore 60 more replicas of app" in done.stderr
    fleet.ready("app", 1)


def test_a_spare_is_measured_beside_the_engine(make):
    """In one run of one pool: what is restored had no spare to claim, and the other way had one."""
    table = make.pool("app", command=make.application(), engine="oci", spares=1, hosts=["a"])
    hosts = make.host("a", agent_dir=_FOLDER)
    fleet = make.fleet("benched", [hosts, table], hosts=["a"], agent_dir=_FOLDER)
    try:
        fleet.scaled("app", 1)
        words = ["--runs", "2", "--burst", "1", "--burst", "2", "--only", "poold", "--json"]
        done = _bench(fleet, *words, "--only", "spare")
        assert done.returncode == 0, done.stderr
        rows = {(row["path"], row["burst"]): row for row in json.loads(done.stdout)["rows"]}
        assert rows.keys() == {("oci", 1), ("spare", 1), ("oci", 2)}
        assert all(len(row["seconds"]) == 2 for row in rows.values())
        assert "thaw" in rows["spare", 1]["phases"]
        assert rows["spare", 1]["median"] < rows["oci", 1]["median"]
        fleet.ready("app", 1)
    finally:
        fleet.config.write_text(fleet.config.read_text().replace("spares = 1", "spares = 0"))
        fleet.tell(signal.SIGHUP)
        fleet.until("no spares are left", lambda: not fleet.client.spares())
        fleet.scaled("app", 0)
