"""How a failure is shown and with which exit code the program ends.

Flows in: problems. Flows out: one or two lines on standard error, never a traceback unless
POOLD_DEBUG asks for it.
"""

from __future__ import annotations

import os
import sys

from poold.errors import Problem, Refused

DONE, FAILED, REFUSED, UNREACHABLE, TIMED_OUT, CHANGED, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130

EXIT_CODES = (
    (DONE, "done"),
    (FAILED, "the change failed, or another problem"),
    (REFUSED, "wrong usage, or refused: nothing was done"),
    (UNREACHABLE, "the daemon cannot be reached"),
    (TIMED_OUT, "--timeout is over; the change goes on"),
    (CHANGED, "--if-revision: something else was wished meanwhile; nothing was done"),
    (INTERRUPTED, "interrupted; an accepted change goes on"),
)
_EVIDENCE_LINES = 20


def exit_code(problem: Problem) -> int:
    """Return the documented exit code."""
    if problem.code == "daemon.unreachable":
        return UNREACHABLE
    if problem.code == "wait.timed-out":
        return TIMED_OUT
    if problem.code in {"pool.changed", "host.changed"}:
        return CHANGED
    return REFUSED if isinstance(problem, Refused) else FAILED


def show(problem: Problem, *, as_json: bool = False) -> None:
    """Write the problem to standard error."""
    if as_json:
        import msgspec

        text = msgspec.json.encode({"problem": problem.to_json()}).decode()
        print(text, file=sys.stderr)
        return
    print(printable(problem.message), file=sys.stderr)
    if problem.hint:
        print(f"  {printable(problem.hint)}", file=sys.stderr)
    for line in problem.detail.splitlines()[-_EVIDENCE_LINES:]:
        print(f"  | {printable(line)}", file=sys.stderr)


def printable(text: str) -> str:
    """Return text that cannot move a terminal's cursor or colour it."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def debugging() -> bool:
    """Tell whether a traceback is wanted."""
    return os.environ.get("POOLD_DEBUG", "") not in {"", "0"}
