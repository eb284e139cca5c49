"""Stages: an archive unpacked once per host, shared read-only by everything restored from it.

Flows in: a checkpoint archive that podman exported, by whomever. Flows out: a complete stage or
none: CRIU's images, the changes of the root file system as a layer, a template of the bundle. A
stage is known by its archive's file (device, inode, size, time): another archive is another stage.

stages/<key>/: checkpoint/, layer/, spec.dump, config.dump, devshm-checkpoint.tar, criu.conf, and
stage.json, written last. images/<image id>/<n>/: the image's layers, the uppermost first. They are
hard links of podman's own files, as podman would otherwise take them away from under a replica
that it does not know of (`podman image prune` asks for containers of podman's only).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import stat
import subprocess
import tarfile
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from poold.agent import criu, proc
from poold.agent.failpoints import failpoint
from poold.agent.folders import write_whole
from poold.agent.oci import bundles, kernel
from poold.agent.oci.bundles import Template
from poold.agent.process import CommandFailed, Finished, check, clean_environment, settled
from poold.agent.space import require_space
from poold.errors import Permanent, Temporary

_MARK, _ARCHIVE = "stage.json", "archive.tar"
_PART = ".part"
_UNPACK_SECONDS = 600.0
_NEW_SECONDS = 2 * _UNPACK_SECONDS
_TAR = ("tar", "--extract", "--numeric-owner", "--same-owner", "--same-permissions")

Layers = Callable[[str], Awaitable["tuple[Path, ...]"]]


@dataclass(frozen=True)
class Stage:
    """A complete stage; `lowers` are the layers of a root file system, the uppermost first."""

    key: str
    folder: Path
    template: Template
    lowers: tuple[Path, ...]

    @property
    def images(self) -> Path:
        """CRIU's images, read only by a restore."""
        return self.folder / "checkpoint"

    @property
    def shared_memory(self) -> Path:
        """What was in /dev/shm, as a tar archive."""
        return self.folder / "devshm-checkpoint.tar"

    @property
    def criu_config(self) -> Path:
        """CRIU's settings for a restore from here."""
        return self.folder / "criu.conf"


class Stages:
    """The folder of stages. `layers` tells the folders of an image's layers by its id."""

    def __init__(self, root: Path, layers: Layers) -> None:
        self._stages = root / "stages"
        self._images = root / "images"
        self._layers = layers
        self._known: dict[str, Stage] = {}
        self._making: dict[str, asyncio.Lock] = {}

    def ready(self, archive: Path) -> Optional[Stage]:
        """Return the archive's stage if it is complete and as it was made."""
        key = key_of(archive)
        known = self._known.get(key)
        if known is None and (self._stages / key / _MARK).exists():
            known = self._read(key)
        if known is None or not _is_whole(known.folder):
            return None
        if key not in self._known:
            self._known[key] = known
            _read_ahead(known.images)
        return known

    def of(self, key: str) -> Stage:
        """Return a stage by its key; Permanent("archive.damaged") when it is not whole."""
        known = self._known.get(key) or self._read(key)
        if known is None:
            raise _damaged(self._stages / key, "its image's layers are gone")
        return known

    def is_wanted(self, key: str) -> bool:
        """Whether a stage's archive is still there."""
        return _archive_is_there(self._stages / key)

    async def get(self, archive: Path) -> Stage:
        """Return the archive's stage, unpacking it when that has not been done."""
        key = key_of(archive)
        async with self._making.setdefault(key, asyncio.Lock()):
            stage = self.ready(archive)
            if stage is None:
                await self._make(archive, key)
                stage = self.ready(archive)
        if stage is None:
            raise _damaged(archive, "it changed while it was unpacked")
        return stage

    def sweep(self, used: Iterable[str]) -> None:
        """Delete stages whose archive is gone and that nothing in `used` lives from."""
        keep = set(used) | {key for key, lock in self._making.items() if lock.locked()}
        images = set()
        for folder in self._stages.iterdir() if self._stages.exists() else ():
            if folder.name.endswith(_PART):
                if _is_being_made(folder):
                    continue
            elif folder.name.partition(".")[0] in keep or _archive_is_there(folder):
                images.add(_image_of(folder))
                continue
            self._known.pop(folder.name, None)
            with contextlib.suppress(OSError):
                (folder / _MARK).unlink()
            kernel.unmount(folder / "merged")
            shutil.rmtree(folder, ignore_errors=True)
        for folder in self._images.iterdir() if self._images.exists() else ():
            # Whoever makes a stage right now, in this process or another, links its image first.
            is_new = time.time() - folder.stat().st_ctime < _NEW_SECONDS
            if folder.name not in images and not is_new:
                shutil.rmtree(folder, ignore_errors=True)

    async def _make(self, archive: Path, key: str) -> None:
        self._stages.mkdir(mode=0o700, parents=True, exist_ok=True)
        require_space([(self._stages, size_of(archive))], f"stage {archive.name}")
        part = self._stages / f"{key}.{os.getpid()}{_PART}"
        kernel.unmount(part / "merged")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(mode=0o700)
        try:
            await check(
                [*_TAR, "--file", str(archive), "--directory", str(part)],
                deadline_seconds=_UNPACK_SECONDS,
            )
            template = _template(part)
            layers = await self._linked(template.image_id)
            await _unpack_changes(part, layers)
            _write_criu_config(part, template)
            _seal(part, archive, template.image_id)
            failpoint("stage.before_rename")
            self._put(part, key)
        except BaseException:
            kernel.unmount(part / "merged")
            shutil.rmtree(part, ignore_errors=True)
            raise

    def _put(self, part: Path, key: str) -> None:
        """Give a stage its name. One that is damaged goes aside: what runs may live from it."""
        target = self._stages / key
        with contextlib.suppress(FileNotFoundError):
            target.rename(self._stages / f"{key}.{time.time_ns()}.replaced")
        part.rename(target)

    async def _linked(self, image_id: str) -> tuple[Path, ...]:
        """Return the image's layers as links of poold's own, made the first time."""
        folder = self._images / image_id[:32]
        if not folder.exists():
            part = folder.with_name(f"{folder.name}.{os.getpid()}{_PART}")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(mode=0o700, parents=True)
            layers = await self._layers(image_id)
            loop = asyncio.get_running_loop()
            await settled(loop.run_in_executor(None, _link, layers, part))
            with contextlib.suppress(OSError):  # another one was faster
                part.rename(folder)
        return _numbered(folder)

    def _read(self, key: str) -> Optional[Stage]:
        folder = self._stages / key
        template = _template(folder)
        layers = _numbered(self._images / template.image_id[:32])
        return Stage(key, folder, template, (folder / "layer", *layers)) if layers else None


def _link(layers: Sequence[Path], part: Path) -> None:
    """Give each layer's files a second name below `part`.

    As long as it has containers, podman keeps its folder of layers mounted upon itself, and nothing
    can be linked out of a mount: so it is done where that is not mounted.
    """
    above = {*part.parents}
    folders = {folder for layer in layers for folder in layer.parents if folder not in above}
    mounted = sorted(filter(kernel.is_mounted, folders))

    def link() -> None:
        for number, layer in enumerate(layers):
            argv = ("cp", "--archive", "--link", str(layer), str(part / str(number)))
            try:
                ended = subprocess.run(
                    argv, check=False, capture_output=True, timeout=_UNPACK_SECONDS,
                    stdin=subprocess.DEVNULL, env=clean_environment(),
                )  # fmt: skip
            except subprocess.TimeoutExpired as error:
                raise Temporary(
                    "command.timeout", f"cannot finish cp within {_UNPACK_SECONDS:g} s"
                ) from error
            if ended.returncode != 0:
                raise CommandFailed(Finished(argv, ended.returncode, b"", ended.stderr))

    kernel.without_mounts(mounted, link)


def key_of(archive: Path) -> str:
    """Return the name of the archive's stage."""
    found = archive.stat()
    text = f"{found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def size_of(archive: Path) -> int:
    """Return how much a stage of the archive takes, about."""
    return archive.stat().st_size


async def _unpack_changes(part: Path, layers: tuple[Path, ...]) -> None:
    """Apply the changes of the root file system as podman does, and keep them as a layer.

    Through a mounted overlay, so that the kernel copies the folders above each change with their
    modes and owners, and makes the whiteouts of what was deleted.
    """
    layer, merged = part / "layer", part / "merged"
    for folder in (layer, part / "layer-work", merged):
        folder.mkdir()
    copy_root_mode(layers[0], layer)
    changes, deleted = part / "rootfs-diff.tar", part / "deleted.files"
    kernel.mount_overlay(merged, layers, layer, part / "layer-work")
    try:
        if changes.exists():
            _require_inside(changes, merged)
            argv = [*_TAR, "--xattrs", "--xattrs-include=*", "--file", str(changes)]
            await check([*argv, "--directory", str(merged)], deadline_seconds=_UNPACK_SECONDS)
        for path in json.loads(deleted.read_bytes()) if deleted.exists() else ():
            _delete_inside(merged, str(path))
    finally:
        kernel.unmount(merged)
    shutil.rmtree(part / "layer-work")
    merged.rmdir()
    changes.unlink(missing_ok=True)


def copy_root_mode(image: Path, layer: Path) -> None:
    """Give a layer's root the mode and owner of the image's, or CRIU says `File . has bad mode`."""
    root = image.stat()
    os.chown(layer, root.st_uid, root.st_gid)
    layer.chmod(stat.S_IMODE(root.st_mode))


def _require_inside(changes: Path, merged: Path) -> None:
    """See that no change lies behind a link of the image: tar would follow it out of there."""
    known: set[Path] = set()
    with tarfile.open(changes) as archive:
        for member in archive:
            for folder in (merged / member.name).parents:
                if folder == merged or folder in known:
                    break
                if folder.is_symlink():
                    raise _damaged(changes, f"it writes through a link: {member.name}")
                known.add(folder)


def _delete_inside(merged: Path, path: str) -> None:
    target = merged / path.lstrip("/")
    parent = target.parent.resolve()
    if parent != merged and merged not in parent.parents:
        return  # a link leads out: whatever that is, it is not the container's
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target, ignore_errors=True)
    else:
        target.unlink(missing_ok=True)


def _write_criu_config(part: Path, template: Template) -> None:
    """Take over the settings that the checkpoint was made with, where they are at hand.

    The network needs no lock when no live connection is in the images.
    """
    lines: tuple[str, ...] = criu.settings(())
    with contextlib.suppress(OSError):
        lines = tuple(Path(template.criu_config).read_text(encoding="utf-8").splitlines())
    lines = tuple(line for line in lines if not line.startswith("network-lock"))
    if not any((part / "checkpoint").glob("tcp-stream-*")):
        lines = ("network-lock=skip", *lines)
    write_whole(part / "criu.conf", "".join(f"{line}\n" for line in lines).encode())


def _seal(part: Path, archive: Path, image_id: str) -> None:
    images = part / "checkpoint"
    images.chmod(0o500)
    for file in images.iterdir():
        file.chmod(0o400)
    value = {
        "archive": str(archive),
        "key": key_of(archive),
        "image_id": image_id,
        "images": _marks(images),
    }
    write_whole(part / _MARK, json.dumps(value).encode(), durable=True)


def _marks(images: Path) -> dict[str, list[int]]:
    """Return what tells an image from a changed one without reading it."""
    with os.scandir(images) as entries:
        return {entry.name: [entry.stat().st_size, entry.stat().st_mtime_ns] for entry in entries}


def _is_whole(folder: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):
        sealed = json.loads((folder / _MARK).read_bytes())
        return bool(sealed["images"] == _marks(folder / "checkpoint"))
    return False


def _read_ahead(images: Path) -> None:
    """Let the kernel read the memory's pages before the first restore after a boot needs them."""
    for pages in images.glob("pages-*"):
        descriptor = os.open(pages, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)


def _is_being_made(part: Path) -> bool:
    """Whether the agent that unpacks it, by the number in its name, may still be at it."""
    return proc.is_alive(int(part.name.split(".")[-2]))


def _template(folder: Path) -> Template:
    try:
        spec: dict[str, Any] = json.loads((folder / "spec.dump").read_bytes())
        config: dict[str, Any] = json.loads((folder / "config.dump").read_bytes())
    except (OSError, ValueError) as error:
        raise _damaged(folder, str(error)) from error
    if not (folder / "checkpoint").is_dir():
        raise _damaged(folder, "it holds no memory")
    return bundles.read(spec, config)


def _numbered(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(folder.iterdir(), key=lambda each: int(each.name)))


def _archive_is_there(folder: Path) -> bool:
    """Whether the archive of a stage exists, there or where it was moved to among generations."""
    with contextlib.suppress(OSError, ValueError):
        sealed = json.loads((folder / _MARK).read_bytes())
        archive = Path(sealed["archive"])
        places = [archive]
        for above in archive.parents:
            if above.name in ("work", "generations"):
                places += (above.parent / "generations").glob(f"*/{_ARCHIVE}")
        return any(place.exists() and key_of(place) == sealed["key"] for place in places)
    return False


def _image_of(folder: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        return str(json.loads((folder / _MARK).read_bytes())["image_id"])[:32]
    return ""


def _damaged(archive: Path, why: str) -> Permanent:
    return Permanent(
        "archive.damaged",
        f"cannot stage {archive.name}: it is no checkpoint that podman exported ({why})",
        hint="make it again: poold checkpoint",
    )
