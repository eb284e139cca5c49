"""What a pool's balancer is known to show, as a plan may know it. Values only; pure."""

from __future__ import annotations

from dataclasses import dataclass

from poold.balancers.base import Shown

Place = tuple[str, int]  # an address and a port


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What is known of a pool in its balancer.

    `asked` is every place that it may have been told of since `shown` was read, and in that call.
    `silent_since`: since when it could not be read, in the snapshot's seconds.
    """

    asked: frozenset[Place] = frozenset()
    shown: Shown | None = None
    silent_since: float | None = None
    patience_seconds: float = 30.0
    problem: str = ""

    def keeps(self, place: Place, now: float) -> str:
        """Return why a replica there cannot be stopped yet, or nothing."""
        if self.silent_since is not None and now - self.silent_since >= self.patience_seconds:
            return ""
        if self.shown is None:
            return f"waiting for its balancer: {self.problem or 'not asked yet'}"
        entry = next((s for s in self.shown.servers if (s.address, s.port) == place), None)
        if entry is not None:
            count = "?" if entry.sessions is None else entry.sessions
            queue = f", {entry.queue} queued" if entry.queue else ""
            return f"draining, {count} {'session' if count == 1 else 'sessions'}{queue}"
        return "leaving its balancer" if place in self.asked else ""

    def gives_up_at(self) -> float | None:
        """Return when a balancer that does not answer is not waited for any longer."""
        return None if self.silent_since is None else self.silent_since + self.patience_seconds
