"""Waiting for a change's end and saying how it ended, in words, JSON and exit code."""

from __future__ import annotations

import sys

from poold.cli import tables
from poold.cli.failures import DONE, FAILED, INTERRUPTED, printable, show
from poold.cli.output import print_json
from poold.cli.progress import Follower, goes_on
from poold.cli.replica_table import print_replicas
from poold.client import Client
from poold.errors import problem_from_json
from poold.model.fleet import Change


def finish(client: Client, change: Change, *, timeout_seconds: float, as_json: bool) -> int:
    """Wait for a change's end and show it; return the exit code."""
    try:
        ended = Follower(client).follow(change, timeout_seconds)
    except KeyboardInterrupt:
        print(f"\n{goes_on(change)}", file=sys.stderr)
        return INTERRUPTED
    if as_json:
        print_json(ended)
    if ended.state == "failed":
        show(problem_from_json(ended.problem or {}), as_json=as_json)
        return FAILED
    if not as_json:
        _print_settled(client, ended)
    return DONE


def _print_settled(client: Client, change: Change) -> None:
    took_seconds = (change.settled_at or change.created_at) - change.created_at
    outcome = printable(change.progress) or "done"
    print(f"change {change.id} settled after {tables.duration(took_seconds)}: {outcome}")
    if change.phases:
        print(f"  {tables.phases(change.phases)}")
    if change.kind in {"scale", "restore", "move", "roll", "rollback"}:
        print_replicas(client.replicas(change.pool))
