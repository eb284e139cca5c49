"""Named steps at which a test lets the program die, fail or hang; otherwise nothing at all.

Flows in: the variable POOLD_FAILPOINTS, "name=kill|error|hang:seconds", several separated by
commas; a step that is reached with a detail (a verb, a replica's name) is also named
"name/detail". Flows out: a SIGKILL to this very process, a Temporary, or a blocking sleep, once per
name and process. No configuration can switch one on, and off it costs one look at an empty table.
"""

from __future__ import annotations

import os
import signal
import time

from poold.errors import Temporary

VARIABLE = "POOLD_FAILPOINTS"


def parse(text: str) -> dict[str, str]:
    """Read the variable: what to do by name. Raises ValueError for what cannot be meant."""
    armed = {}
    for part in filter(None, (each.strip() for each in text.split(","))):
        name, _, doing = part.partition("=")
        kind, _, seconds = doing.partition(":")
        if kind == "hang":
            float(seconds)
        elif doing not in ("kill", "error"):
            raise ValueError(
                f"cannot read {VARIABLE}: {part!r} is not name=kill|error|hang:seconds"
            )
        armed[name] = doing
    return armed


_armed = parse(os.environ.get(VARIABLE, ""))


def failpoint(name: str, detail: str = "") -> None:
    """Mark a durable step. Not for loops that must be fast: see the module."""
    if _armed:
        _reached(name, detail)


def _reached(name: str, detail: str) -> None:
    doing = _armed.pop(name, "") or _armed.pop(f"{name}/{detail}", "")
    if doing == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif doing == "error":
        raise Temporary("failpoint.error", f"cannot go on: the failpoint {name} was asked for")
    elif doing:
        time.sleep(float(doing.partition(":")[2]))
