"""Processes of a container, seen from the host through /proc.

Flows in: the id of a container's first process. Flows out: its brothers, their memory, the moment
of its end. It knows no engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Optional

from poold.model.fleet import Memory

_POLL_SECONDS = 0.25
_PROC = Path("/proc")


def in_pid_namespace_of(pid: int) -> tuple[Path, ...]:
    """Return /proc/<id> of each process in the PID namespace of `pid`; none when it is gone."""
    try:
        namespace = (_PROC / str(pid) / "ns/pid").readlink()
    except OSError:
        return ()
    return tuple(
        entry for entry in _PROC.iterdir() if entry.name.isdigit() and _is_in(entry, namespace)
    )


def resident_bytes(pid: int) -> int:
    """Sum the resident memory of every process in the PID namespace of `pid`."""
    page = os.sysconf("SC_PAGE_SIZE")
    total = 0
    for process in in_pid_namespace_of(pid):
        with contextlib.suppress(OSError):
            total += int((process / "statm").read_text().split()[1]) * page
    return total


def memory_of(pid: int) -> Optional[Memory]:
    """Sum what the processes in the PID namespace of `pid` have; None when there is none.

    The kernel walks their page tables for it: about a millisecond for 100 MB.
    """
    page = os.sysconf("SC_PAGE_SIZE")
    found: dict[str, int] = {}
    merged = 0
    for process in in_pid_namespace_of(pid):
        with contextlib.suppress(OSError):
            for line in (process / "smaps_rollup").read_text().splitlines()[1:]:
                name, _, rest = line.partition(":")
                found[name] = found.get(name, 0) + (int(rest.split()[0]) << 10)
        with contextlib.suppress(OSError, ValueError):  # no KSM, or it is ending
            merged += int((process / "ksm_merging_pages").read_text()) * page
    if "Rss" not in found:
        return None
    private = found.get("Private_Clean", 0) + found.get("Private_Dirty", 0)
    return Memory(found["Rss"], found.get("Pss", 0), private, merged)


async def ended(pid: int) -> None:
    """Return when a process, not a child of ours, has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except (AttributeError, OSError):  # a kernel before 5.3, or a Python built for one
        while is_there(pid):  # noqa: ASYNC110 - those have no event for it
            await asyncio.sleep(_POLL_SECONDS)
        return
    loop = asyncio.get_running_loop()
    end = asyncio.Event()
    loop.add_reader(descriptor, end.set)
    try:
        await end.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


async def first_of(pid: int, conmon: int) -> str:
    """Return when a container's first process or its conmon has ended, and say which.

    0 for a process that is not known: then the first one counts as ended, conmon as everlasting.
    """
    first = asyncio.ensure_future(ended(pid) if pid else asyncio.sleep(0))
    minder = asyncio.ensure_future(ended(conmon) if conmon else asyncio.Event().wait())
    try:
        await asyncio.wait({first, minder}, return_when=asyncio.FIRST_COMPLETED)
        return "its first process ended" if first.done() else "conmon, which minds it, ended"
    finally:
        first.cancel()
        minder.cancel()
        await asyncio.wait({first, minder})


def is_there(pid: int) -> bool:
    """Whether a process of that id exists."""
    return (_PROC / str(pid)).exists()


def is_alive(pid: int) -> bool:
    """Whether a process exists and is more than a zombie that nobody has waited for."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def _is_in(process: Path, namespace: Path) -> bool:
    try:
        return (process / "ns/pid").readlink() == namespace
    except OSError:
        return False
