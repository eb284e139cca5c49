"""A host that comes and goes is left alone for a while that grows. Pure; the clock is handed in.

In: the moments at which a host was lost. Out: until when nothing new is placed there, and the
sentence that says so. What runs there stays.
"""

from __future__ import annotations

from dataclasses import dataclass

WINDOW_SECONDS = 60.0
LOSSES = 3  # within the window: flapping
HOLD_BASE_SECONDS, HOLD_CAP_SECONDS = 30.0, 900.0
QUIET_SECONDS = 1800.0  # without a loss, after which nothing is held against a host


@dataclass(frozen=True, slots=True)
class Steadiness:
    """When a host was lost lately, how many losses were too many, and what follows from it."""

    losses: tuple[float, ...] = ()
    excesses: int = 0
    until: float = 0.0

    def lost(self, now: float) -> Steadiness:
        """Note a loss: of the link, or of a boot. Each one too many doubles the wait."""
        if self.losses and now - self.losses[-1] > QUIET_SECONDS:
            return Steadiness((now,))
        recent = (*(at for at in self.losses if now - at < WINDOW_SECONDS), now)
        if len(recent) < LOSSES:
            return Steadiness(recent, self.excesses, self.until)
        hold = min(HOLD_CAP_SECONDS, HOLD_BASE_SECONDS * 2.0 ** min(self.excesses, 20))
        return Steadiness(recent, self.excesses + 1, max(self.until, now + hold))

    def holds(self, now: float) -> bool:
        """Whether nothing new is to be placed on the host yet."""
        return now < self.until

    def sentence(self, host: str) -> str:
        """Say why, for as long as it holds."""
        hold = self.until - self.losses[-1] if self.losses else 0.0
        return (
            f"{host} is flapping: it was lost {len(self.losses)} times within a minute, "
            f"nothing new is placed there for {hold:.0f} s"
        )
