"""Boxes: what the engine `oci` made on this host, one folder each, told before it is made.

Flows in: what is about to be made. Flows out: every box there is, whoever died over it. A box is
written down before its first mount, namespace or process, and deleted after the last of them; so a
listing finds whatever a crash left. Names and addresses are claimed as links, one box each.

containers/<id>/: box.json, config.json, the overlay's upper, work and rootfs, shm, and what conmon
and the runtime leave. names/<name> and addresses/<network>/<address> link to it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Optional

from poold.agent.codec import decode
from poold.agent.engines.base import Published
from poold.agent.folders import safe_name, write_whole
from poold.errors import Permanent, Problem

_BOX = "box.json"


@dataclass(frozen=True)
class Box:
    """A container, or a slot for one while `name` is ""."""

    container_id: str
    name: str
    stage: str  # the key of the stage that it lives from
    image_id: str
    network: str
    address: str
    published: tuple[Published, ...]
    boot_id: str
    owner: str = ""  # the agent's process that made it, and keeps it while it has no name
    labels: dict[str, str] = field(default_factory=dict)
    created_at: float = 0.0
    started_at: float = 0.0
    stop_signal: int = 15


@dataclass(frozen=True)
class Places:
    """The paths of one box."""

    folder: Path
    namespace: Path

    @property
    def rootfs(self) -> Path:
        """Where the root file system is mounted."""
        return self.folder / "rootfs"

    @property
    def upper(self) -> Path:
        """What the container changes of it."""
        return self.folder / "upper"

    @property
    def work(self) -> Path:
        """The overlay's own."""
        return self.folder / "work"

    @property
    def shm(self) -> Path:
        """Its /dev/shm."""
        return self.folder / "shm"

    @property
    def log(self) -> Path:
        """What the container wrote, both streams, as conmon writes it."""
        return self.folder / "ctr.log"

    @property
    def images(self) -> Path:
        """CRIU's images of the box itself, once it was frozen."""
        return self.folder / "checkpoint"

    def pid(self, file: str = "pidfile") -> int:
        """Read "pidfile" (the first process) or "conmon.pid"; 0 when there is none."""
        try:
            return int((self.folder / file).read_text())
        except (OSError, ValueError):
            return 0


class Boxes:
    """The folder of boxes."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._containers = root / "containers"
        self._names = root / "names"
        self._addresses = root / "addresses"

    def places(self, container_id: str) -> Places:
        """Return where a box's things are."""
        short = safe_name(container_id)[:16]
        return Places(self._containers / container_id, Path(f"/run/netns/poold-{short}"))

    def all(self) -> tuple[Box, ...]:
        """Return every box that can be read; one that cannot is not a box: see `rubbish`."""
        if not self._containers.exists():
            return ()
        boxes = (self.read(folder.name) for folder in sorted(self._containers.iterdir()))
        return tuple(box for box in boxes if box is not None)

    def rubbish(self) -> tuple[str, ...]:
        """Return the ids of folders that a crash left before their box was written."""
        if not self._containers.exists():
            return ()
        with self._locked():
            return tuple(
                each.name
                for each in self._containers.iterdir()
                if not each.name.startswith(".") and self.read(each.name) is None
            )

    def prune_names(self) -> None:
        """Take away links to boxes that are gone or have another name."""
        if not self._names.exists():
            return
        with self._locked():
            for link in self._names.iterdir():
                with contextlib.suppress(OSError):
                    box = self.read(str(link.readlink()))
                    if box is None or box.name != link.name:
                        link.unlink()

    def read(self, container_id: str) -> Optional[Box]:
        """Return the box of that id."""
        with contextlib.suppress(OSError, ValueError, Problem):
            data = json.loads((self._containers / container_id / _BOX).read_bytes())
            return decode(Box, data)
        return None

    def find(self, name_or_id: str) -> Optional[Box]:
        """Return the box with that name or id."""
        box = None
        with contextlib.suppress(OSError):
            box = self.read(str((self._names / name_or_id).readlink()))
        if box is not None and box.name == name_or_id:
            return box
        return self.read(name_or_id) if "/" not in name_or_id else None

    def add(self, box: Box) -> Places:
        """Write a new box down, with its claims; Permanent("engine.name-taken").

        The address must be free: ask `taken_addresses` under the same lock (`claim`).
        """
        with self._locked():
            return self._add(box)

    def claim(self, box: Box, candidates: Iterator[str]) -> Box:
        """Write a new box down with the first of the addresses that no other box has."""
        with self._locked():
            taken = {each.address for each in self.all() if each.network == box.network}
            address = next((each for each in candidates if each not in taken), "")
            if not address:
                raise Permanent(
                    "network.no-address",
                    f"cannot connect {box.name or 'a slot'}: no free address is left in the network"
                    f" {box.network}",
                    hint="give that network a larger subnet, or run fewer replicas on this host",
                )
            found = Box(**{**box.__dict__, "address": address})
            self._add(found)
            return found

    def name(self, box: Box, name: str, started_at: float) -> Box:
        """Give a slot its name; Permanent("engine.name-taken")."""
        named = Box(**{**box.__dict__, "name": name, "started_at": started_at})
        with self._locked():
            self._link(named)
            self._write(named)
        return named

    def rename(self, box: Box, name: str) -> Box:
        """Give a box another name; Permanent("engine.name-taken").

        What is written of the box decides which name it has: a link that says otherwise is
        nobody's, and goes with the next look (`prune_names`), as one does that a crash left here.
        """
        renamed = Box(**{**box.__dict__, "name": name})
        with self._locked():
            if name != box.name:
                self._link(renamed)
                self._write(renamed)
        return renamed

    def write(self, box: Box) -> None:
        """Replace what is written of a box."""
        self._write(box)

    def forget(self, container_id: str) -> None:
        """Delete a box's folder, its description last, and its claim of a name."""
        folder = self._containers / safe_name(container_id)
        box = self.read(container_id)
        for entry in list(folder.iterdir()) if folder.exists() else []:
            if entry.name != _BOX:
                _delete(entry)
        with self._locked():
            if box is not None and box.name:
                self._unlink(box)
            shutil.rmtree(folder, ignore_errors=True)

    def _add(self, box: Box) -> Places:
        places = self.places(box.container_id)
        places.folder.mkdir(mode=0o700)
        try:
            if box.name:
                self._link(box)
            self._write(box)
        except BaseException:
            shutil.rmtree(places.folder, ignore_errors=True)
            raise
        return places

    def _link(self, box: Box) -> None:
        link = self._names / safe_name(box.name)
        with contextlib.suppress(OSError):
            owner = self.read(str(link.readlink()))
            if owner is not None and owner.name == box.name:
                raise Permanent(
                    "engine.name-taken",
                    f"cannot restore {box.name}: another container has that name",
                )
            link.unlink()  # a crash left it between the claim and the box
        link.symlink_to(box.container_id)

    def _unlink(self, box: Box) -> None:
        link = self._names / box.name
        with contextlib.suppress(OSError):
            if str(link.readlink()) == box.container_id:
                link.unlink()

    def _write(self, box: Box) -> None:
        data = json.dumps(asdict(box)).encode()
        write_whole(self._containers / box.container_id / _BOX, data)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other agents of this host out, for the few milliseconds that the block takes."""
        for folder in (self._containers, self._names):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self._root / "lock").open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
