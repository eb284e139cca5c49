"""A daemon over two hosts of files that dies at a failpoint, and a look at what it left.

Flows in: what to arm and what to wish. Flows out: views, from before a death, of what the dead left
and of the next life, so that every promise has something to be held against.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from fault_table import CLOCK
from folder_engine import FolderEngine
from forked_daemon import Daemon, Daemons
from promises import broken
from view import Books, Container, HostSeen, Kept, View, kept_since, read_books, wished_since

from poold import exchange
from poold.agent.journal import read_boot_id
from poold.client import Client, Where
from poold.errors import Problem
from poold.model.fleet import Change, Replica

PERIOD_SECONDS = 5.0
PERIODS = 2
PATIENCE_SECONDS = 60.0  # of the test, for a daemon that does not die
DAEMONS = Daemons()
SECRET = "hush-7f3a9e"  # in the pool's env: what may be told nowhere
STRANGER = "hello9"  # a name that the pool may want, of a container that somebody else made

CONFIG = """
[daemon]
fleet = "test"
state_dir = "{folder}/state"
socket = "{folder}/poold.sock"
reconcile_seconds = {period}

[hosts.a]
address = "127.0.0.2"
{reached}
agent_dir = "{folder}/a/agent"
publish_ports = "21100-21149"

[hosts.b]
address = "127.0.0.3"
{reached}
agent_dir = "{folder}/b/agent"
publish_ports = "21150-21199"

[pools.hello]
image = "hello:1"
port = 8080
hosts = ["a", "b"]
keep_generations = 1
spares = {spares}
env = {{ SECRET = "{secret}" }}

[pools.hello.readiness]
kind = "exec"
command = ["true"]
interval_ms = 10
"""


class Fleet:
    """A daemon over two folders, killed by its failpoints, and a look at what is there."""

    def __init__(self, folder: Path, like: Fleet | None = None, spares: int = 0) -> None:
        """Begin with nothing or with what another one left; `spares` wished on each host."""
        for name in ("a", "b", "state") if like is not None else ():
            shutil.copytree(like.folder / name, folder / name, copy_function=_copy)
        self.folder = folder
        self.rest = like.rest if like is not None else None  # as it was seen before all wishes
        self.baseline: Books | None = self.rest.books if self.rest else Books()  # None: lost
        self.away: set[str] = set()  # hosts that are dead
        self.left: View | None = None  # what the daemon that died last left behind
        self.accepted: list[Change] = list(like.accepted) if like is not None else []
        self.foreign = like.foreign if like is not None else strangers(folder)
        self.client = Client(Where(socket=f"{folder}/poold.sock"), patience_seconds=0.0)
        self.log = folder / "log"
        reached = 'key_file = "/dev/null"\nknown_hosts_file = "/dev/null"'
        text = CONFIG.format(
            folder=folder, period=PERIOD_SECONDS, reached=reached, spares=spares, secret=SECRET
        )
        self.spares = spares
        self.config = folder / "poold.toml"
        self.config.write_text(text)
        image = hashlib.sha256(b"hello:1").hexdigest()
        (folder / "a" / "images").mkdir(parents=True, exist_ok=True)
        (folder / "a" / "images" / image).touch()
        self.process: Daemon | None = None

    def start(self, failpoints: str = "") -> None:
        """Start the daemon; it may die before it answers."""
        self.process = DAEMONS.start(self.config, self.log, failpoints)
        self.until(lambda: self.is_dead() or self.answers(), PATIENCE_SECONDS)

    def stop(self) -> None:
        """End the daemon in order."""
        if self.process is not None and not self.is_dead():
            self.process.terminate()
            assert self.process.wait(PATIENCE_SECONDS) == 0, self.log.read_text()

    def end(self) -> None:
        """End the daemon, if it still runs, as kill -9 does."""
        if self.process is not None and not self.is_dead():
            self.process.kill()
            self.process.wait()

    def has_died(self, name: str) -> None:
        """Wait until the daemon died at a failpoint, and remember what it left."""
        assert self.until(self.is_dead, PATIENCE_SECONDS), f"{name} was not reached"
        assert self.process.returncode == -9, self.log.read_text()[-3000:]
        CLOCK.injected()
        self.left = self.look_at_the_dead()

    def is_dead(self) -> bool:
        """Say whether the daemon's process ended."""
        return self.process.poll() is not None

    def answers(self) -> bool:
        """Say whether the API answers."""
        try:
            self.client.health()
        except Problem:
            return False
        return True

    def until(self, ask, seconds: float) -> bool:
        """Wait for something; False when it did not come."""
        deadline = time.monotonic() + seconds
        while not ask():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def tell(self, wish) -> None:
        """Wish, and wait until the change ended or the daemon died."""
        try:
            change = wish(self.client)
            self.accepted.append(change)
            self.until(lambda: self.is_dead() or self.is_quiet(), PATIENCE_SECONDS)
        except Problem:
            if not self.until(self.is_dead, 5):
                raise

    def is_quiet(self) -> bool:
        """Say whether nothing is left to do, by the daemon's books."""
        books = read_books(self.folder / "state")
        busy = books.pending or books.intents or books.moves or books.garbage
        at_rest = not busy and set(books.assignments) == books.wishes
        return at_rest and self.spares * 2 == sum(s.state == "ready" for s in self.client.spares())

    def view(self) -> View:
        """Look at everything."""
        books = read_books(self.folder / "state")
        view = View(
            fleet="test",
            now=time.time(),
            hosts=tuple(
                seen(name, self.folder / name) for name in ("a", "b") if name not in self.away
            ),
            replicas=self.client.replicas(),
            spares=self.client.spares(),
            generations=self.client.generations("hello"),
            books=books,
            accepted=tuple(self.accepted),
            wished=None if self.baseline is None else wished_since(self.baseline, books),
            before=self.left or self.rest,
            foreign=self.foreign,
            secrets=(SECRET,),
            publish_ports=range(21100, 21200),
            told=(self.log.read_text(), self._metrics()),
            deadline_seconds=PERIODS * PERIOD_SECONDS,
        )
        return replace(view, kept=kept_since(view.before, view, self.away))

    def _metrics(self) -> str:
        where = self.client.where
        request = exchange.request(where, "GET", "/metrics")
        return exchange.converse(where, exchange.connect(where, 10), request, 10).decode()

    def look_at_the_dead(self) -> View:
        """Look at what is there while nobody runs; a wish that is written down was accepted."""
        books = read_books(self.folder / "state")
        known = {change.id for change in self.accepted}
        self.accepted += [
            Change(id=number, pool=books.pools[number], kind=kind, wish=wish, actor="",
                   created_at=0.0)
            for number, (kind, _, wish) in books.changes.items()
            if number not in known
        ]  # fmt: skip
        return View(
            fleet="test",
            replicas=tuple(one for name in ("a", "b") for one in self._ready_on(name, books)),
            generations=self.rest.generations if self.rest else (),
            books=books,
        )

    def _ready_on(self, host: str, books: Books) -> Iterator[Replica]:
        """Find the replicas that run and were written down as ready on their host."""
        numbers = {digest: number for (_, number), digest in books.generations.items()}
        found = seen(host, self.folder / host)
        for box in found.containers:
            record = found.records.get(box.name, {})
            if box.running and record.get("container_id") == box.id and not record["frozen"]:
                yield Replica(
                    name=box.name, pool="hello", state="ready", host=host, container_id=box.id,
                    generation=numbers.get(record["digest"]),
                )  # fmt: skip

    def broken(self) -> list[str]:
        """Return what keeps the fleet from rest."""
        CLOCK.looked()
        return broken(self.view()) if self.is_quiet() else ["it is busy"]

    def never_rests(self, seconds: float = PATIENCE_SECONDS) -> list[str]:
        """Wait for rest; return what still keeps the fleet from it."""
        found = ["nobody looked"]

        def rests() -> bool:
            found[:] = self.broken()
            return not found

        self.until(rests, seconds)
        return found


def strangers(folder: Path) -> tuple[Kept, ...]:
    """Put a container of somebody else on each host."""
    return tuple(
        Kept(name=STRANGER, host=name, container_id=FolderEngine(folder / name).plant(STRANGER))
        for name in ("a", "b")
    )


def seen(name: str, folder: Path) -> HostSeen:
    """Look at a host of files."""
    boxes = FolderEngine(folder).boxes()
    agent = folder / "agent"
    files = [str(path.relative_to(agent)) for path in agent.rglob("*")] if agent.exists() else []
    return HostSeen(
        name=name,
        boot_id=read_boot_id(),
        containers=tuple(
            Container(
                name=box["name"], id=box["id"], running=box["running"],
                fleet=box["labels"].get("io.poold.fleet", ""), frozen=box.get("paused", False),
            )
            for box in boxes
        ),
        records={p.stem: json.loads(p.read_text()) for p in agent.glob("replicas/*.json")},
        generations={p.name: generation(p) for p in agent.glob("generations/*")},
        work=tuple(file for file in files if file.startswith("work/")),
        images=tuple(file for file in files if file.startswith("images/")),
        parts=tuple(file for file in files if ".part" in file or "/." in file),
        listening=frozenset(port for box in boxes if box["running"] for port in box["ports"]),
        readable_by_others=tuple(
            str(path) for path in agent.rglob("*") if is_open_to_others(path)
        ),
    )  # fmt: skip


def is_open_to_others(path: Path) -> bool:
    """Say whether others may use a file; one that went away meanwhile is nobody's."""
    try:
        return bool(path.lstat().st_mode & 0o077)
    except FileNotFoundError:
        return False


def generation(folder: Path) -> dict[str, object]:
    """Verify a folder of generations."""
    if not (folder / "manifest.json").exists():
        return {"manifest": False, "staged": (folder / "staged.json").exists()}
    text = (folder / "manifest.json").read_bytes()
    archive = folder / "archive.tar"
    digest = hashlib.sha256(archive.read_bytes()).hexdigest() if archive.exists() else ""
    return {
        "manifest": hashlib.sha256(text).hexdigest() == folder.name,
        "archive": digest == json.loads(text)["archive_sha256"],
        "staged": (folder / "staged.json").exists(),
    }


def _copy(source: str, target: str) -> None:
    """Copy a file; one of a generation keeps its inode, by which it counts as verified."""
    if "/generations/" in source:
        os.link(source, target)
    else:
        shutil.copy2(source, target)
