"""Where the agent keeps what on its host, and how files get there whole.

Flows in: the agent's root folder. Flows out: paths, and small files written so that a reader sees
the old or the new one, never half. It knows no file's meaning.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from poold.agent.space import Reserve, require_space
from poold.errors import Refused

_MODE_FOLDER = 0o700  # a checkpoint is memory: for root alone
_MODE_FILE = 0o600
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


@dataclass(frozen=True)
class Folders:
    """The agent's folders under its root, and what stays free where it writes."""

    root: Path
    reserve: Reserve = field(default_factory=Reserve)

    @property
    def generations(self) -> Path:
        """Sealed generations and captures, one folder each, named by the digest's hex."""
        return self.root / "generations"

    @property
    def images(self) -> Path:
        """Image archives on their way from or to another host."""
        return self.root / "images"

    @property
    def replicas(self) -> Path:
        """Records of replicas."""
        return self.root / "replicas"

    @property
    def work(self) -> Path:
        """Scratch folders of actions, one each."""
        return self.root / "work"

    def criu_config(self, pool: str) -> Path:
        """CRIU's configuration for a pool; containers name it in an annotation."""
        return self.root / "criu" / f"{safe_name(pool)}.conf"

    def require(self, needs: list[tuple[Path, int]], what: str) -> None:
        """Refuse what would not leave the reserve free: Temporary("host.disk-full")."""
        require_space(needs, what, self.reserve)

    def make(self) -> None:
        """Make what is missing."""
        for folder in (self.generations, self.images, self.replicas, self.work, self.root / "criu"):
            folder.mkdir(mode=_MODE_FOLDER, parents=True, exist_ok=True)

    @contextlib.contextmanager
    def scratch(self, action: str) -> Iterator[Path]:
        """Give an action a folder of its own on the generations' file system, then remove it."""
        folder = self.work / safe_name(action)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=_MODE_FOLDER, parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def safe_name(name: str) -> str:
    """Return a name that is to become a file's name, or refuse it."""
    if not name or name.startswith(".") or not _NAME_CHARACTERS.issuperset(name):
        raise Refused(
            "name.bad", f"cannot use {name!r} as a name", hint="use letters, digits, . _ -"
        )
    return name


def write_whole(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Replace a small file in one step; `durable` also survives the loss of power."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _MODE_FILE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    part.replace(path)


def make_private(path: Path) -> None:
    """Let only root read a file that another program wrote."""
    path.chmod(_MODE_FILE)


def sync(path: Path) -> None:
    """Make a file's or folder's content survive the loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
