"""Rolls of a fleet in memory: for tests of clients, like the fleet itself."""

from __future__ import annotations

from dataclasses import dataclass

from poold.api.memory import MemoryFleet
from poold.errors import Refused
from poold.model.fleet import Change, ChangeKind


@dataclass
class MemoryRollout:
    """Accepts rolls to generations that the fleet has."""

    fleet: MemoryFleet

    def roll(
        self,
        pool: str,
        *,
        to: int | None = None,
        surge: int | None = None,
        unavailable: int | None = None,
        actor: str,
        reason: str = "",
    ) -> Change:
        """Wish for a generation."""
        wish = {"to": to, "surge": surge, "unavailable": unavailable}
        return self._wish("roll", pool, wish, actor, reason)

    def rollback(
        self,
        pool: str,
        *,
        to: int | None = None,
        surge: int | None = None,
        unavailable: int | None = None,
        actor: str,
        reason: str = "",
    ) -> Change:
        """Wish for an older generation."""
        if to is None:
            to = next((g.number for g in self.fleet.generations(pool)[1:]), None)
        wish = {"to": to, "surge": surge, "unavailable": unavailable}
        return self._wish("rollback", pool, wish, actor, reason)

    def _wish(
        self, kind: ChangeKind, pool: str, wish: dict[str, int | None], actor: str, reason: str
    ) -> Change:
        to = wish["to"]
        if to is not None and to not in {g.number for g in self.fleet.generations(pool)}:
            raise Refused("generation.unknown", f"cannot find generation {to} of {pool}")
        if wish["surge"] == wish["unavailable"] == 0:
            raise Refused("roll.no-limits", f"cannot roll {pool}: no replica could be replaced")
        return self.fleet.wished(kind, pool, {**wish}, actor, reason)
