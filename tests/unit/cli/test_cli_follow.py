"""Following a change across bad moments, with a clock and a client of the test's own."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from poold.cli.progress import Follower
from poold.errors import Permanent, Problem, Temporary
from poold.model.fleet import Change

PENDING = Change(id=42, pool="hello", kind="scale", wish={}, actor="test", created_at=0.0)
AWAY = Temporary("daemon.unreachable", "cannot reach the daemon", hint="start it")


@dataclass
class Script:
    """A client that answers from a list: changes, or problems to raise; the last one for ever."""

    answers: list[Change | Problem]
    asked: list[tuple[float, int]] = field(default_factory=list)

    def change(self, number, *, wait_seconds, after_seq):
        self.asked.append((wait_seconds, after_seq))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Problem):
            raise answer
        return answer


@dataclass
class Clock:
    """Virtual seconds; every look at it lets `step` of them pass."""

    now: float = 0.0
    step: float = 1.0
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        self.now += self.step
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def _follow(answers, timeout_seconds=900.0, step=1.0):
    clock, script = Clock(step=step), Script(answers)
    follower = Follower(script, clock=clock, sleep=clock.sleep)
    return follower.follow(PENDING, timeout_seconds), script, clock


def test_news_is_asked_for_beyond_the_last_seq(capsys):
    """Each long poll asks for what comes after the newest that is known."""
    settled = replace(PENDING, seq=2, state="settled")
    ended, script, _clock = _follow([replace(PENDING, seq=1, progress="restoring"), settled])
    assert ended == settled
    assert [seq for _wait, seq in script.asked] == [0, 1]
    assert "restoring" in capsys.readouterr().err


def test_the_same_sentence_is_said_once(capsys):
    """An update without another sentence prints no line."""
    same = [replace(PENDING, seq=n, progress="restoring") for n in (1, 2, 3)]
    _follow([*same, replace(PENDING, seq=4, state="settled")])
    assert capsys.readouterr().err.count("restoring") == 1


def test_a_restart_of_the_daemon_is_survived():
    """An accepted wish outlives the daemon, so waiting does as well."""
    settled = replace(PENDING, seq=1, state="settled")
    ended, _script, clock = _follow([AWAY, AWAY, AWAY, settled])
    assert ended == settled
    assert len(clock.slept) == 3


def test_a_daemon_that_stays_away_is_said_with_the_way_back():
    """After half a minute the wait ends as unreachable, and names the change."""
    with pytest.raises(Temporary) as away:
        _follow([AWAY])
    assert away.value.code == "daemon.unreachable"
    assert "poold changes 42 --wait" in away.value.hint


def test_a_permanent_problem_is_not_waited_out():
    """What trying again does not help is raised at once."""
    with pytest.raises(Permanent):
        _follow([Permanent("daemon.not-poold", "cannot understand")])


def test_the_timeout_ends_the_wait():
    """When the time is over the problem says so and what was happening."""
    with pytest.raises(Temporary) as over:
        _follow([replace(PENDING, seq=1, progress="sending")], timeout_seconds=30)
    assert over.value.code == "wait.timed-out"
    assert "(sending)" in over.value.message


def test_a_long_poll_is_never_longer_than_the_time_left():
    """The last question waits for what is left of the timeout."""
    clock, script = Clock(), Script([PENDING])
    with pytest.raises(Temporary):
        Follower(script, clock=clock, sleep=clock.sleep).follow(PENDING, 10)
    waits = [wait for wait, _seq in script.asked]
    assert waits == sorted(waits, reverse=True)
    assert max(waits) < 10


def test_a_daemon_that_answers_without_news_at_once_is_not_asked_in_a_circle():
    """A stopping daemon answers long polls immediately; between two of them is a pause."""
    same = replace(PENDING)
    settled = replace(PENDING, seq=1, state="settled")
    _ended, _script, clock = _follow([same, same, settled], step=0.01)
    assert len(clock.slept) == 2
