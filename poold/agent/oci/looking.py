"""What a box is to whoever asks: a container of the listing, its output; and asking it to stop.

Flows in: a box and its paths. Flows out: facts read from the kernel and conmon's files. It makes
and removes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

from poold.agent import proc
from poold.agent.engines.base import Container
from poold.agent.oci import runtime
from poold.agent.oci.boxes import Box, Places


def as_it_is(box: Box, places: Places) -> Container:
    """Return the container that a box is."""
    status = runtime.status(places)
    return Container(
        name=box.name,
        container_id=box.container_id,
        running=status == "running",
        status=status,
        labels=box.labels,
        image_id=box.image_id,
        started_at=box.started_at,
    )


async def stop(box: Box, places: Places, timeout_seconds: int) -> None:
    """Ask the first process to end, and wait so long."""
    if timeout_seconds <= 0 or not runtime.is_running(places):
        return
    with contextlib.suppress(OSError):
        runtime.freeze_group(places, frozen=False)  # what is frozen hears nothing
    pid = places.pid()
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, box.stop_signal)
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(proc.ended(pid), timeout_seconds)


def lines_of(path: Path, tail: int) -> tuple[str, ...]:
    """Return the last lines of a log: "<time> <stream> <P or F> <text>" each, P unfinished."""
    lines: list[str] = []
    part = ""
    for line in text_of(path).splitlines():
        words = line.split(" ", 3)
        part += words[3] if len(words) > 3 else ""
        if words[2:3] != ["P"]:
            lines.append(part)
            part = ""
    return tuple((*lines, part) if part else lines)[-tail:]


def text_of(path: Path) -> str:
    """Return a file's text; "" when it cannot be read."""
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
