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
from typing import get_args

import pytest
from failpoint_stories import (
    CLAIM,
    RARE,
    SPARE,
    STORIES,
    renewal,
    restores_fail,
    roll,
    rollback,
    scale_out,
)
from fault_table import CLOCK
from folder_fleet import DAEMONS, PATIENCE_SECONDS, PERIOD_SECONDS, PERIODS, Fleet, seen
from promises import broken
from view import View, kept_since, read_books

from poold.agent.failpoints import parse
from poold.agent.runner import READING
from poold.agent.verbs import REQUESTS
from poold.model.fleet import ChangeKind
from poold.reconcile.actions import Local, RollTurn
from poold.reconcile.roll_books import AUTO

pytestmark = pytest.mark.slow

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
def held(renewed, tmp_path_factory):
    """Make a fleet at rest that is held at the generation before the current one."""
    return at_rest(Fleet(tmp_path_factory.mktemp("held"), like=renewed), rollback)


@pytest.fixture(scope="module")
def paused(renewed, tmp_path_factory):
    """Make a fleet at rest whose roll is paused, as its generations could not be restored."""
    fleet = Fleet(tmp_path_factory.mktemp("paused"), like=renewed)
    restores_fail(fleet)
    return at_rest(fleet, roll)


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
        assert fleet.never_rests() == [], fleet.log.read_text()[-3000:]
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


@pytest.mark.fault(
    "the daemon and its agents die at a failpoint",
    how="kill -9 by themselves, at each of their durable steps",
    ends="at rest within two periods; half-made things are finished or removed",
)
@pytest.mark.parametrize("name", STORIES)
def test_dying_there(name, make_fleet, template, renewed):
    """Two periods after its next start the fleet is at rest, and every promise is kept."""
    wish = STORIES[name]
    fleet = make_fleet({scale_out: None, roll: renewed, rollback: renewed}.get(wish, template))
    fleet.start(f"{name}=kill")
    if not fleet.is_dead():
        fleet.tell(wish)
    fleet.has_died(name)
    fleet.start()
    found = fleet.never_rests(PERIODS * PERIOD_SECONDS)
    at = time.monotonic()
    assert found == [], fleet.log.read_text()[-3000:]
    CLOCK.converged(at)
    if wish not in (scale_out, roll):  # all but the one that was wished something of
        assert len(fleet.view().kept) >= 2
    fleet.tell(lambda client: client.scale("hello", replicas=3))
    assert fleet.never_rests() == []
    assert len(fleet.client.replicas()) == 3
    if wish is roll:  # one that was not accepted is wished for again
        fleet.tell(roll)
        assert fleet.never_rests() == []
        assert {one.generation for one in fleet.client.replicas()} == {2}


@pytest.mark.fault(
    "the daemon and its agents die at a failpoint",
    how="kill -9 by themselves, at each of their durable steps",
    ends="at rest within two periods; half-made things are finished or removed",
)
@pytest.mark.parametrize("step", RARE)
def test_dying_where_more_than_a_wish_leads(step, make_fleet, request):
    """Hosts marked, fenced or forgotten, what was lost, failed restores: at rest all the same."""
    rare = RARE[step]
    fleet = make_fleet(request.getfixturevalue(rare.like))
    rare.before(fleet)
    for number, each in enumerate((*rare.after, step)):
        if number:
            rare.between(fleet)
        fleet.start(f"{each}=kill")
        if not number and not fleet.is_dead():
            rare.deed(fleet)
        fleet.has_died(each)
    fleet.start()
    if step.startswith("wish.before_commit"):  # it was not accepted
        rare.deed(fleet)
    fleet.until(lambda: rare.holds(fleet), PERIODS * PERIOD_SECONDS)
    found = fleet.never_rests(PERIODS * PERIOD_SECONDS)
    at = time.monotonic()
    assert found == [], fleet.log.read_text()[-3000:]
    CLOCK.converged(at)
    assert rare.holds(fleet)
    assert len(fleet.view().kept) >= rare.kept


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
    found = fleet.never_rests(PERIODS * PERIOD_SECONDS)
    at = time.monotonic()
    assert found == [], fleet.log.read_text()[-3000:]
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
    """Every failpoint in the code has a case above, whatever it is about where kinds are listed."""
    code = Path(__file__).parents[2] / "poold"
    found = {
        name
        for path in code.rglob("*.py")
        for name in re.findall(r'failpoint\(\s*"([^"]+)"', path.read_text())
    }
    steps = {*STORIES, *RARE, *SPARE, *CLAIM}
    tried = {name.partition("/")[0] for name in steps}
    on_lab = set(re.findall(r'"((?:oci|stage)\.[a-z_-]+)"', ON_A_LAB_HOST.read_text()))
    assert on_lab <= found
    assert found - tried - on_lab == set()
    assert tried - found == set()
    kinds = get_args(ChangeKind)
    # `poold bench` writes nothing down; what podman exported cannot be had here
    acting = REQUESTS.keys() - READING - {"measure", "import"}
    listed = {
        *(f"wish.{when}/{kind}" for when in ("before_commit", "accepted") for kind in kinds),
        *(f"books.before_commit/{action.__name__}" for action in get_args(Local)),
        *(f"roll.before_commit/{turn}" for turn in (*get_args(RollTurn), AUTO)),
        *(f"action.recorded/{verb}" for verb in acting),
    }
    assert listed - steps == set()


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
