"""As much HTTP/1.1 as probes, warm-up and hooks need: one request, one connection.

Flows in: where, what, a time limit. Flows out: the status, when it came, and the beginning of the
body. The answer is read to its end before the connection is closed: a half-read one would leave a
dead socket inside the application, and a dead socket spoils a checkpoint.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional

DRAIN_SECONDS = 2.0  # for the rest of an answer, once its status is read
_KEEP_BYTES = 64 * 1024
_CHUNK_BYTES = 64 * 1024
_BODILESS = (204, 304)


class BadAnswer(Exception):
    """What came back is not HTTP."""


@dataclass(frozen=True)
class Target:
    """An address to connect to, and the name under which clients know it."""

    address: str
    port: int

    @property
    def text(self) -> str:
        """Return "address:port", bracketed for IPv6."""
        return (
            f"[{self.address}]:{self.port}"
            if ":" in self.address
            else f"{self.address}:{self.port}"
        )


@dataclass(frozen=True)
class Answer:
    """The status, the body's first 64 KiB, and the monotonic time at which the status came."""

    status: int
    body: bytes
    at: float


def request_bytes(
    target: Target,
    method: str,
    path: str,
    headers: Optional[Mapping[str, str]] = None,
    body: bytes = b"",
) -> bytes:
    """Return the request as it goes over the wire; the connection ends with the answer."""
    fields = {"Host": target.text, "User-Agent": "poold", "Accept": "*/*", "Connection": "close"}
    fields.update(headers or {})
    if body or method not in ("GET", "HEAD"):
        fields["Content-Length"] = str(len(body))
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1", "replace") + body


async def connect(target: Target, timeout_seconds: float) -> None:
    """Open a connection and close it; OSError or asyncio.TimeoutError when nobody accepts."""
    _, writer = await asyncio.wait_for(
        asyncio.open_connection(target.address, target.port), timeout_seconds
    )
    await _close(writer)


async def request(
    target: Target,
    method: str,
    path: str,
    *,
    timeout_seconds: float,
    headers: Optional[Mapping[str, str]] = None,
    body: bytes = b"",
) -> Answer:
    """Send one request; OSError, asyncio.TimeoutError or BadAnswer when there is no answer.

    An answer is an answer once its status is read, within the time limit. Its rest gets
    DRAIN_SECONDS more: a body that never ends is not waited for.
    """
    data = request_bytes(target, method, path, headers, body)
    reader, writer, status = await asyncio.wait_for(_ask(target, data), timeout_seconds)
    answered_at = time.monotonic()
    kept = bytearray()
    try:
        without_body = method == "HEAD" or status in _BODILESS
        with contextlib.suppress(asyncio.TimeoutError, OSError, ValueError):
            await asyncio.wait_for(_read_rest(reader, kept, without_body), DRAIN_SECONDS)
    finally:
        await _close(writer)
    return Answer(status, bytes(kept), answered_at)


async def _ask(
    target: Target, data: bytes
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, int]:
    """Send the request and read the status; the open connection is the caller's to close."""
    reader, writer = await asyncio.open_connection(target.address, target.port)
    try:
        writer.write(data)
        await writer.drain()
        return reader, writer, parse_status(await reader.readline())
    except BaseException:
        await _close(writer)
        raise


def parse_status(line: bytes) -> int:
    """Return the status of a status line; BadAnswer for anything else."""
    words = line.split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        raise BadAnswer(
            f"not an HTTP answer: {line[:60]!r}" if line else "closed without an answer"
        )
    return int(words[1])


async def _read_rest(reader: asyncio.StreamReader, kept: bytearray, without_body: bool) -> None:
    """Read headers and body; a server that keeps the connection open has said the length."""
    left: Optional[int] = 0 if without_body else None
    while (line := await reader.readline()).strip():
        name, _, value = line.partition(b":")
        if left is None and name.strip().lower() == b"content-length":
            left = int(value)
    while left is None or left > 0:
        chunk = await reader.read(_CHUNK_BYTES if left is None else min(left, _CHUNK_BYTES))
        if not chunk:
            return
        kept += chunk[: _KEEP_BYTES - len(kept)]
        left = None if left is None else left - len(chunk)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, asyncio.TimeoutError):
        await asyncio.wait_for(writer.wait_closed(), 1.0)
