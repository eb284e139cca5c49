"""Processes of before: after a reload the old one goes on with the connections that it has.

In: which process answered, and what it listed. Out: the places that another one listed before, and
may still send requests to. Nobody can ask it but through its master, so it is given a pool's drain
time from when it was noticed, or until its master or the process table says that it is gone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from poold.balancers.base import Server, ShownServer
from poold.balancers.haproxy.answers import Identity

Place = tuple[str, int]
PROCESSES: Final = Path("/proc")


@dataclass(frozen=True, slots=True)
class _Lingering:
    name: str
    pid: int
    until: float


@dataclass
class Former:
    """What of a pool may be left at processes of before."""

    process: Identity | None = None
    _listed: dict[Place, str] = field(default_factory=dict)
    _lingering: dict[Place, _Lingering] = field(default_factory=dict)

    @property
    def lingers(self) -> bool:
        """Whether anything is."""
        return bool(self._lingering)

    def look(self, listed: dict[Place, str]) -> None:
        """Take note of what is listed; whether by the same process is told afterwards."""
        self._listed |= listed

    def answered(self, process: Identity, listed: dict[Place, str], until: float) -> None:
        """Take note of who answered after the last look, at which that was listed."""
        if self.process is not None and process != self.process:
            pid = self.process.pid
            for place, name in self._listed.items():
                self._lingering[place] = _Lingering(name, pid, until)
        self.process, self._listed = process, dict(listed)

    def alive_here(self, process: Identity) -> frozenset[int] | None:
        """Return which of those that linger run on this machine still.

        None where the one that answers is not among its processes: it runs in a container.
        """
        if not _is_haproxy(process.pid):
            return None
        return frozenset(e.pid for e in self._lingering.values() if _is_haproxy(e.pid))

    def gone(self, now: float, alive: Collection[int] | None) -> None:
        """Forget whose time is over, and who is not among those alive where that is known."""
        self._lingering = {
            place: each
            for place, each in self._lingering.items()
            if now < each.until and (alive is None or each.pid in alive)
        }

    def shown(self, wanted: Collection[Server]) -> Iterator[ShownServer]:
        """Return what lingers and is not wanted, as entries that drain."""
        places = {(server.address, server.port) for server in wanted}
        for (address, port), each in self._lingering.items():
            if (address, port) not in places:
                yield ShownServer(
                    name=f"{each.name} of process {each.pid}",
                    address=address,
                    port=port,
                    state="draining",
                    weight=0,
                    leaving=True,
                )


def _is_haproxy(pid: int) -> bool:
    """Whether that is a process called so; a number may be another one's by now."""
    try:
        return (PROCESSES / str(pid) / "comm").read_text("utf-8").startswith("haproxy")
    except OSError:
        return False
