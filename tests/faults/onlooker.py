"""Looks at a fleet on a lab and asks for every promise, at each step of a test and at rest.

Flows in: the lab, the daemon's client, its state folder and log. Flows out: sentences about broken
promises. What a test did itself to containers, archives and hosts it has to be told.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import neighbours
from fault_table import CLOCK
from promises import broken
from view import HostSeen, Kept, View, kept_since, read_books, wished_since

from poold.client import Client
from poold.lab import Lab
from poold.model.fleet import Change

LOOK = Path(__file__).with_name("look.py")
SECRET = "hush-7f3a9e"  # in the pools' env: what may be told nowhere
_DEADLINE_SECONDS = 120.0
_TAMPERED = "is staged and is not what was sealed"


def look_at(lab: Lab, host: str, agent_dir: str, run_dir: str) -> HostSeen:
    """Return what is on a host that runs."""
    argv = ("python3", "-c", LOOK.read_text(), agent_dir, run_dir)
    seen = HostSeen.of_json(host, json.loads(lab.exec(host, *argv)))
    own = tuple(line for line in seen.argv if "hashlib" not in line)  # this very look
    return replace(seen, argv=own)


class Onlooker:
    """What a fleet's tests know of it, and the views made of that."""

    def __init__(
        self,
        lab: Lab,
        fleet: str,
        *,
        client: Client,
        folder: Path,
        log: Path,
        agent_dir: str,
        hosts: Sequence[str],
    ) -> None:
        self.lab = lab
        self.fleet = fleet
        self.client = client
        self.folder = folder
        self.log = log
        self.agent_dir = agent_dir
        self.run_dir = (
            "/run/poold-agent" if agent_dir == "/var/lib/poold-agent" else f"{agent_dir}/run"
        )
        self.hosts = tuple(hosts)
        self.accepted: dict[int, Change] = {}
        self.foreign: list[Kept] = []
        self.tampered = False  # the test broke staged archives: until rest they may be found so
        self._before: View | None = None
        self._at_death: View | None = None

    def daemon_dies(self) -> None:
        """Remember what runs now: nothing may touch it until the fleet is at rest again."""
        self._at_death = self.view(quiet=False, look=False)

    def forget(self) -> None:
        """Believe nothing about what ran before: the test itself ended some of it."""
        self._at_death = None

    def lost(self) -> None:
        """Begin anew: the books are gone, and with them what was accepted."""
        self.accepted.clear()
        self._before = None

    def at_step(self) -> list[str]:
        """Return what breaks a promise in the middle of things."""
        found = self._broken(quiet=False)
        return [what for what in found if not (self.tampered and what.endswith(_TAMPERED))]

    def at_rest(self) -> list[str]:
        """Return what breaks a promise, and what is left of work that should be done."""
        found = self._broken(quiet=True)
        if not found:
            self.tampered = False
            self._at_death = None
        return found

    def is_busy(self) -> bool:
        """Whether there is work to do by the daemon's books: too early for a look at the hosts."""
        books = read_books(self.folder / "state")
        return bool(books.pending or books.intents or books.moves or books.garbage)

    def _broken(self, *, quiet: bool) -> list[str]:
        view = self.view(quiet=quiet, look=True)
        pools = {each.pool for each in view.generations}
        if self._before is not None and {each.pool for each in self._before.generations} <= pools:
            view = replace(view, before=self._before)  # else a pool was taken away on purpose
        view = replace(view, kept=kept_since(self._at_death, view))
        CLOCK.looked()
        found = broken(replace(view, wished=self._wished(view)))
        if not found:
            self._before = view
        return found

    def _wished(self, view: View) -> frozenset[str] | None:
        """Return what changes made of what was wished at the last look; None: it is not known."""
        if self._before is None:
            return None
        before, after = self._before.books, view.books
        same = all(
            number in after.changes and after.changes[number][2] == wish
            for number, (_, _, wish) in before.changes.items()
        )
        return wished_since(before, after) if same else None  # else the state was lost

    def view(self, *, quiet: bool, look: bool) -> View:
        """Look at everything; `look` at the hosts as well."""
        pools = [pool.name for pool in self.client.pools()]
        state = self.folder / "state"
        return View(
            fleet=self.fleet,
            now=time.time(),
            quiet=quiet,
            hosts=self._look() if look else (),
            replicas=self.client.replicas(),
            spares=self.client.spares(),
            generations=tuple(one for pool in pools for one in self.client.generations(pool)),
            books=read_books(state),
            accepted=tuple(self.accepted.values()),
            foreign=(*self.foreign, *(one.kept for one in neighbours.of(self.lab))),
            secrets=(SECRET, "PRIVATE KEY"),
            told=(self.log.read_text(errors="replace"), self._metrics()),
            deadline_seconds=_DEADLINE_SECONDS,
        )

    def _look(self) -> tuple[HostSeen, ...]:
        running = {one.name for one in self.lab.status() if one.running}
        names = [name for name in self.hosts if name in running]
        with ThreadPoolExecutor(max_workers=max(1, len(names))) as threads:
            return tuple(threads.map(self.look_at, names))

    def look_at(self, host: str) -> HostSeen:
        """Return what is on a host that runs."""
        seen = look_at(self.lab, host, self.agent_dir, self.run_dir)
        if neighbours.started_again(self.lab, seen):
            seen = look_at(self.lab, host, self.agent_dir, self.run_dir)
        return seen

    def _metrics(self) -> str:
        socket = str(self.client.where.socket)
        argv = ["curl", "-sf", "--unix-socket", socket, "http://poold/metrics"]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout
