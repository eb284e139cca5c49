"""The daemon's own machine: its disk fills or breaks, its clock jumps, a second one is started.

One fleet for all of it; whatever happens to the daemon, the replicas run on.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from strace import FailingFile

from poold.errors import Problem

pytestmark = [pytest.mark.lab, pytest.mark.slow]

_NEEDS_STRACE = pytest.mark.skipif(
    shutil.which("strace") is None and "CI" not in os.environ, reason="strace is not installed"
)
_FOLDER = "/var/lib/poold-machine"


@pytest.fixture(scope="module")
def one(faults_lab, make_for_all):
    """Make the fleet."""
    make = make_for_all
    tables = [make.host(name, agent_dir=_FOLDER) for name in ("a", "b")]
    tables.append(make.pool("app", command=make.application(ballast_mib=8), keep_generations=1))
    fleet = make.fleet("machine", tables, agent_dir=_FOLDER)
    fleet.scaled("app", 1)
    fleet.rest()
    return fleet


@pytest.fixture
def fleet(one, lend):
    """Lend the fleet at rest."""
    with lend(one):
        yield one


def _files(fleet):
    state = fleet.folder / "state"
    return [state / "poold.sqlite3", state / "poold.sqlite3-wal"]


def _ids(fleet):
    return {one.name: one.container_id for one in fleet.client.replicas("app")}


@pytest.mark.fault(
    "the daemon's store cannot be written",
    how="strace lets each write to SQLite's files fail, with ENOSPC or EIO",
    ends="wishes are refused with the reason, replicas run on; all goes on when writes succeed",
)
@_NEEDS_STRACE
@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_the_store_fails(fleet, error, tmp_path):
    """Nothing is accepted that would be lost, and nobody is hurt."""
    fleet.scaled("app", 2)
    before = _ids(fleet)
    fleet.injected()
    with FailingFile(fleet.pid(), _files(fleet), error, log=tmp_path / "strace") as failing:
        with pytest.raises(Problem, match="cannot") as refused:
            fleet.client.scale("app", replicas=3)
        assert refused.value.code == {"ENOSPC": "store.disk-full", "EIO": "store.failed"}[error]
        assert failing.failures
    assert _ids(fleet) == before
    fleet.scaled("app", 3)
    fleet.converged()


@pytest.mark.fault(
    "the daemon's store cannot be written under way",
    how="strace lets each write to SQLite's files fail while replicas are restored",
    ends="nothing is done twice; all that was accepted is done when writes succeed",
)
@_NEEDS_STRACE
@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_the_store_fails_under_way(fleet, error, tmp_path):
    """What was under way is done, once, after the writes succeed again."""
    change = fleet.client.scale("app", replicas=3)
    fleet.during(change, "restoring")
    fleet.injected()
    with FailingFile(fleet.pid(), _files(fleet), error, log=tmp_path / "strace") as failing:
        fleet.until("a write failed", lambda: failing.failures > 2 or fleet.pid() is None)
    fleet.ensure()  # as systemd does, should it have ended
    fleet.settled(change)
    fleet.ready("app", 3)
    fleet.converged()


@pytest.fixture
def small_state(fleet):
    """Put the daemon's state on a small file system; return its folder."""
    state, kept = fleet.folder / "state", fleet.folder / "state.kept"
    fleet.stop()
    shutil.copytree(state, kept)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160m,mode=0700", "tmpfs", state], check=True
    )
    try:
        shutil.copytree(kept, state, dirs_exist_ok=True)
        fleet.start()
        yield state
        fleet.stop()
        shutil.rmtree(kept)
        shutil.copytree(state, kept)
    finally:
        subprocess.run(["umount", state], check=True)
    shutil.copytree(kept, state, dirs_exist_ok=True)
    shutil.rmtree(kept)
    fleet.start()


@pytest.mark.fault(
    "the daemon's disk is full",
    how="its state lies on a small file system, filled to the last byte",
    ends="wishes are refused with the reason, replicas run on; all goes on with some room",
)
def test_the_disk_is_full(fleet, small_state):
    """No wish is accepted that would be lost; a restart with a full disk harms nobody."""
    fleet.scaled("app", 2)
    before = _ids(fleet)
    fleet.injected()
    filler = small_state / "filler"
    filler.touch(mode=0o600)
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    codes = set()
    for _ in range(50):  # what is left of the last page of the log may take a wish or two
        try:
            fleet.client.restore("app")
        except Problem as problem:
            codes.add(problem.code)
            break
    assert codes == {"store.disk-full"}
    fleet.stop()
    fleet.start()
    fleet.until("its replicas are known", lambda: before.items() <= _ids(fleet).items())
    filler.unlink()
    assert before.items() <= _ids(fleet).items()
    fleet.scaled("app", 2)
    fleet.converged()


@pytest.mark.fault(
    "a second daemon on the same state",
    how="started twice: by the same configuration, and by one with another socket",
    ends="it refuses and says who holds the state; the first one notices nothing",
)
def test_a_second_daemon(fleet):
    """There is one writer; the second leaves even the first one's socket alone."""
    fleet.scaled("app", 2)
    before, pid = _ids(fleet), fleet.pid()
    other = fleet.folder / "other.toml"
    other.write_text(fleet.config.read_text().replace("poold.sock", "other.sock"))
    fleet.injected()
    for config in (fleet.config, other):
        argv = [sys.executable, "-m", "poold", "serve", "--config", str(config)]
        ended = subprocess.run(
            fleet.lab.run_argv(argv), check=False, capture_output=True, text=True, timeout=60
        )
        assert ended.returncode != 0
        assert f"process {pid} holds it" in ended.stderr, ended
        assert "Traceback" not in ended.stderr
    assert fleet.pid() == pid
    fleet.converged()
    assert _ids(fleet) == before


@pytest.fixture
def clock(fleet):
    """Let the daemon have a clock that can be set; return what sets it."""
    libraries = list(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not libraries and "CI" not in os.environ:
        pytest.skip("libfaketime is not installed")
    file = fleet.folder / "clock"

    def jump(seconds):
        fresh = file.with_suffix(".new")
        fresh.write_text(f"{seconds:+d}\n")
        fresh.rename(file)

    jump(0)
    fleet.stop()
    fleet.prefix = (
        *("env", f"LD_PRELOAD={libraries[0]}", f"FAKETIME_TIMESTAMP_FILE={file}"),
        *("FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1"),
    )
    fleet.start()
    yield jump
    fleet.stop()
    fleet.prefix = ()
    fleet.start()


def _kill(fleet, name):
    """Let a replica die, and wait until that is known."""
    (one,) = (one for one in fleet.client.replicas("app") if one.name == name)
    fleet.about(one, "kill -9 $pid")

    def is_known():
        (now,) = (now for now in fleet.client.replicas("app") if now.name == name)
        return now.state != "ready" or now.container_id != one.container_id

    fleet.until("its death is known", is_known)


@pytest.mark.fault(
    "the clock jumps an hour",
    how="libfaketime under the daemon, while restoring and while a replica waits after its deaths",
    ends="nobody waits an hour for anything, nothing is done twice",
)
@pytest.mark.parametrize("seconds", [3600, -3600], ids=["forwards", "backwards"])
def test_the_clock_jumps(fleet, clock, seconds):
    """What waits goes on to wait as long as it was to, and no longer; no checkpoint is left out."""
    change = fleet.client.scale("app", replicas=2)
    fleet.during(change, "restoring")
    fleet.injected()
    clock(seconds)
    ended = fleet.settled(change)
    assert abs(ended.settled_at - time.time()) < 60, "what is written down does not jump either"
    for _ in range(4):
        fleet.ready("app", 2)
        _kill(fleet, "app1")
    fleet.until("it waits", lambda: "waiting" in {r.state for r in fleet.client.replicas("app")})
    clock(0)
    fleet.ready("app", 2)
    number = fleet.client.generations("app")[0].number
    clock(-3600)  # behind what was proven before
    fleet.stop()
    fleet.start()
    fleet.settled(fleet.client.checkpoint("app"))
    assert fleet.client.generations("app")[0].number > number
    fleet.converged()
