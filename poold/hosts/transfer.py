"""Sending a file from one host to another, through the daemon.

Flows in: two links and what the file is. Flows out: the file on the target, complete and
verified, and how far it is. It refuses to know what is in it. Hosts need not reach each other.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from poold.agent.messages import BlobFacts, Progress, StatBlob
from poold.errors import Permanent, Temporary
from poold.hosts.base import HostLink, OnProgress
from poold.model.fleet import ActionId

TRIES = 5  # without a single byte more; each byte that arrives makes the tries begin anew
_STAT_SECONDS = 30.0
_REPORT_SECONDS = 0.2
_CUT = ("blob.cut", "host.unreachable", "blob.busy")

log = logging.getLogger(__name__)


async def copy_blob(
    source: HostLink,
    target: HostLink,
    path: str,
    *,
    size: int,
    sha256: str,
    action: ActionId,
    progress: OnProgress | None = None,
) -> int:
    """Copy a file, resuming what has arrived before, and return the bytes that were sent.

    Complete on the target already: nothing is sent. A damaged resumed part is sent once more from
    the start. Idempotent; cancelled, the part stays and is resumed next time.
    """
    sent, failures, begun_anew, best = 0, 0, False, -1
    while True:
        what = f"sending the {_kind(path)} to {target.name}"
        counted = _Counted(source, path, 0, size, what, progress)
        try:
            offset = await _arrived(target, path, size, action)
            if offset is None:
                return sent
            failures = 0 if offset > best else failures
            best = max(best, offset)
            counted = _Counted(source, path, offset, size, what, progress)
            async with aclosing(counted.chunks()) as chunks:
                await target.write_blob(
                    path, size=size, sha256=sha256, offset=offset, chunks=chunks
                )
            return sent + counted.sent
        except Temporary as problem:
            sent, failures = sent + counted.sent, failures + 1
            if problem.code not in _CUT or failures >= TRIES:
                raise
            log.info("sending %s again: %s", path, problem, extra={"action": action})
            await source.wait_up(_STAT_SECONDS)
            await target.wait_up(_STAT_SECONDS)
        except Permanent as problem:
            if problem.code != "blob.damaged" or begun_anew or best <= 0:
                raise
            begun_anew, best = True, -1
            log.warning("sending %s from the start: %s", path, problem, extra={"action": action})


async def write_bytes(target: HostLink, path: str, data: bytes) -> None:
    """Write a small file, such as a manifest, complete or not at all."""

    async def chunks() -> AsyncIterator[bytes]:
        yield data

    digest = hashlib.sha256(data).hexdigest()
    await target.write_blob(path, size=len(data), sha256=digest, offset=0, chunks=chunks())


async def _arrived(target: HostLink, path: str, size: int, action: ActionId) -> int | None:
    """Return the byte from which to send, None when the file is complete."""
    facts: BlobFacts = await target.call(
        StatBlob(path), action=ActionId(f"{action}.stat"), deadline_seconds=_STAT_SECONDS
    )
    if facts.complete and facts.bytes == size:
        return None
    return min(facts.part_bytes, size) if not facts.complete else 0


def _kind(path: str) -> str:
    return "image" if path.startswith("images/") else "checkpoint"


class _Counted:
    """A file's chunks on their way, counted and reported at most five times a second."""

    def __init__(
        self,
        source: HostLink,
        path: str,
        offset: int,
        size: int,
        what: str,
        progress: OnProgress | None,
    ) -> None:
        self._source, self._path = source, path
        self._offset, self._size = offset, size
        self._what, self._progress = what, progress
        self._reported_at = 0.0
        self.sent = 0

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        self._report()
        if self._offset == self._size:
            return
        stream = self._source.read_blob(self._path, self._offset)
        try:
            async for chunk in stream:
                self.sent += len(chunk)
                yield chunk
                self._report()
        finally:
            if isinstance(stream, AsyncGenerator):
                await stream.aclose()

    def _report(self) -> None:
        done, now = self._offset + self.sent, time.monotonic()
        due = now - self._reported_at >= _REPORT_SECONDS or done == self._size
        if self._progress is not None and due:
            self._reported_at = now
            self._progress(Progress(self._what, done, self._size))
