"""Who is told what was measured: a port, so that nothing here knows how metrics are kept."""

from __future__ import annotations

from typing import Literal, Protocol

from poold.model.fleet import ChangeKind, HostName, Phases, PoolName

Outcome = Literal["success", "failure"]
Step = Literal["restore", "previous-generation", "cold"]


class Recorder(Protocol):
    """Told once of each event, when it is known. Seconds; bytes. Never fails."""

    def replica_started(
        self,
        pool: PoolName,
        *,
        method: Literal["cold", "restore", "spare"],
        outcome: Outcome,
        seconds: float,
        phases: Phases,
    ) -> None:
        """Count an ended start."""

    def replica_moved(self, pool: PoolName, *, outcome: Outcome, downtime_seconds: float) -> None:
        """Count an ended move."""

    def checkpoint_built(
        self, pool: PoolName, *, outcome: Outcome, seconds: float, phases: Phases
    ) -> None:
        """Count an ended build."""

    def fell_back(self, pool: PoolName, step: Step) -> None:
        """Count a step down the ladder, named by where it led."""

    def drained(self, pool: PoolName, *, seconds: float, sessions_cut: int) -> None:
        """Count a replica that a balancer let go of."""

    def change_ended(self, pool: PoolName, kind: ChangeKind, outcome: Outcome) -> None:
        """Count a settled or failed change."""

    def action_ended(self, host: HostName, action: str, outcome: Outcome) -> None:
        """Count an action's outcome, by its verb."""

    def transferred(
        self, kind: Literal["generation", "image", "capture"], host: HostName, size_bytes: int
    ) -> None:
        """Count bytes that reached a host."""
