"""A frozen box as an archive that podman could have exported, and so can import.

Flows in: a box that was frozen, the stage it lives from. Flows out: the archive. It holds CRIU's
images, podman's own description from the stage, and all changes of the root file system since the
image: those of the stage and those since.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from poold.agent.oci.boxes import Places
from poold.agent.oci.stages import Stage
from poold.agent.process import check

_TAR_SECONDS = 600.0
_DESCRIPTIONS = ("spec.dump", "config.dump", "network.status", "stats-dump", "artifacts")


@dataclass(frozen=True)
class Changes:
    """What differs from the image: paths that are there, and paths that are not any more."""

    present: tuple[str, ...]
    deleted: tuple[str, ...]


async def write(places: Places, stage: Stage, archive: Path) -> None:
    """Write the archive; what is needed beside the box for it is removed again."""
    part = places.folder / "archive"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(mode=0o700)
    try:
        await _gather(part, places, stage)
        names = sorted(entry.name for entry in part.iterdir())
        # The images stay where they are, beside the box: thawing it needs them.
        argv = ["tar", "--create", "--file", str(archive), "--directory", str(places.folder)]
        argv += ["checkpoint", "--directory", str(part), *names]
        await check(argv, deadline_seconds=_TAR_SECONDS)
    finally:
        shutil.rmtree(part, ignore_errors=True)


async def _gather(part: Path, places: Places, stage: Stage) -> None:
    for name in _DESCRIPTIONS:
        source = stage.folder / name
        if source.is_dir():
            shutil.copytree(source, part / name)
        elif source.exists():
            shutil.copy2(source, part / name)
    if places.log.exists():
        shutil.copy2(places.log, part / "ctr.log")
    (part / "artifacts").mkdir(exist_ok=True)
    found = changes((places.upper, stage.folder / "layer"), places.rootfs, stage.lowers[1:])
    await _tar(part / "rootfs-diff.tar", places.rootfs, found.present)
    if found.deleted:
        (part / "deleted.files").write_text(json.dumps(found.deleted), encoding="utf-8")
    await _tar(part / "devshm-checkpoint.tar", places.shm, (".",))


async def _tar(archive: Path, folder: Path, paths: tuple[str, ...]) -> None:
    """Pack `paths` without descending: a folder among them is the folder alone, but for "."."""
    argv = ["tar", "--create", "--file", str(archive), "--directory", str(folder)]
    argv += ["--numeric-owner", "--xattrs", "--xattrs-exclude=trusted.overlay.*", "--null"]
    argv += ["--no-recursion"] if paths != (".",) else []
    argv += ["--sparse", "--verbatim-files-from", "--files-from", "-"]
    stdin = b"".join(os.fsencode(path) + b"\0" for path in paths)
    await check(argv, stdin=stdin, deadline_seconds=_TAR_SECONDS)


def changes(layers: tuple[Path, ...], merged: Path, image: tuple[Path, ...]) -> Changes:
    """Compare layers over an image, seen through their overlay, with the image alone."""
    touched: set[str] = set()
    gone: set[str] = set()
    for layer in layers:
        for path, is_opaque in _entries(layer):
            touched.add(path)
            if is_opaque:
                gone.update(f"{path}/{name}" for name in _in_image(image, path))
    present = {path for path in touched if os.path.lexists(merged / path)}
    gone.update(touched - present)
    gone = {path for path in gone if not os.path.lexists(merged / path)}
    deleted = {path for path in gone if any(os.path.lexists(each / path) for each in image)}
    return Changes(tuple(sorted(present)), tuple(f"/{path}" for path in sorted(deleted)))


def _entries(layer: Path) -> Iterator[tuple[str, bool]]:
    """Yield the paths in a layer, and whether it hides what lower layers have there."""
    for folder, folders, files in os.walk(layer):
        for name in (*folders, *files):
            path = f"{folder}/{name}"
            yield path[len(str(layer)) + 1 :], _is_opaque(path)


def _is_opaque(path: str) -> bool:
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        return False
    try:
        return os.getxattr(path, "trusted.overlay.opaque") == b"y"
    except OSError:
        return False


def _in_image(image: tuple[Path, ...], path: str) -> set[str]:
    found: set[str] = set()
    for layer in image:
        folder = layer / path
        if folder.is_dir() and not folder.is_symlink():
            found.update(each.name for each in folder.iterdir())
    return found
