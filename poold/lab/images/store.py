"""A container storage that already holds images, copied to new hosts instead of loading there.

Files of layers are never written to, so a copy shares them by hard links; the small files in which
podman keeps its books are real copies. On another file system everything is copied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from poold.lab.cache import remove_tree
from poold.lab.commands import run

if TYPE_CHECKING:
    from pathlib import Path

_BOOKS = ("overlay-images", "overlay-layers")
_LAYERS = "overlay"


def take(storage: Path, folder: Path) -> None:
    """Move the images of a host that is down into a folder on the same file system."""
    for name in (*_BOOKS, _LAYERS):
        (storage / name).rename(folder / name)


def copy(folder: Path, storage: Path) -> None:
    """Give a host the images in a folder, unless podman ran there before; whole or not at all."""
    if storage.exists():
        return
    unfinished = storage.with_name("storage.unfinished")
    remove_tree(unfinished)
    unfinished.mkdir(parents=True, mode=0o700)
    share = ["--link"] if folder.stat().st_dev == unfinished.stat().st_dev else []
    books = [folder / name for name in _BOOKS]
    run("cp", "--archive", *books, unfinished, what="copy the list of images")
    run("cp", "--archive", *share, folder / _LAYERS, unfinished, what="copy the images' layers")
    unfinished.rename(storage)
