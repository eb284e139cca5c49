"""What a pool's balancer is known to show, as a plan may know it. Values only; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from poold.balancers.base import Shown
from poold.model.balancing import BalancerName, BalancerStatus, ListedServer

Place = tuple[str, int]  # an address and a port
LETTING_GO_SECONDS: Final = 10.0  # after its own drain deadline a balancer takes a moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What is known of a pool in its balancer.

    `asked` is every place that it may have been told of since `shown` was read, and in that call.
    `silent_since`: since when it could not be read, in the snapshot's seconds; `leaving_since`:
    since when places are to be left.
    """

    asked: frozenset[Place] = frozenset()
    shown: Shown | None = None
    read_at: float | None = None
    silent_since: float | None = None
    leaving_since: Mapping[Place, float] = field(default_factory=dict)
    patience_seconds: float = 30.0
    problem: str = ""

    def keeps(self, place: Place, now: float) -> str:
        """Return why a replica there cannot be stopped yet, or nothing."""
        if (gives_up_at := self._gives_up_at(place)) is not None and now >= gives_up_at:
            return ""
        return self.listed(place)

    def listed(self, place: Place) -> str:
        """Return how a place is still in the balancer, or may be, or nothing."""
        if self.shown is None:
            return f"waiting for its balancer: {self.problem or 'not asked yet'}"
        entry = next((s for s in self.shown.servers if (s.address, s.port) == place), None)
        if entry is not None:
            count = "?" if entry.sessions is None else entry.sessions
            queue = f", {entry.queue} queued" if entry.queue else ""
            return f"draining, {count} {'session' if count == 1 else 'sessions'}{queue}"
        return "leaving its balancer" if place in self.asked or self.shown.settling else ""

    def status(self, balancer: BalancerName) -> BalancerStatus:
        """Return it as readers see it."""
        return BalancerStatus(
            balancer,
            tuple(
                ListedServer(s.name, s.address, s.port, s.state, s.leaving, s.sessions, s.queue)
                for s in (self.shown.servers if self.shown else ())
            ),
            self.shown.queue if self.shown else None,
            self.read_at,
            self.problem,
        )

    def gives_up_at(self, waiting: Iterable[Place]) -> float | None:
        """Return when the first of those that wait is not kept for its balancer any longer."""
        return min((at for place in waiting if (at := self._gives_up_at(place))), default=None)

    def _gives_up_at(self, place: Place) -> float | None:
        ends = []
        if self.silent_since is not None:
            ends.append(self.silent_since + self.patience_seconds)
        if (since := self.leaving_since.get(place)) is not None:
            ends.append(since + self.patience_seconds + LETTING_GO_SECONDS)
        return min(ends, default=None)
