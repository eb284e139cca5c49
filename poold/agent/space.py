"""How much may still be written on a file system: a reserve always stays free.

Flows in: folders, sizes, a reserve as the operator wrote it. Flows out: what is free, or a refusal
before anything is written. The reserve is for what cannot be refused: logs, replicas that run or
are restored, records. It knows no file's meaning.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from poold.errors import Temporary

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_UNBOUNDED = 1 << 62


@dataclass(frozen=True)
class Reserve:
    """What stays free of a file system: a share of it, but `most_bytes` at most."""

    share: float = 0.05
    most_bytes: int = 1 << 30

    def of(self, path: Path) -> int:
        """Return the reserve in bytes of the file system that `path` lies on, or will."""
        stat = os.statvfs(_nearest(path))
        return min(int(stat.f_blocks * stat.f_frsize * self.share), self.most_bytes)


NOTHING = Reserve(0.0, 0)


def read_reserve(text: str, default: Reserve = Reserve()) -> Reserve:
    """Read "500m", "1g" or "5%"; "" is the default. Raises ValueError with what is needed."""
    if not text:
        return default
    if percent := re.fullmatch(r"(\d+(?:\.\d+)?) ?%", text, re.ASCII):
        share = float(percent.group(1)) / 100
        if share < 1:
            return Reserve(share, _UNBOUNDED)
    if size := re.fullmatch(r"(\d+(?:\.\d+)?) ?([bkmgt]?)", text.lower(), re.ASCII):
        return Reserve(1.0, int(float(size.group(1)) * _UNITS[size.group(2)]))
    raise ValueError('a size such as "500m" or "2g", or a percentage such as "5%", is needed')


@dataclass(frozen=True)
class Left:
    """How full the file system of a folder is."""

    folder: Path
    free_bytes: int
    reserve_bytes: int


def tightest(folders: tuple[Path, ...], reserve: Reserve) -> Left:
    """Return the folder on whose file system the least may be written, reserve aside."""
    found = [Left(folder, free_bytes(folder), reserve.of(folder)) for folder in folders]
    return min(found, key=lambda left: left.free_bytes - left.reserve_bytes)


def free_bytes(path: Path) -> int:
    """Return what the agent may still write on the file system that `path` lies on, or will."""
    stat = os.statvfs(_nearest(path))
    return stat.f_bavail * stat.f_frsize


def require_space(needs: list[tuple[Path, int]], what: str, reserve: Reserve = NOTHING) -> None:
    """Refuse before anything is written: Temporary("host.disk-full") with the figures.

    Needs on the same file system add up.
    """
    wanted: dict[int, int] = {}
    for folder, size in needs:
        existing = _nearest(folder)
        device = existing.stat().st_dev
        wanted[device] = wanted.get(device, 0) + size
        lack = lacking(existing, wanted[device], reserve)
        if lack:
            raise Temporary(
                "host.disk-full",
                f"cannot {what}: {lack}",
                hint="free some space there, keep fewer generations, or lower disk_reserve",
            )


def lacking(folder: Path, size: int, reserve: Reserve) -> str:
    """Say what a file system lacks for `size` more bytes beside its reserve; "" for nothing."""
    free, kept = free_bytes(folder), reserve.of(folder)
    if free >= size + kept:
        return ""
    if not size:
        return (
            f"{free >> 20} MiB are free on the file system of {folder}, less than the reserve of"
            f" {kept >> 20} MiB"
        )
    beside = f" beside a reserve of {kept >> 20} MiB" if kept else ""
    return (
        f"about {-(-size >> 20)} MiB are needed on the file system of {folder}{beside},"
        f" {free >> 20} MiB are free"
    )


def _nearest(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
