"""An archive that podman exported, from anywhere, read once and written anew as one of a pool's.

Flows in: a file that nobody vouches for, what the pool's application may have. Flows out: an
uncompressed archive with podman's own parts and nothing else, its container described as the
pool's; or Refused with what is wrong, and nothing that was in it was believed, followed or left.
Blocking: for a thread. It restores nothing and knows no host.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import re
import stat
import subprocess
import tarfile
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from poold.agent.process import clean_environment
from poold.errors import Permanent, Refused

SPEC, CONFIG = "spec.dump", "config.dump"
_FILES = {
    SPEC, CONFIG, "network.status", "rootfs-diff.tar", "deleted.files", "devshm-checkpoint.tar",
    "ctr.log", "stats-dump", "dump.log", "bind.mounts",
}  # fmt: skip
_NEEDED = {SPEC, CONFIG, "checkpoint/inventory.img", "checkpoint/pstree.img"}
_DESCRIPTION_BYTES = 8 << 20  # each was 24 kB
_INNER_BYTES = 8 << 30
_MOST_MEMBERS = 200_000
_CHUNK = 1 << 20
_PLAIN = {"checkpoint", "artifacts"}
_MAGIC = ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"))

Edit = Callable[[dict[str, Any], dict[str, Any]], None]


@dataclass
class Export:
    """What was found. `edited` are spec and config as they were written."""

    compression: str
    bytes: int = 0
    spec: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)


def rewrite(
    source: Path,
    target: Path,
    *,
    most_bytes: int,
    edit: Edit,
    stop: threading.Event,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Export:
    """Write `target` from what may be believed of `source`; `edit` changes spec and config.

    Raises Refused("import.bad-archive") and friends; what `edit` raises goes through. `target` is
    private, and may be left half-written then. `progress` gets bytes read and to be read.
    """
    try:
        with _opened(source) as (file, name):
            export = Export(_compression(file))
            with (
                _decompressed(file, export.compression) as plain,
                _writing(target) as out,
                tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as written,
            ):
                bounded = _Bounded(plain, most_bytes, stop, file, progress)
                _copy(bounded, written, export, edit, name)
        _check_inner(target)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError) as error:
        raise bad(f"it is no whole tar archive ({error})") from error
    export.bytes = target.stat().st_size
    return export


def bad(why: str, hint: str = "") -> Refused:
    """Say that an archive is not taken."""
    return Refused(
        "import.bad-archive",
        f"cannot import the archive: {why}",
        hint=hint or "export it again: podman container checkpoint -e FILE NAME",
    )


# -- reading --------------------------------------------------------------------------------------


@contextmanager
def _opened(source: Path) -> Iterator[tuple[IO[bytes], str]]:
    """Open a regular file, and nothing that would block or never end."""
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise Refused(
            "import.no-file",
            f"cannot import {source}: {error.strerror}",
            hint="the path is one on that host; copy the archive there first",
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise bad(f"{source} is no file")
    with os.fdopen(descriptor, "rb", buffering=0) as file:  # zstd reads from it as well
        yield cast("IO[bytes]", file), source.name


def _compression(file: IO[bytes]) -> str:
    """Tell what podman compressed with; others it cannot write."""
    head = file.read(512)
    file.seek(0)
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if head[257:262] == b"ustar":
        return "none"
    raise bad("it is neither a tar archive nor one that gzip or zstd compressed")


@contextmanager
def _decompressed(file: IO[bytes], compression: str) -> Iterator[IO[bytes]]:
    if compression == "none":
        yield file
    elif compression == "gzip":
        with gzip.open(file) as plain:
            yield cast("IO[bytes]", plain)
    else:
        with _unzstd(file) as plain:
            yield plain


@contextmanager
def _unzstd(file: IO[bytes]) -> Iterator[IO[bytes]]:
    argv = ["zstd", "--decompress", "--stdout", "--quiet"]
    child = subprocess.Popen(
        argv, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_environment()
    )
    assert child.stdout is not None  # noqa: S101 - a pipe was asked for
    try:
        yield child.stdout
        child.stdout.close()
        said = child.stderr.read().decode(errors="replace") if child.stderr else ""
        if child.wait() > 0:
            raise bad(f"zstd cannot read it: {said.strip()[-200:]}")
    finally:
        child.kill()
        child.stdout.close()
        if child.stderr:
            child.stderr.close()
        child.wait()


class _Bounded(io.RawIOBase):
    """A stream that ends with Refused where it is longer than allowed."""

    def __init__(
        self,
        plain: IO[bytes],
        most_bytes: int,
        stop: threading.Event,
        file: IO[bytes],
        progress: Callable[[int, int], None],
    ) -> None:
        super().__init__()
        self._plain, self._left, self._most = plain, most_bytes, most_bytes
        self._stop, self._file, self._progress = stop, file, progress
        self._total = os.fstat(file.fileno()).st_size

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if self._stop.is_set():
            raise bad("its reading was ended")
        data = self._plain.read(_CHUNK if size < 0 else size)
        self._left -= len(data)
        if self._left < 0:
            raise Permanent(
                "host.disk-full",
                f"cannot import the archive: it holds more than the {self._most >> 20} MiB that may"
                " be written there",
                hint="free some space under the agent's folder, or lower disk_reserve",
            )
        self._progress(os.lseek(self._file.fileno(), 0, os.SEEK_CUR), self._total)
        return data


# -- taking over ----------------------------------------------------------------------------------


def _copy(
    bounded: _Bounded, written: tarfile.TarFile, export: Export, edit: Edit, name: str
) -> None:
    seen: set[str] = set()
    with tarfile.open(fileobj=cast("IO[bytes]", bounded), mode="r|", bufsize=_CHUNK) as archive:
        for member in archive:
            path = _safe(member)
            if path in ("", *_PLAIN):
                continue
            if path in seen:
                raise bad(f"{path} is in it twice")
            seen.add(path)
            if len(seen) > _MOST_MEMBERS:
                raise bad("it has too many members")
            _take(archive, member, path, written, export)
            if path in (SPEC, CONFIG) and export.spec and export.config:
                edit(export.spec, export.config)  # before all the memory that is behind them
    missing = sorted(_NEEDED - seen)
    if missing:
        raise bad(
            f"{name} lacks {missing[0]}: it is no checkpoint of a container, or not all of it"
        )
    if not any(re.fullmatch(r"checkpoint/pages-\d+\.img", path) for path in seen):
        raise bad("it holds no memory (checkpoint/pages-1.img)")
    for path, value in ((SPEC, export.spec), (CONFIG, export.config)):
        _put(written, path, json.dumps(value, separators=(",", ":")).encode())


def _safe(member: tarfile.TarInfo) -> str:
    """Return a member's path if it is one of podman's; refuse whatever else an archive can hold."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\0" in member.name:
        raise bad(f"a member leads out of it: {member.name[:80]!r}")
    if not (member.isreg() or member.isdir()) or member.sparse is not None:
        raise bad(f"{member.name[:80]!r} is a link or a special file")
    text = "" if str(path) == "." else str(path)
    top = path.parts[0] if path.parts else ""
    if member.isdir():
        if text not in ("", *_PLAIN):
            raise bad(f"it holds the folder {text[:80]!r}, which podman does not write")
    elif top == "checkpoint":
        if len(path.parts) != 2:
            raise bad(f"it holds {text[:80]!r}, which CRIU does not write")
    elif text not in _FILES and top != "artifacts":
        raise bad(
            f"it holds {text[:80]!r}, which poold cannot restore",
            "leave volumes out of it: podman container checkpoint --ignore-volumes -e FILE NAME",
        )
    return text


def _take(
    archive: tarfile.TarFile,
    member: tarfile.TarInfo,
    path: str,
    written: tarfile.TarFile,
    export: Export,
) -> None:
    file = archive.extractfile(member)
    if file is None:
        return
    if path in (SPEC, CONFIG):
        value = _description(path, member, file)
        export.spec, export.config = (
            (value, export.config) if path == SPEC else (export.spec, value)
        )
        return
    if path.startswith("artifacts/"):
        return  # nothing that a restore needs
    checked: IO[bytes] = file
    clean = tarfile.TarInfo(path)
    clean.size, clean.mtime, clean.mode = member.size, member.mtime, 0o600
    if path == "deleted.files":
        _put(written, path, _deleted(member, file))
        return
    written.addfile(clean, checked)


def _description(path: str, member: tarfile.TarInfo, file: IO[bytes]) -> dict[str, Any]:
    if member.size > _DESCRIPTION_BYTES:
        raise bad(f"its {path} has {member.size} bytes")
    try:
        value = json.loads(file.read())
    except (ValueError, RecursionError) as error:
        raise bad(f"its {path} cannot be read") from error
    if not isinstance(value, dict):
        raise bad(f"its {path} is no object")
    return value


def _deleted(member: tarfile.TarInfo, file: IO[bytes]) -> bytes:
    if member.size > _DESCRIPTION_BYTES:
        raise bad(f"its deleted.files has {member.size} bytes")
    data = file.read()
    names = json.loads(data)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise bad("its deleted.files is no list of paths")
    if any(".." in PurePosixPath(name).parts for name in names):
        raise bad("its deleted.files lead out of the container")
    return data


def _check_inner(target: Path) -> None:
    """Look through the archives of a container's files within an archive that was written."""
    with tarfile.open(target, mode="r:") as archive:
        for path in ("rootfs-diff.tar", "devshm-checkpoint.tar"):
            with contextlib.suppress(KeyError):
                file = archive.extractfile(path)
                if file is not None:
                    with tarfile.open(fileobj=file, mode="r:") as members:
                        _check_members(members, path)


def _check_members(members: tarfile.TarFile, name: str) -> None:
    """See that unpacking stays inside: no way out, nothing through a link, no device.

    /dev/shm holds files and folders only.
    """
    links: set[PurePosixPath] = set()
    size = 0
    for number, member in enumerate(members):
        path, size = PurePosixPath(member.name), size + member.size
        if _leads_out(member.name) or (member.islnk() and _leads_out(member.linkname)):
            raise bad(f"its {name} leads out of the container: {member.name[:80]!r}")
        if links.intersection((path, *path.parents)):
            raise bad(f"its {name} writes through a link: {member.name[:80]!r}")
        is_plain = member.isreg() or member.isdir()
        if not (is_plain or (name == "rootfs-diff.tar" and (member.issym() or member.islnk()))):
            raise bad(f"its {name} holds a special file: {member.name[:80]!r}")
        if member.issym():
            links.add(path)
        if number > _MOST_MEMBERS or size > _INNER_BYTES:
            raise bad(f"its {name} is too large")


def _leads_out(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts


# -- writing --------------------------------------------------------------------------------------


@contextmanager
def _writing(target: Path) -> Iterator[IO[bytes]]:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb", buffering=_CHUNK) as file:
        yield file


def _put(written: tarfile.TarFile, path: str, data: bytes) -> None:
    member = tarfile.TarInfo(path)
    member.size, member.mode = len(data), 0o600
    written.addfile(member, io.BytesIO(data))
