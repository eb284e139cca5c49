"""What a replica's processes have of the host's memory, and how they ask for it to be merged."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from poold.agent import proc
from poold.agent.messages import Observation
from poold.agent.oci import kernel
from poold.agent.process import run
from poold.metrics import Metrics
from poold.model.fleet import HostName, Memory, PoolName, PoolStatus, Replica, ReplicaName
from poold.reconcile.world import World

_ASKED = "import ctypes; print(ctypes.CDLL(None).prctl(68, 0, 0, 0, 0))"  # PR_GET_MEMORY_MERGE


def test_memory_is_told_apart():
    """Private is a part of the proportional share, and that a part of all that is resident."""
    found = proc.memory_of(os.getpid())
    assert found is not None
    assert 0 < found.private <= found.proportional <= found.resident


def test_who_is_gone_has_none():
    """The processes of a container that ended are no error."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert proc.memory_of(ended.pid) is None


async def test_merging_is_asked_for_in_the_new_process_alone():
    """The program and what it starts are merged; the agent and its other programs are not."""
    argv = [sys.executable, "-c", _ASKED]
    asked = await run(argv, deadline_seconds=20, first=kernel.ask_for_merging)
    if asked.stdout.strip() != b"1" and os.environ.get("CI") != "true":  # there it has to be tried
        pytest.skip("this kernel merges no program's pages (it is older than 6.7, or without KSM)")
    other = await run(argv, deadline_seconds=20)
    assert other.stdout.strip() == b"0"


class _Link:
    """A host that is asked nothing."""


def test_the_latest_listing_tells_of_each_replica():
    """By the container that it is now; what no host told is not guessed. The metric adds up."""
    world = World(links={HostName("a"): _Link()})  # type: ignore[dict-item]
    replicas = tuple(
        Replica(
            ReplicaName(f"hello{n}"), PoolName("hello"), "ready", HostName("a"),
            container_id=f"c{n}",
        )
        for n in (1, 2)
    )  # fmt: skip
    world.planned(PoolStatus(PoolName("hello"), 2, 2, None, ""), replicas)
    world.observed(
        HostName("a"), world.begin(), Observation("boot", time.time(), memory={"c1": MEMORY})
    )
    assert [one.memory for one in world.weighed("hello")] == [MEMORY, None]
    metrics = Metrics()
    metrics.observe(pools=world.pools(), replicas=world.weighed())
    text = metrics.render().decode()
    assert 'poold_replica_memory_bytes{kind="private",pool="hello"} 20.0' in text


MEMORY = Memory(resident=100, proportional=60, private=20, merged=70)
