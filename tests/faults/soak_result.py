"""What a kill loop found: violations, how long rest took, how much grew, and whether too much.

Flows in: samples of the daemon at rest. Flows out: the report that is kept, and sentences about
what grew without bounds.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

# The most that may come on top, and for each kill. Kept by changes, events and calls: each round
# writes some 2 KiB of them, until they are old enough to go. The rest has no reason to grow.
BOUNDS = {
    "rss_bytes": (8 << 20, 16 << 10),
    "fds": (8, 0),
    "tasks": (8, 0),
    "database_bytes": (256 << 10, 8 << 10),
    "leftovers": (0, 0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What the daemon weighs, at rest."""

    rss_bytes: int
    fds: int
    tasks: int
    database_bytes: int
    leftovers: int


@dataclass(slots=True, kw_only=True)
class Result:
    """What a soak found; `violations` are sentences with the round they were seen in."""

    kills: int = 0  # of daemon, agents and hosts
    others: int = 0  # rounds in which something else went wrong
    seed: int = 0
    violations: list[str] = field(default_factory=list)
    convergences: list[float] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)

    def report(self) -> dict[str, Any]:
        """Return what is left in build/soak.json."""
        return {
            "kills": self.kills,
            "violations": len(self.violations),
            "longest_convergence_seconds": round(max(self.convergences, default=0.0), 2),
            "growth": {
                name: self._growth(name)
                for name in ("rss_bytes", "fds", "tasks", "database_bytes", "leftovers")
            },
        }

    def excesses(self) -> list[str]:
        """Say what grew more than so many kills explain."""
        growth = self.report()["growth"]
        most = {name: base + per_kill * self.kills for name, (base, per_kill) in BOUNDS.items()}
        return [
            f"{name} grew by {growth[name]}, and may by {bound} in {self.kills} kills"
            for name, bound in most.items()
            if growth[name] > bound
        ]

    def _growth(self, name: str) -> int:
        """Compare the median of the last fifth of the rounds with the one of the first fifth."""
        values = [getattr(sample, name) for sample in self.samples]
        if not values:
            return 0
        fifth = max(1, len(values) // 5)
        first, last = values[:fifth], values[-fifth:]
        return int(statistics.median(last) - statistics.median(first))
