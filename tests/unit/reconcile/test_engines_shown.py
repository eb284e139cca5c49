"""Which engine restored a replica is known from the agent's record to what the operator reads."""

from __future__ import annotations

import json
from dataclasses import asdict

from poold.agent.codec import decode
from poold.agent.messages import Started
from poold.agent.records import Record
from poold.model.fleet import HostName, PoolName, ReplicaName
from poold.reconcile.explain import _how
from poold.reconcile.shown import _replica
from poold.store import Assignment

RECORD = Record(
    name="hello1", fleet="poold", pool="hello", container_id="c1", method="restore",
    address="10.0.0.1:20000", published={}, started_at=1.0, seconds=0.3, engine="podman",
    engine_reason="cannot restore with the engine oci: the container has a terminal",
)  # fmt: skip


def shown(started: Started):
    """Return the replica as the API shows it."""
    assignment = Assignment(
        name=ReplicaName("hello1"), pool=PoolName("hello"), host=HostName("a"), since=1.0,
        generation=7, started=started,
    )  # fmt: skip
    return _replica(PoolName("hello"), assignment, None, "ready", "")


def test_the_engine_and_why_it_was_not_the_other_are_told():
    """The record's words reach the replica's note and the explanation."""
    replica = shown(RECORD.started)
    assert replica.engine == "podman"
    assert replica.reason == (
        "restored by podman: cannot restore with the engine oci: the container has a terminal"
    )
    assert _how(replica) == ", restored from generation 7 by the engine podman"


def test_what_an_earlier_version_recorded_says_nothing_of_engines():
    """A record or an answer without these words is still read."""
    old = {key: value for key, value in asdict(RECORD).items() if not key.startswith("engine")}
    replica = shown(decode(Record, json.loads(json.dumps(old))).started)
    assert (replica.engine, replica.reason) == ("", "")
    assert _how(replica) == ", restored from generation 7"
