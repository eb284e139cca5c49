"""Which files a container's processes watch: CRIU's log tells inode numbers, operators want paths.

Flows in: a process id. Flows out: paths as the container sees them. Bounded: where the file system
is too large to be searched, fewer paths are found, or none.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path

from poold.agent import proc

_SEARCH_SECONDS = 5.0
_INODE = re.compile(r"^(?:inotify|fanotify)\b.*?\bino:([0-9a-f]+)", re.MULTILINE)
_SKIPPED = frozenset(("proc", "sys", "dev"))
_LAST = ("usr", "lib", "lib64", "bin", "sbin", "boot")  # large, and seldom watched


def watched_paths(pid: int) -> tuple[str, ...]:
    """Return the paths that processes in the PID namespace of `pid` watch, sorted."""
    inodes = watched_inodes(pid)
    return _paths_of(inodes, Path(f"/proc/{pid}/root")) if inodes else ()


def watched_inodes(pid: int) -> frozenset[int]:
    """Return the inode numbers in the inotify and fanotify descriptors of a container."""
    found: set[int] = set()
    for process in proc.in_pid_namespace_of(pid):
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                found.update(_of_descriptor(process, descriptor))
    return frozenset(found)


def _of_descriptor(process: Path, descriptor: Path) -> list[int]:
    with contextlib.suppress(OSError):
        if "notify" in str(descriptor.readlink()):
            text = (process / "fdinfo" / descriptor.name).read_text()
            return [int(inode, 16) for inode in _INODE.findall(text)]
    return []


def _paths_of(inodes: frozenset[int], root: Path) -> tuple[str, ...]:
    """Search the container's files for these inodes, folders first, for a few seconds."""
    deadline = time.monotonic() + _SEARCH_SECONDS
    found: set[str] = set()
    top = str(root)
    for folder, folders, files in os.walk(top):
        if folder == top:
            folders[:] = sorted(set(folders) - _SKIPPED, key=_is_last)
        for name in (*folders, *files):
            path = f"{folder}/{name}"
            with contextlib.suppress(OSError):
                if os.lstat(path).st_ino in inodes:
                    found.add(path[len(top) :])
        if len(found) >= len(inodes) or time.monotonic() > deadline:
            break
    return tuple(sorted(found))


def _is_last(folder: str) -> bool:
    return folder in _LAST
