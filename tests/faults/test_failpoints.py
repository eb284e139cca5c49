"""kill -9 at every durable step: daemon and agents die there, start again, and come to rest.

The daemon is a process of its own over two hosts whose containers are files (`folder_engine`), so
all of it but the containers dies at the step.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fault_table import CLOCK
from folder_fleet import DAEMONS, PATIENCE_SECONDS, PERIOD_SECONDS, PERIODS, Fleet, seen
from promises import broken
from view import View, kept_since, read_books

from poold.agent.failpoints import parse

pytestmark = pytest.mark.slow

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


@pytest.fixture(scope="module", autouse=True)
def _daemons_can_start():
    """Keep what all daemons are forked from as long as there are cases."""
    with DAEMONS:
        yield


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Make a fleet at rest with three replicas, once; cases begin with a copy."""
    return at_rest(Fleet(tmp_path_factory.mktemp("template")), scale_out)


@pytest.fixture(scope="module")
def renewed(template, tmp_path_factory):
    """Make a fleet at rest whose replicas are of the generation before the current one."""
    return at_rest(Fleet(tmp_path_factory.mktemp("renewed"), like=template), renewal)


@pytest.fixture(scope="module")
def spared(template, tmp_path_factory):
    """Make a fleet at rest with a spare on each host."""
    return at_rest(Fleet(tmp_path_factory.mktemp("spared"), like=template, spares=1))


def at_rest(fleet, wish=None):
    """Fulfil a wish, if there is one, and stop."""
    try:
        fleet.start()
        if wish is not None:
            fleet.tell(wish)
        assert fleet.until(fleet.is_quiet, PATIENCE_SECONDS), fleet.log.read_text()[-3000:]
        assert fleet.broken() == [], fleet.log.read_text()[-3000:]
        fleet.rest = fleet.view()
        fleet.stop()
    finally:
        fleet.end()
    return fleet


@pytest.fixture
def make_fleet(tmp_path):
    """Make a fleet, new or like another one; its daemon ends with the test."""
    made = []

    def make(like: Fleet | None, spares: int = 0) -> Fleet:
        made.append(Fleet(tmp_path, like, spares))
        return made[-1]

    yield make
    for each in made:
        each.end()


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
    fleet.has_died(name)
    fleet.start()
    fleet.until(lambda: not fleet.broken(), PERIODS * PERIOD_SECONDS)
    at = time.monotonic()
    assert fleet.broken() == [], fleet.log.read_text()[-3000:]
    CLOCK.converged(at)
    if wish not in (scale_out, roll):  # all but the one that was wished something of
        assert len(fleet.view().kept) >= 2
    fleet.tell(lambda client: client.scale("hello", replicas=3))
    assert fleet.broken() == []
    assert len(fleet.client.replicas()) == 3
    if wish is roll:  # one that was not accepted is wished for again
        fleet.tell(roll)
        assert fleet.broken() == []
        assert {one.generation for one in fleet.client.replicas()} == {2}


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
    fleet.has_died(step)
    fleet.start()
    fleet.until(lambda: not fleet.broken(), PERIODS * PERIOD_SECONDS)
    at = time.monotonic()
    assert fleet.broken() == [], fleet.log.read_text()[-3000:]
    CLOCK.converged(at)
    assert len(fleet.view().kept) >= 3
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


def test_what_a_daemon_must_not_touch_is_known(template, make_fleet):
    """Replaced replicas, a stranger that is gone and a wish that is lost are told after a death."""
    fleet = make_fleet(template)
    assert (fleet.rest.kept, fleet.rest.foreign) == ((), fleet.foreign)
    left = fleet.look_at_the_dead()
    assert {one.name for one in left.replicas} == {"hello1", "hello2", "hello3"}
    view = replace(fleet.rest, before=left, kept=kept_since(left, fleet.rest))
    assert len(view.kept) == 3
    assert broken(view) == []
    for path in (fleet.folder / "a" / "containers").iterdir():
        path.write_text(path.read_text().replace('"id": "', '"id": "other-'))
    replaced = replace(view, hosts=tuple(seen(name, fleet.folder / name) for name in ("a", "b")))
    for number in (2, 8, 11):
        assert any(what.startswith(f"promise_{number}_") for what in broken(replaced))
    assert any("promise_5" in what for what in broken(replace(view, wished=frozenset({"hello1"}))))
    assert any(
        "promise_9" in what for what in broken(replace(view, told=(fleet.config.read_text(),)))
    )
