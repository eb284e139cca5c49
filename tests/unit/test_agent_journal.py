"""The record of each action."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import poold
from poold.agent import journal as journals
from poold.agent.journal import Busy, Claim, Journal, Outcome
from poold.errors import Refused, Temporary

HOLDER = """
import sys, time
from pathlib import Path
from poold.agent.journal import Journal
claim = Journal(Path(sys.argv[1]), "boot").claim("a1", "q")
print("held", flush=True)
sys.stdin.readline()
from poold.agent.journal import Outcome
claim.finish(Outcome(result={"from": "the other"}))
print("done", flush=True)
"""


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path, "boot")


@pytest.fixture
def holder(tmp_path):
    """Run another process that holds the claim of a1 and finishes it at a line of input."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(poold.__file__).parents[1])},
    )
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def code_of(call) -> str:
    with pytest.raises((Refused, Temporary)) as caught:
        call()
    return caught.value.code


def test_a_new_action_is_claimed(journal):
    """An unknown id may be done, by one."""
    claim = journal.claim("a1", "q")
    assert isinstance(claim, Claim)
    assert isinstance(journal.claim("a1", "q"), Busy)
    claim.finish(Outcome(result=1))


@pytest.mark.parametrize(
    "outcome", [Outcome(result={"a": [1, None]}), Outcome(problem={"message": "no"})]
)
def test_a_done_action_gives_its_outcome(journal, tmp_path, outcome):
    """Result or problem come back, in this journal and in any later one."""
    journal.claim("a1", "q").finish(outcome)
    assert journal.claim("a1", "q") == outcome
    assert Journal(tmp_path, "boot").claim("a1", "q") == outcome


def test_another_process_holds_an_action_until_it_ends(journal, holder):
    """Busy while the other runs it, its outcome afterwards."""
    assert isinstance(journal.claim("a1", "q"), Busy)
    assert journal.running() == ("a1",)
    holder.stdin.write(b"\n")
    holder.stdin.flush()
    assert holder.stdout.readline() == b"done\n"
    assert journal.claim("a1", "q") == Outcome(result={"from": "the other"})
    assert journal.running() == ()


def test_an_action_whose_process_was_killed_is_interrupted(journal, holder):
    """A record that says running and that nobody holds is never claimed again."""
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    for _ in range(2):
        assert code_of(lambda: journal.claim("a1", "q")) == "action.interrupted"
    assert journal.running() == ()


@pytest.mark.parametrize("text", ["{", '{"state": "done"', "[]", '{"state": "running"}'])
def test_a_torn_record_is_an_interrupted_action(journal, tmp_path, text):
    """Its writer died while writing: what became of the action is not known."""
    (tmp_path / "actions/a1.json").write_text(text)
    assert code_of(lambda: journal.claim("a1", "q")) == "action.interrupted"


def test_an_empty_record_is_a_new_action(journal, tmp_path):
    """Its writer died before he had said that he begins: nothing was done."""
    (tmp_path / "actions/a1.json").touch()
    claim = journal.claim("a1", "q")
    assert isinstance(claim, Claim)
    claim.finish(Outcome())


def test_a_record_of_another_boot_tells_of_the_reboot(journal, tmp_path):
    """What was done before a reboot says nothing about now."""
    journal.claim("a1", "q").finish(Outcome(result=1))
    assert code_of(lambda: Journal(tmp_path, "later").claim("a1", "q")) == "host.rebooted"


def test_an_id_names_one_action(journal):
    """The same id for another question is refused."""
    journal.claim("a1", "q").finish(Outcome(result=1))
    assert code_of(lambda: journal.claim("a1", "other")) == "action.id-reused"


@pytest.mark.parametrize("action", ["", ".", "../x", "a/b", ".hidden", "x" * 129, "a\n"])
def test_what_is_no_id_is_refused(journal, action):
    """An id becomes a file name: nothing that could lead elsewhere."""
    assert code_of(lambda: journal.claim(action, "q")) == "action.bad-id"


def test_records_are_private(journal, tmp_path):
    """A result may hold what is nobody's business."""
    journal.claim("a1", "q").finish(Outcome(result=1))
    assert (tmp_path / "actions").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "actions/a1.json").stat().st_mode & 0o777 == 0o600


def test_old_records_are_forgotten_but_never_running_ones(journal, tmp_path):
    """After a day an outcome is gone; a running action keeps its record."""
    journal.claim("old", "q").finish(Outcome())
    held = journal.claim("held", "q")
    now = (tmp_path / "actions/old.json").stat().st_mtime
    journal.prune(now=now + journals.KEEP_SECONDS - 60)
    assert {file.stem for file in (tmp_path / "actions").iterdir()} == {"old", "held"}
    journal.prune(now=now + journals.KEEP_SECONDS + 60)
    assert [file.stem for file in (tmp_path / "actions").iterdir()] == ["held"]
    held.finish(Outcome())


def test_the_number_of_records_is_bounded(journal, tmp_path):
    """Beyond the bound the oldest are forgotten first."""
    for number in range(journals.KEEP_RECORDS + 10):
        file = tmp_path / f"actions/n{number}.json"
        file.write_text("{}")
        os.utime(file, (1e9 + number, 1e9 + number))
    journal.prune(now=1e9)
    names = {file.stem for file in (tmp_path / "actions").iterdir()}
    assert len(names) == journals.KEEP_RECORDS
    assert names.isdisjoint({f"n{number}" for number in range(10)})


def test_nothing_stays_open(journal):
    """A claim's descriptor is closed when it is finished, and none is left by looking."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    journal.claim("a1", "q").finish(Outcome())
    journal.claim("a1", "q")
    journal.running()
    journal.prune()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
