"""What is expensive to build and the same for every lab: base systems, image archives.

An entry is a folder named KIND-KEY, where the key is a digest of the recipe. It appears by one
rename after it was written out, so it is whole or absent; one builder at a time holds the lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from poold.lab.commands import run
from poold.lab.machine import say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def recipe_key(*parts: object) -> str:
    """Return a short digest of everything that decides what a build results in."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def folder_digests(folder: Path) -> dict[str, str]:
    """Return the digest of each file below a folder, for use in a recipe's key."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if "__pycache__" not in path.parts
    }


@dataclass(frozen=True, slots=True)
class Cache:
    """A folder of finished entries."""

    root: Path

    @staticmethod
    def default() -> Cache:
        """Return the machine's cache; POOLD_LAB_CACHE overrides the place."""
        return Cache(Path(os.environ.get("POOLD_LAB_CACHE", "/var/cache/poold-lab")))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the only right to build and to remove; waits, saying so, for another holder."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("waiting for another build of the lab's cache to end")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def entry(self, kind: str, key: str, make: Callable[[Path], None]) -> Path:
        """Return the entry's folder, built by `make` if it is absent. Needs the lock."""
        final = self.root / f"{kind}-{key}"
        if final.is_dir():
            return final
        unfinished = self.root / f".{kind}.unfinished"
        remove_tree(unfinished)
        unfinished.mkdir(mode=0o755)
        try:
            make(unfinished)
        except BaseException:
            remove_tree(unfinished)
            raise
        run("sync", "--file-system", unfinished, what=f"write {kind} to the disk")
        unfinished.rename(final)
        return final

    def remove_superseded(self, kind: str, keep: set[Path]) -> None:
        """Remove other entries of this kind that nobody uses. Needs the lock."""
        for path in self.root.glob(f"{kind}-*"):
            if path not in keep and not _is_used(path):
                say(f"removing superseded {path.name} from the cache")
                remove_tree(path)


def _is_used(entry: Path) -> bool:
    """Tell whether a running host holds the entry's lock."""
    folder = os.open(entry, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(folder)
    return False


def remove_tree(path: Path) -> None:
    """Remove a folder and everything in it; absent is fine."""
    if path.exists():
        shutil.rmtree(path)
