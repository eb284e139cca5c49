"""Generations on a host: sealed once, verified once, restored from often.

Flows in: a checkpoint archive to seal, or received files to verify and unpack. Flows out: a folder
named by its digest that is complete or absent, and the path podman restores from. It knows no
container. Layout of generations/<64 hex digits>/: manifest.json (its sha256 is the address),
archive.tar.zst (as it travels), archive.tar (what is restored), staged.json (written last: the
archive's size, time and inode as it was verified, so that a restore only looks at those), seal.json
(the daemon's signature, kept for it).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, TypeVar

from poold.agent.codec import decode
from poold.agent.failpoints import failpoint
from poold.agent.folders import Folders, sync, write_whole
from poold.agent.messages import GenerationFact, Progress, Seal
from poold.agent.process import finish, run
from poold.errors import Permanent, Problem, Refused, Temporary
from poold.model.fleet import Digest, Manifest

MANIFEST, PACKED, ARCHIVE, STAGED = "manifest.json", "archive.tar.zst", "archive.tar", "staged.json"
SEAL = "seal.json"  # the daemon's, not needed for anything here
_CHUNK = 1 << 20
_PACK_SECONDS = 900.0
REST_LEVEL = 3  # of zstd: written once, sent to every host, kept
MOVE_LEVEL = 1  # sent once, while its replica is away
_REPORT_SECONDS = 0.5
_HEX = re.compile("sha256:([0-9a-f]{64})")

T = TypeVar("T")
Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Packed:
    """An archive's digests and sizes, uncompressed and as it travels."""

    archive_sha256: str
    archive_bytes: int
    packed_sha256: str
    packed_bytes: int


class Generations:
    """The folder of generations."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders

    def folder(self, digest: Digest) -> Path:
        """Return where a generation is or would be."""
        match = _HEX.fullmatch(digest)
        if match is None:
            raise Refused("generation.bad-digest", f"cannot read the digest {digest!r:.80}")
        return self._folders.generations / match.group(1)

    def list(self) -> tuple[GenerationFact, ...]:
        """List what has a manifest; what cannot be read is listed as not staged."""
        facts = []
        for folder in sorted(self._folders.generations.iterdir()):
            digest = Digest(f"sha256:{folder.name}")
            if _HEX.fullmatch(digest) and (folder / MANIFEST).exists():
                manifest = _read_manifest(folder)
                facts.append(
                    GenerationFact(
                        digest,
                        manifest.pool if manifest else "",
                        _is_staged(folder),
                        _bytes_in(folder),
                        _read_seal(folder),
                    )
                )
        return tuple(facts)

    async def staged(self, digest: Digest) -> tuple[Manifest, Path]:
        """Return the manifest and the archive to restore from.

        Files that are not the ones that were verified are verified again. Raises
        Permanent("generation.not-staged" or "generation.damaged").
        """
        folder = self.folder(digest)
        if not (folder / MANIFEST).exists() or not (folder / STAGED).exists():
            raise Permanent(
                "generation.not-staged",
                f"cannot restore from {digest[:19]}: this host has not staged it",
                hint="it is sent and staged again when the pool is reconciled",
            )
        manifest = _read_manifest(folder)
        if manifest is None or not _is_staged(folder):
            await _in_thread(lambda stop: _verify(folder, digest, stop))
            manifest = _read_manifest(folder)
        if manifest is None:
            raise _damaged(digest, MANIFEST)
        return manifest, folder / ARCHIVE

    async def stage(self, digest: Digest, scratch: Path, report: Report) -> bool:
        """Verify received files and unpack them; False when that was done before.

        What is damaged is deleted, so that it is sent again: Permanent("generation.damaged").
        """
        folder = self.folder(digest)
        if _is_staged(folder):
            return False
        if not (folder / MANIFEST).exists():
            raise Permanent(
                "generation.not-received",
                f"cannot stage {digest[:19]}: its manifest has not arrived",
                hint="send it again",
            )
        data = (folder / MANIFEST).read_bytes()
        manifest = _read_manifest(folder)
        if "sha256:" + hashlib.sha256(data).hexdigest() != digest or manifest is None:
            (folder / MANIFEST).unlink()
            raise _damaged(digest, MANIFEST)
        await self._unpack(folder, digest, manifest, scratch, report)
        report(Progress("verifying"))
        await _in_thread(lambda stop: _verify(folder, digest, stop))
        return True

    async def _unpack(
        self, folder: Path, digest: Digest, manifest: Manifest, scratch: Path, report: Report
    ) -> None:
        packed, out = folder / PACKED, scratch / ARCHIVE
        report(Progress("verifying", 0, manifest.packed_bytes))
        if await _in_thread(lambda stop: sha256_of(packed, stop)) != manifest.packed_sha256:
            _delete(folder, PACKED)
            raise _damaged(digest, PACKED)
        self._folders.require([(folder, manifest.archive_bytes)], f"unpack {digest[:19]}")
        report(Progress("unpacking", 0, manifest.archive_bytes))
        argv = ["zstd", "--decompress", "--quiet", "--force", "-o", str(out), str(packed)]
        finished = await run(argv, deadline_seconds=_PACK_SECONDS)
        if finished.status != 0:
            raise _zstd_failed(f"unpack {digest[:19]}", finished.error_text)
        out.chmod(0o600)
        out.replace(folder / ARCHIVE)
        failpoint("generation.unpacked")

    async def admit(self, prepared: Path, digest: Digest) -> Path:
        """Move a prepared, complete folder to its place in one step, durably.

        Cancelled, it returns when nobody works on the folder any more.
        """
        target = self.folder(digest)
        if target.exists():  # the same content, from an earlier action
            shutil.rmtree(prepared)
            return target
        await finish(_synced(prepared))
        _put(prepared, target)
        return target

    def discard(self, digest: Digest) -> bool:
        """Delete a generation; False when it was absent. Its staging mark goes first."""
        folder = self.folder(digest)
        if not folder.exists():
            return False
        with contextlib.suppress(FileNotFoundError):
            (folder / STAGED).unlink()
        failpoint("generation.unmarked")
        shutil.rmtree(folder)
        return True


def seal(prepared: Path, manifest: Manifest) -> Digest:
    """Write manifest and staging mark beside an archive that was just digested."""
    write_whole(prepared / MANIFEST, manifest.canonical(), durable=True)
    _mark_staged(prepared)
    return manifest.digest()


async def pack(archive: Path, report: Report, *, level: int = REST_LEVEL) -> Packed:
    """Compress an archive beside itself, digesting it at the same time.

    zstd reads from a file that this process has open as well: how far it has come is that file's
    offset, and no byte passes through Python.
    """
    packed = archive.with_name(PACKED)
    size = _size(archive)
    digest = asyncio.ensure_future(_in_thread(lambda stop: sha256_of(archive, stop)))
    source = os.open(archive, os.O_RDONLY)
    news = asyncio.ensure_future(_report_offset(source, size, report))
    try:
        argv = [
            "zstd",
            "-T0",
            f"-{level}",
            "--quiet",
            "--force",
            f"--stream-size={size}",
            "-o",
            str(packed),
        ]
        finished = await run(argv, stdin_fd=source, deadline_seconds=_PACK_SECONDS)
        if finished.status != 0:
            raise _zstd_failed("compress the checkpoint", finished.error_text)
        packed.chmod(0o600)
        archive_sha256 = await digest
    finally:
        news.cancel()
        digest.cancel()
        await asyncio.wait({news, digest})
        os.close(source)
    report(Progress("sealing"))
    packed_sha256 = await _in_thread(lambda stop: sha256_of(packed, stop))
    return Packed(archive_sha256, size, packed_sha256, _size(packed))


async def digest_file(path: Path) -> str:
    """Return a file's sha256 in hex, read in a thread."""
    return await _in_thread(lambda stop: sha256_of(path, stop))


async def _report_offset(source: int, size: int, report: Report) -> None:
    while True:
        done = os.lseek(source, 0, os.SEEK_CUR)
        report(Progress("compressing", done, size))
        await asyncio.sleep(_REPORT_SECONDS)


def _size(path: Path) -> int:
    return path.stat().st_size


def _put(prepared: Path, target: Path) -> None:
    failpoint("generation.before_rename")
    prepared.rename(target)
    failpoint("generation.renamed")
    sync(target.parent)


async def _synced(folder: Path) -> None:
    """Put a folder on disk; a thread waits for the disk, as archives are large."""

    def sync_all() -> None:
        for file in folder.iterdir():
            sync(file)
        sync(folder)

    await asyncio.get_running_loop().run_in_executor(None, sync_all)


def _bytes_in(folder: Path) -> int:
    """Sum a folder's files; what is renamed or deleted meanwhile by other threads counts not."""
    size = 0
    with contextlib.suppress(FileNotFoundError):
        for file in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                size += _size(file)
    return size


def sha256_of(path: Path, stop: threading.Event) -> str:
    """Return a file's digest in hex; "" for an absent file. Ends early when `stop` is set."""
    digest = hashlib.sha256()
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            if stop.is_set():
                break
            digest.update(chunk)
        return digest.hexdigest()
    return ""


async def _in_thread(work: Callable[[threading.Event], T]) -> T:
    """Run blocking work in a thread that ends soon after the waiting is cancelled."""
    stop = threading.Event()
    try:
        return await asyncio.get_running_loop().run_in_executor(None, work, stop)
    finally:
        stop.set()


def _verify(folder: Path, digest: Digest, stop: threading.Event) -> None:
    """Compare the unpacked archive with the manifest and mark the folder staged, or delete it."""
    with contextlib.suppress(FileNotFoundError):
        (folder / STAGED).unlink()
    data = (folder / MANIFEST).read_bytes()
    if "sha256:" + hashlib.sha256(data).hexdigest() != digest:
        (folder / MANIFEST).unlink()
        raise _damaged(digest, MANIFEST)
    manifest = decode(Manifest, json.loads(data))
    found = sha256_of(folder / ARCHIVE, stop)
    if stop.is_set():
        return
    if found != manifest.archive_sha256:
        _delete(folder, ARCHIVE)
        raise _damaged(digest, ARCHIVE)
    sync(folder / ARCHIVE)
    failpoint("generation.before_mark")
    _mark_staged(folder)


def _delete(folder: Path, file: str) -> None:
    """Delete a damaged archive, and the manifest when there is no other form of it.

    What has a manifest is listed as held, and what is held is not fetched from another host.
    """
    (folder / file).unlink(missing_ok=True)
    if file == PACKED or not (folder / PACKED).exists():
        (folder / MANIFEST).unlink(missing_ok=True)


def _marks(folder: Path) -> dict[str, Any]:
    """Return what tells the verified archive from a changed one without reading it."""
    stat = (folder / ARCHIVE).stat()
    return {ARCHIVE: [stat.st_size, stat.st_mtime_ns, stat.st_ino]}


def _mark_staged(folder: Path) -> None:
    write_whole(folder / STAGED, json.dumps(_marks(folder)).encode(), durable=True)


def _is_staged(folder: Path) -> bool:
    """Whether both files are those that were verified; a manifest that came again is as good."""
    with contextlib.suppress(OSError, ValueError):
        is_marked = json.loads((folder / STAGED).read_bytes()) == _marks(folder)
        manifest = (folder / MANIFEST).read_bytes()
        return is_marked and hashlib.sha256(manifest).hexdigest() == folder.name
    return False


def _read_manifest(folder: Path) -> Optional[Manifest]:
    with contextlib.suppress(OSError, ValueError, Problem):
        return decode(Manifest, json.loads((folder / MANIFEST).read_bytes()))
    return None


def _read_seal(folder: Path) -> Optional[Seal]:
    with contextlib.suppress(OSError, ValueError, Problem):
        return decode(Seal, json.loads((folder / SEAL).read_bytes()))
    return None


def _damaged(digest: Digest, file: str) -> Permanent:
    return Permanent(
        "generation.damaged",
        f"cannot use {digest[:19]}: its file {file} is not what was sealed, and was deleted",
        hint="it is sent again from a host that has it whole; if that repeats, check the disk",
    )


def _zstd_failed(doing: str, text: str) -> Problem:
    if "no space left" in text.lower():
        return Temporary(
            "host.disk-full",
            f"cannot {doing}: the disk is full",
            hint="free some space under the agent's folder",
            detail=text,
        )
    return Permanent("archive.zstd-failed", f"cannot {doing}: zstd failed", detail=text)
