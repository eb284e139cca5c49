"""What is said of the hosts of a fleet in memory: for tests of clients, like the fleet itself."""

from __future__ import annotations

from dataclasses import dataclass

from poold.api.memory import MemoryFleet
from poold.errors import Refused
from poold.model.fleet import Change, ChangeKind


@dataclass
class MemoryHosts:
    """Marks hosts of a fleet; `fleet.away` are out of reach, `fleet.left` not configured."""

    fleet: MemoryFleet

    def cordon(self, host: str, *, actor: str, reason: str = "") -> Change:
        """Mark a host."""
        self._known(host)
        self.fleet.marks[host] = "cordoned"
        return self._accept("cordon", host, actor, reason)

    def uncordon(self, host: str, *, actor: str, reason: str = "") -> Change:
        """Unmark a host."""
        self._known(host)
        self.fleet.marks.pop(host, None)
        return self._accept("uncordon", host, actor, reason)

    def pardon(self, host: str, *, pool: str = "", actor: str, reason: str = "") -> Change:
        """Forget what is quarantined on a host."""
        self._known(host)
        self.fleet.quarantine = [
            each
            for each in self.fleet.quarantine
            if each.host != host or pool not in ("", each.pool)
        ]
        return self._accept("pardon", host, actor, reason)

    def fence(self, host: str, *, confirmed: bool, actor: str, reason: str = "") -> Change:
        """Mark a host that is away."""
        self._known(host)
        if host not in self.fleet.away:
            raise Refused("host.up", f"cannot fence {host}: it is in reach")
        self._confirmed("fence", host, confirmed=confirmed)
        self.fleet.marks[host] = "fenced"
        return self._accept("fence", host, actor, reason)

    def remove(self, host: str, *, confirmed: bool, actor: str, reason: str = "") -> Change:
        """Forget a host that is not configured."""
        if host in {known.name for known in self.fleet.hosts()}:
            raise Refused("host.configured", f"cannot remove {host}: it is in the configuration")
        if host not in self.fleet.left:
            raise Refused("host.unknown", f"cannot find the host {host}")
        self._confirmed("remove", host, confirmed=confirmed)
        self.fleet.left.discard(host)
        return self._accept("remove-host", host, actor, reason)

    def _known(self, host: str) -> None:
        if host not in {known.name for known in self.fleet.hosts()}:
            raise Refused("host.unknown", f"cannot find the host {host}", hint="poold hosts")

    def _confirmed(self, verb: str, host: str, *, confirmed: bool) -> None:
        if not confirmed:
            raise Refused("host.unconfirmed", f"cannot {verb} {host}: nobody is sure", hint="--yes")

    def _accept(self, kind: ChangeKind, host: str, actor: str, reason: str) -> Change:
        change = self.fleet.settled(kind, {"host": host}, actor, reason)
        self.fleet.calls.host_revisions[host] = change.id
        self.fleet.tell(change.id, f"{kind}: {host}")
        return self.fleet.change(change.id) or change
