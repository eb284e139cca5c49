"""A clock for deciding how long to wait: seconds since the epoch that never jump.

Flows in: the wall clock, which somebody may set, and one that nobody can. Flows out: the first as
it was at the beginning, going on with the second. What the wall clock was set by is caught up with
slowly, so that a wait of a second takes between two thirds of one and two, and never an hour.
"""

from __future__ import annotations

import time
from collections.abc import Callable

CATCH_UP = 0.5  # seconds gained or lost per second: an hour is caught up with in two


class SteadyClock:
    """Call it for the time; it never goes backwards."""

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall, self._steady = wall, steady
        self._now, self._asked_at = wall(), steady()

    def not_before(self, at: float) -> None:
        """Go on from a time that was read from an earlier life, where the clock is behind it."""
        self._now = max(self._now, at)

    def __call__(self) -> float:
        """Return seconds since the epoch."""
        asked_at = self._steady()
        passed = asked_at - self._asked_at
        most = passed * CATCH_UP
        behind = self._wall() - (self._now + passed)
        self._now += passed + max(-most, min(most, behind))
        self._asked_at = asked_at
        return self._now
