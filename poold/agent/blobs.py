"""Files that travel: generations' archives and manifests, images. Resumable and verified.

Flows in: bytes for a path below the agent's folder. Flows out: bytes of one, or a file that is
complete. A file under its own name is whole, verified and on disk; what has arrived so far lies
beside it as `<name>.part`, under a lock while somebody writes it. It refuses to know what is in a
file, and any path outside `generations/` and `images/`.

Blocking calls: of the processes `receive` and `send`, or run in a thread (`in_thread`).
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import stat as modes
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Callable, Optional, TypeVar

from poold.agent.failpoints import failpoint
from poold.agent.messages import BlobFacts
from poold.agent.space import NOTHING, Reserve, require_space
from poold.errors import Permanent, Refused, Temporary

T = TypeVar("T")

FOLDERS = ("generations", "images")
CHUNK_BYTES = 1024 * 1024
LOCK_WAIT_SECONDS = 25.0  # longer than a receiver waits for bytes that will never come
_LITTLE_BYTES = 1 << 20  # a manifest: worthless without it is what came before
_WANTED = 1.0  # the access time of a part that another receiver waits for
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def stat(root: Path, path: str) -> BlobFacts:
    """Say how much of a file is there."""
    parts = _split(path)
    with _folder(root, parts, create=False) as folder:
        if folder is None:
            return BlobFacts(complete=False)
        whole = _size(folder, parts[-1])
        if whole is not None:
            return BlobFacts(complete=True, bytes=whole)
        return BlobFacts(complete=False, part_bytes=_size(folder, parts[-1] + ".part") or 0)


def read(root: Path, path: str, offset: int = 0) -> Generator[bytes, None, None]:
    """Yield a complete file's bytes from `offset`."""
    parts = _split(path)
    with _folder(root, parts, create=False) as folder:
        absent = Permanent("blob.absent", f"cannot send {path}: it is not there")
        if folder is None:
            raise absent
        try:
            descriptor = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
        except FileNotFoundError:
            raise absent from None
        except OSError as error:
            raise _translated(error, "send", path) from error
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        try:
            file.seek(offset)
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
        except OSError as error:
            raise _translated(error, "send", path) from error


class Receiver:
    """One file on its way in. `write` in order, then `finish`; `close` always.

    Opening waits for another receiver of the same file to end, LOCK_WAIT_SECONDS at most. Bytes
    beyond `offset` in the part are dropped. Closed without `finish`: the part stays. What would not
    leave `reserve` free is refused before anything is written: Temporary("host.disk-full").
    """

    def __init__(
        self,
        root: Path,
        path: str,
        *,
        size: int,
        sha256: str,
        offset: int,
        reserve: Reserve = NOTHING,
        lock_wait_seconds: float = LOCK_WAIT_SECONDS,
    ) -> None:
        self._path, self._size, self._sha256 = path, size, sha256
        self._name = _split(path)[-1]
        self._root = root
        self._written = offset
        self._digest = hashlib.sha256()
        if not 0 <= offset <= size:
            raise Refused("blob.bad-offset", f"cannot receive {path} from byte {offset} of {size}")
        if size - offset > _LITTLE_BYTES:
            require_space([(root, size - offset)], f"receive {path}", reserve)
        with _folder(root, _split(path), create=True) as folder:
            assert folder is not None  # noqa: S101 - it was created
            self._folder = os.dup(folder)
        self._part = -1
        try:
            self._part = _open_part(self._folder, self._name, path, lock_wait_seconds)
            self._resume(offset)
        except BaseException:
            self.close()
            raise

    def _resume(self, offset: int) -> None:
        have = os.fstat(self._part).st_size
        if have < offset:
            raise Refused(
                "blob.bad-offset",
                f"cannot receive {self._path} from byte {offset}: only {have} have arrived",
            )
        os.ftruncate(self._part, offset)
        position = 0
        while position < offset:  # the digest is of the whole, so what is there is read once
            chunk = os.pread(self._part, min(CHUNK_BYTES, offset - position), position)
            self._digest.update(chunk)
            position += len(chunk)

    @property
    def is_wanted(self) -> bool:
        """Whether another receiver waits for this part; one that gets no bytes should yield."""
        return os.fstat(self._part).st_atime == _WANTED

    @property
    def left(self) -> int:
        """The bytes that have not come yet."""
        return self._size - self._written

    def write(self, chunk: bytes) -> None:
        """Append a chunk; raises Temporary("host.disk-full") when it does not fit."""
        if len(chunk) > self.left:
            raise self._damaged(f"more than {self._size} bytes came")
        view = memoryview(chunk)
        try:
            while view:
                count = os.pwrite(self._part, view, self._written)
                self._digest.update(view[:count])
                self._written += count
                view = view[count:]
        except OSError as error:
            raise _translated(error, "receive", self._path) from error

    def finish(self) -> None:
        """Verify the whole, put it on disk and give it its name."""
        if self.left:
            raise Temporary(
                "blob.cut", f"cannot receive {self._path}: the last {self.left} bytes are missing"
            )
        if self._digest.hexdigest() != self._sha256:
            raise self._damaged("its digest is not the expected one")
        try:
            os.fsync(self._part)
            part = self._name + ".part"
            failpoint("blob.before_rename")
            os.rename(part, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            failpoint("blob.renamed")
            os.fsync(self._folder)
        except OSError as error:
            raise _translated(error, "receive", self._path) from error

    def close(self) -> None:
        """Let go of the part. Idempotent."""
        for descriptor in (self._part, self._folder):
            if descriptor >= 0:
                os.close(descriptor)
        self._part = self._folder = -1

    def _damaged(self, why: str) -> Permanent:
        os.unlink(self._name + ".part", dir_fd=self._folder)
        return Permanent(
            "blob.damaged",
            f"cannot receive {self._path}: {why}; what had arrived was deleted",
            hint="send it again; if that fails too, the file is damaged where it comes from",
        )


async def in_thread(work: Callable[..., T], *arguments: Any) -> T:
    """Run a blocking call in a thread; when cancelled, its end is awaited first.

    Otherwise descriptors could be closed under the thread's hands.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_seen)
        await asyncio.wait({task}, timeout=LOCK_WAIT_SECONDS)
        raise


def _seen(task: asyncio.Future[Any]) -> None:
    """Look at a failure that nobody waits for any more, so that asyncio does not complain."""
    if not task.cancelled():
        task.exception()


def _split(path: str) -> list[str]:
    """Return a path's names; refuses whatever could lead out of the two folders."""
    parts = path.split("/")
    bad = any(part in ("", ".", "..") or "\0" in part for part in parts)
    if bad or len(parts) < 2 or parts[0] not in FOLDERS or parts[-1].endswith(".part"):
        raise Refused(
            "blob.bad-path",
            f"cannot use the path {path!r:.200}: it must lie in {' or '.join(FOLDERS)}",
        )
    return parts


@contextmanager
def _folder(root: Path, parts: list[str], *, create: bool) -> Iterator[Optional[int]]:
    """Open the folder of a path step by step, following no link; None when it is absent."""
    descriptor = -1
    try:
        try:
            if create:
                root.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
            for part in parts[:-1]:
                step = _step(descriptor, part, create=create)
                os.close(descriptor)
                descriptor = step
        except FileNotFoundError:
            yield None
            return
        except OSError as error:
            raise _translated(error, "open the folder of", "/".join(parts)) from error
        yield descriptor
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _step(parent: int, name: str, *, create: bool) -> int:
    if create:
        with suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=parent)
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)


def _open_part(folder: int, name: str, path: str, wait_seconds: float) -> int:
    """Open and lock a part. A finished one loses its name: then the next one is opened."""
    give_up_at = time.monotonic() + wait_seconds
    while True:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        try:
            descriptor = os.open(name + ".part", flags, 0o600, dir_fd=folder)
        except OSError as error:
            raise _translated(error, "receive", path) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_named(descriptor, name + ".part", folder):
                os.utime(descriptor)
                return descriptor
        except BlockingIOError:
            if time.monotonic() >= give_up_at:
                os.close(descriptor)
                raise Temporary(
                    "blob.busy", f"cannot receive {path}: another transfer is writing it"
                ) from None
            os.utime(descriptor, (_WANTED, time.time()))
            time.sleep(0.05)  # flock has no wait with a deadline
        os.close(descriptor)


def _is_named(descriptor: int, name: str, folder: int) -> bool:
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(descriptor))


def _size(folder: int, name: str) -> Optional[int]:
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return found.st_size if modes.S_ISREG(found.st_mode) else None


def _translated(error: OSError, verb: str, path: str) -> Exception:
    if error.errno in _FULL:
        return Temporary(
            "host.disk-full",
            f"cannot {verb} {path}: {error.strerror}",
            hint="free some space on the host; what has arrived is kept and resumed",
        )
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return Refused("blob.bad-path", f"cannot {verb} {path}: a link or a file is in its way")
    return Permanent("blob.failed", f"cannot {verb} {path}: {error.strerror}")
