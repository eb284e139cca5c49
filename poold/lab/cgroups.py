"""Cgroups as the list of what a lab started: everything in one can be ended at once."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from poold.errors import Permanent

if TYPE_CHECKING:
    from pathlib import Path

_DEADLINE_SECONDS = 20.0
# Moves itself into the cgroup whose cgroup.procs is the first argument, then becomes the rest.
_JOIN = ("sh", "-c", 'echo $$ > "$0" && exec "$@"')


def join_argv(cgroup: Path, argv: list[str]) -> list[str]:
    """Return the argument vector that runs `argv` as a member of the cgroup."""
    return [*_JOIN, str(cgroup / "cgroup.procs"), *argv]


def end(cgroup: Path) -> None:
    """Kill all members, wait until they are gone, remove the cgroup. Absent is fine."""
    if not cgroup.is_dir():
        return
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while is_populated(cgroup):
        (cgroup / "cgroup.kill").write_text("1")
        if time.monotonic() > deadline:
            raise Permanent(
                "lab.unkillable",
                f"cannot end the processes in {cgroup}",
                hint="look at them with `cat` on its cgroup.procs",
            )
        time.sleep(0.005)
    for folder in sorted(cgroup.rglob("*/"), reverse=True):
        if folder.is_dir():
            folder.rmdir()
    cgroup.rmdir()


def is_populated(cgroup: Path) -> bool:
    """Tell whether a live process is in the cgroup or below it."""
    with suppress(FileNotFoundError):
        return "populated 1" in (cgroup / "cgroup.events").read_text(encoding="utf-8")
    return False
