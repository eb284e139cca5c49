"""Following a change to its end, and showing what happens meanwhile.

Flows in: an accepted change. Flows out: the ended one, and lines on standard error. Interrupting
stops the waiting, never the change.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

from poold.cli.failures import printable
from poold.cli.tables import duration
from poold.client import Client
from poold.errors import Problem, Temporary
from poold.model.fleet import Change

_POLL_SECONDS = 25.0
_RECONNECT_SECONDS = 0.5
_DAEMON_AWAY_SECONDS = 30.0  # a restart of the daemon is waited for, not its absence


class Spinner(Protocol):
    """Shows what is happening now on one line of a terminal."""

    def update(self, status: str) -> None:
        """Show another sentence."""


@dataclass
class Follower:
    """Waits for one change. `clock` and `sleep` are injected for tests."""

    client: Client
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _said: str = ""
    _spinner: Spinner | None = field(default=None, repr=False)

    def follow(self, change: Change, timeout_seconds: float) -> Change:
        """Return the change once it is settled or failed.

        Raises Temporary("wait.timed-out"), or the client's problem when the daemon stays away.
        """
        begun = self.clock()
        with self._showing():
            while change.state == "pending":
                self._say(change, self.clock() - begun)
                left_seconds = begun + timeout_seconds - self.clock()
                if left_seconds <= 0:
                    raise _timed_out(change, timeout_seconds)
                change = self._news(change, left_seconds)
        return change

    def _news(self, change: Change, left_seconds: float) -> Change:
        """Return the next state of the change, across a restart of the daemon."""
        asked = self.clock()
        while True:
            try:
                known = self.client.change(
                    change.id,
                    wait_seconds=min(left_seconds, _POLL_SECONDS),
                    after_seq=change.seq,
                )
            except Temporary as problem:
                if self.clock() - asked > min(left_seconds, _DAEMON_AWAY_SECONDS):
                    raise _left_alone(change, problem) from problem
                self.sleep(_RECONNECT_SECONDS)
                continue
            if known.seq == change.seq and self.clock() - asked < _RECONNECT_SECONDS:
                self.sleep(_RECONNECT_SECONDS)  # a daemon that is stopping answers at once
            return known

    def _say(self, change: Change, elapsed_seconds: float) -> None:
        text = printable(change.progress) or "waiting for its turn"
        if text == self._said:
            return
        self._said = text
        if self._spinner is not None:
            self._spinner.update(text)
        print(f"{duration(elapsed_seconds):>8}  {text}", file=sys.stderr, flush=True)

    def _showing(self) -> AbstractContextManager[object]:
        if not sys.stderr.isatty() or os.environ.get("TERM", "dumb") == "dumb":
            return nullcontext()
        from rich.console import Console

        status = Console(file=sys.stderr).status("accepted")
        self._spinner = _Status(status.update)
        return status


@dataclass(frozen=True)
class _Status:
    """Keeps application text from being read as rich's markup."""

    show: Callable[..., None]

    def update(self, status: str) -> None:
        from rich.text import Text

        self.show(Text(status))


def goes_on(change: Change) -> str:
    """Say how to come back to a change."""
    return f"change {change.id} goes on; poold changes {change.id} --wait"


def _timed_out(change: Change, timeout_seconds: float) -> Problem:
    return Temporary(
        "wait.timed-out",
        f"cannot wait longer than {duration(timeout_seconds)} for change {change.id}"
        f" ({change.progress or 'nothing has happened yet'})",
        hint=goes_on(change),
    )


def _left_alone(change: Change, problem: Problem) -> Problem:
    return Temporary(
        problem.code,
        problem.message,
        hint=f"change {change.id} was accepted and goes on once the daemon runs;"
        f" poold changes {change.id} --wait",
    )
