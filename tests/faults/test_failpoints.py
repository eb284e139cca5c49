"""kill -9 at every durable step: daemon and agents die there, start again, and come to rest.

The daemon is a process of its own over two hosts whose containers are files (`folder_engine`), so
all of it but the containers dies at the step.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fault_table import CLOCK
from folder_engine import FolderEngine
from forked_daemon import Daemons
from promises import broken
from view import Container, HostSeen, View, read_books

from poold.agent.failpoints import parse
from poold.agent.journal import read_boot_id
from poold.client import Client, Where
from poold.errors import Problem

pytestmark = pytest.mark.slow

PERIOD_SECONDS = 5.0
PERIODS = 2
PATIENCE_SECONDS = 60.0  # of the test, for a daemon that does not die
PORTS = {"a": range(21100, 21150), "b": range(21150, 21200)}
DAEMONS = Daemons()

# Failpoints by the wish during which they are reached for the first time.
SCALE_OUT = (
    "wish.before_commit/scale", "wish.accepted/scale", "books.before_commit/FirstWish",
    "books.written", "intent.before/build", "intent.written/build", "action.begun/build",
    "container.created", "build.frozen", "build.sealed", "build.proven",
    "generation.before_rename", "generation.renamed", "action.before_recorded/build",
    "action.recorded/build", "outcome.received/build", "fold.before_commit/build",
    "outcome.folded/build", "blob.before_rename", "blob.renamed", "intent.written/import-image",
    "action.recorded/import-image", "intent.written/stage", "generation.unpacked",
    "generation.before_mark", "action.recorded/stage", "outcome.folded/stage",
    "assignment.written", "intent.before/restore", "intent.written/restore",
    "action.begun/restore", "container.created/hello2", "replica.before_record/hello2",
    "replica.recorded/hello2", "action.before_recorded/restore", "action.recorded/restore",
    "outcome.received/restore", "fold.before_commit/restore", "outcome.folded/restore",
    "change.before_end/scale", "change.ended/scale",
)  # fmt: skip
MOVE = (
    "wish.before_commit/move", "wish.accepted/move", "move.before_step/capture",
    "move.step/capture", "action.begun/capture", "capture.marked", "capture.frozen",
    "capture.admitted", "action.recorded/capture", "move.before_step/send", "move.step/send",
    "move.before_step/restore", "move.step/restore", "container.created/hello1",
    "replica.before_record/hello1", "replica.recorded/hello1",
    "move.before_step/forget", "move.before_flip", "move.step/forget", "container.removed/hello1",
    "move.before_step/Ended", "move.before_end", "move.step/Ended", "intent.written/discard",
    "generation.unmarked", "action.recorded/discard", "fold.before_commit/discard",
)  # fmt: skip
REMOVAL = (
    "wish.before_commit/remove", "wish.accepted/remove", "intent.before/remove",
    "intent.written/remove", "container.removed/hello2", "action.recorded/remove",
    "outcome.received/remove", "outcome.folded/remove", "books.before_commit/Forget",
    "change.before_end/remove",
)  # fmt: skip
RENEWAL = ("wish.accepted/checkpoint", "change.ended/checkpoint")
ROLL = (
    "wish.before_commit/roll", "wish.accepted/roll", "roll.before_commit/aimed",
    "roll.written/aimed", "roll.before_commit/surged", "roll.written/surged",
    "container.created/hello4", "roll.before_commit/replacing", "roll.written/replacing",
    "container.removed/hello1", "container.created/hello1", "roll.before_commit/replaced",
    "roll.written/replaced", "roll.before_commit/relieved", "roll.written/relieved",
    "container.removed/hello4", "roll.before_commit/finished", "roll.written/finished",
)  # fmt: skip
# What the daemon does by itself where spares are wished, and what a wish does where there are some.
SPARE = (
    "intent.before/prepare-spare", "intent.written/prepare-spare", "action.begun/prepare-spare",
    "spare.ready", "spare.frozen", "action.before_recorded/prepare-spare",
    "action.recorded/prepare-spare", "outcome.received/prepare-spare",
    "outcome.folded/prepare-spare",
)  # fmt: skip
CLAIM = (
    "intent.written/restore", "action.begun/restore", "spare.claiming", "spare.renamed",
    "spare.thawed", "replica.before_record/hello4", "replica.recorded/hello4", "spare.forgotten",
    "action.before_recorded/restore", "action.recorded/restore", "outcome.received/restore",
    "fold.before_commit/restore", "outcome.folded/restore",
)  # fmt: skip
# Steps that only follow another failure: the move whose capture failed is thawed by its agent.
NOT_ON_THE_WAY = {"resume.thawed"}
# Steps of the engine that calls the runtime itself need a real one: they are swept on a lab host.
ON_A_LAB_HOST = Path(__file__).parents[1] / "integration" / "test_oci_crashes.py"

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
        self.client = Client(Where(socket=f"{folder}/poold.sock"), patience_seconds=0.0)
        self.log = folder / "log"
        reached = 'key_file = "/dev/null"\nknown_hosts_file = "/dev/null"'
        text = CONFIG.format(folder=folder, period=PERIOD_SECONDS, reached=reached, spares=spares)
        self.spares = spares
        (folder / "poold.toml").write_text(text)
        image = hashlib.sha256(b"hello:1").hexdigest()
        (folder / "a" / "images").mkdir(parents=True, exist_ok=True)
        (folder / "a" / "images" / image).touch()
        self.accepted = []
        self.process = None

    def start(self, failpoints: str = "") -> None:
        """Start the daemon; it may die before it answers."""
        self.process = DAEMONS.start(self.folder / "poold.toml", self.log, failpoints)
        self.until(lambda: self.is_dead() or self.answers(), PATIENCE_SECONDS)

    def stop(self) -> None:
        """End the daemon in order."""
        if self.process is not None and not self.is_dead():
            self.process.terminate()
            assert self.process.wait(PATIENCE_SECONDS) == 0, self.log.read_text()

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
        return View(
            fleet="test",
            now=time.time(),
            hosts=tuple(seen(name, self.folder / name) for name in ("a", "b")),
            replicas=self.client.replicas(),
            spares=self.client.spares(),
            generations=self.client.generations("hello"),
            books=read_books(self.folder / "state"),
            accepted=tuple(self.accepted),
            publish_ports=range(21100, 21200),
            told=(self.log.read_text(),),
            deadline_seconds=PERIODS * PERIOD_SECONDS,
        )

    def broken(self) -> list[str]:
        """Return what keeps the fleet from rest."""
        CLOCK.looked()
        return broken(self.view()) if self.is_quiet() else ["it is busy"]


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
                fleet=box["labels"]["io.poold.fleet"], frozen=box.get("paused", False),
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


@pytest.fixture(scope="module", autouse=True)
def _daemons_can_start():
    """Keep what all daemons are forked from as long as there are cases."""
    with DAEMONS:
        yield


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Make a fleet at rest with three replicas, once; cases begin with a copy."""
    made = Fleet(tmp_path_factory.mktemp("template"))
    made.start()
    made.tell(scale_out)
    assert made.broken() == []
    made.stop()
    return made


@pytest.fixture
def make_fleet(tmp_path):
    """Make a fleet, new or like another one; its daemon ends with the test."""
    made = []

    def make(like: Fleet | None, spares: int = 0) -> Fleet:
        made.append(Fleet(tmp_path, like, spares))
        return made[-1]

    yield make
    for each in made:
        if each.process is not None and not each.is_dead():
            each.process.kill()
            each.process.wait()


def _copy(source: str, target: str) -> None:
    """Copy a file; one of a generation keeps its inode, by which it counts as verified."""
    if "/generations/" in source:
        os.link(source, target)
    else:
        shutil.copy2(source, target)


@pytest.fixture(scope="module")
def renewed(template, tmp_path_factory):
    """Make a fleet at rest whose replicas are of the generation before the current one."""
    made = Fleet(tmp_path_factory.mktemp("renewed"), like=template)
    made.start()
    made.tell(renewal)
    assert made.broken() == []
    made.stop()
    return made


@pytest.fixture(scope="module")
def spared(template, tmp_path_factory):
    """Make a fleet at rest with a spare on each host."""
    made = Fleet(tmp_path_factory.mktemp("spared"), like=template, spares=1)
    made.start()
    assert made.until(made.is_quiet, PATIENCE_SECONDS), made.log.read_text()[-3000:]
    assert made.broken() == []
    made.stop()
    return made


def scale_out(client):
    """Wish for the first three replicas: one is built for, sent for and restored."""
    return client.scale("hello", replicas=3)


def move(client):
    """Wish for hello1 to go to the other host."""
    (there,) = (one.host for one in client.replicas() if one.name == "hello1")
    return client.move("hello1", to="b" if there == "a" else "a")


def removal(client):
    """Wish for hello2 to go."""
    return client.remove("hello2")


def renewal(client):
    """Wish for a new generation."""
    return client.checkpoint("hello")


def roll(client):
    """Wish for all replicas to be of the current generation."""
    return client.roll("hello")


STORIES = {
    **dict.fromkeys(SCALE_OUT, scale_out),
    **dict.fromkeys(MOVE, move),
    **dict.fromkeys(REMOVAL, removal),
    **dict.fromkeys(RENEWAL, renewal),
    **dict.fromkeys(ROLL, roll),
}


@pytest.mark.fault(
    "the daemon and its agents die at a failpoint",
    how="kill -9 by themselves, at each of their durable steps",
    ends="at rest within two periods; half-made things are finished or removed",
)
@pytest.mark.parametrize("name", STORIES)
def test_dying_there(name, make_fleet, template, renewed):
    """Two periods after its next start the fleet is at rest, and every promise is kept."""
    wish = STORIES[name]
    fleet = make_fleet({scale_out: None, roll: renewed}.get(wish, template))
    fleet.start(f"{name}=kill")
    if not fleet.is_dead():
        fleet.tell(wish)
    assert fleet.until(fleet.is_dead, PATIENCE_SECONDS), f"{name} was not reached"
    assert fleet.process.returncode == -9, fleet.log.read_text()[-3000:]
    CLOCK.injected()
    fleet.start()
    fleet.until(lambda: not fleet.broken(), PERIODS * PERIOD_SECONDS)
    at = time.monotonic()
    assert fleet.broken() == [], fleet.log.read_text()[-3000:]
    CLOCK.converged(at)
    running = {one.name: one.container_id for one in fleet.client.replicas()}
    fleet.tell(lambda client: client.scale("hello", replicas=3))
    assert fleet.broken() == []
    after = {one.name: one.container_id for one in fleet.client.replicas()}
    assert len(after) == 3
    if wish is roll:  # one that was not accepted is wished for again
        fleet.tell(roll)
        assert fleet.broken() == []
        assert {one.generation for one in fleet.client.replicas()} == {2}
    assert running.items() <= after.items()


@pytest.mark.fault(
    "the daemon and its agents die while a spare is prepared or claimed",
    how="kill -9 by themselves, at each of their durable steps",
    ends="each name once, a spare on each host, nothing left over",
)
@pytest.mark.parametrize("name", [*SPARE, *(f"{name} (claim)" for name in CLAIM)])
def test_dying_with_spares(name, make_fleet, template, spared):
    """The wish is kept by one container, whichever way it came, and spares are there again."""
    step, _, claims = name.partition(" ")
    fleet = make_fleet(spared if claims else template, spares=1)
    fleet.start(f"{step}=kill")
    if claims and not fleet.is_dead():
        fleet.tell(lambda client: client.scale("hello", replicas=4))
    assert fleet.until(fleet.is_dead, PATIENCE_SECONDS), f"{step} was not reached"
    assert fleet.process.returncode == -9, fleet.log.read_text()[-3000:]
    CLOCK.injected()
    fleet.start()
    fleet.until(lambda: not fleet.broken(), PERIODS * PERIOD_SECONDS)
    at = time.monotonic()
    assert fleet.broken() == [], fleet.log.read_text()[-3000:]
    CLOCK.converged(at)
    assert len(fleet.client.replicas()) == (4 if claims else 3)
    assert sorted(spare.host for spare in fleet.client.spares()) == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "wished"), [("wish.before_commit/scale", 0), ("wish.accepted/scale", 3)]
)
def test_what_is_accepted_is_durable_then_and_not_before(name, wished, make_fleet):
    """A daemon that dies at the acceptance left the wish whole; before the commit, nothing."""
    fleet = make_fleet(None)
    fleet.start(f"{name}=kill")
    fleet.tell(scale_out)
    assert fleet.until(fleet.is_dead, PATIENCE_SECONDS), f"{name} was not reached"
    books = read_books(fleet.folder / "state")
    assert (len(books.wishes), len(books.pending)) == (wished, 1 if wished else 0)


def test_no_failpoint_is_left_out():
    """Every failpoint in the code has a case above, or a reason why it has none."""
    code = Path(__file__).parents[2] / "poold"
    found = {
        name
        for path in code.rglob("*.py")
        for name in re.findall(r'failpoint\(\s*"([^"]+)"', path.read_text())
    }
    tried = {name.partition("/")[0] for name in (*STORIES, *SPARE, *CLAIM)}
    on_lab = set(re.findall(r'"((?:oci|stage)\.[a-z_-]+)"', ON_A_LAB_HOST.read_text()))
    assert on_lab <= found
    assert found - tried - on_lab - NOT_ON_THE_WAY == set()
    assert tried - found == set()


def test_only_what_is_meant_is_armed():
    """The variable says what happens where; what cannot be meant keeps the program from running."""
    assert parse("") == {}
    assert parse("a=kill, b/restore=error,c=hang:0.5") == {
        "a": "kill", "b/restore": "error", "c": "hang:0.5",
    }  # fmt: skip
    for wrong in ("a", "a=die", "a=hang", "a=hang:soon"):
        with pytest.raises(ValueError):
            parse(wrong)


def test_a_failpoint_fails_once():
    """An error is raised where it was asked for, with its code, and only the first time."""
    script = (
        "from poold.agent.failpoints import failpoint\n"
        "from poold.errors import Temporary\n"
        "failpoint('a', 'start')\n"
        "try:\n    failpoint('a', 'restore')\n"
        "except Temporary as problem:\n    print(problem.code)\n"
        "failpoint('a', 'restore')\n"
    )
    environment = {**os.environ, "POOLD_FAILPOINTS": "a/restore=error"}
    said = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, env=environment
    )
    assert said.stdout == "failpoint.error\n"


def test_a_view_of_a_folder_can_be_broken(tmp_path):
    """What lies in a host's folder and is nobody's is told."""
    agent = tmp_path / "agent"
    (agent / "work" / "x").mkdir(parents=True)
    view = View(fleet="test", hosts=(seen("a", tmp_path),))
    assert any("scratch" in what for what in broken(view))
    assert broken(replace(view, hosts=())) == []
