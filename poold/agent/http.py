"""As much HTTP/1.1 as probes, warm-up and hooks need: one request, one connection.

Flows in: where, what, a time limit. Flows out: the status and the beginning of the body. The
connection is read to its end before it is closed: a half-read one would leave a dead socket inside
the application, and a dead socket spoils a checkpoint.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional

_KEEP_BYTES = 64 * 1024
_DRAIN_SECONDS = 2.0


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
    """The status, and the body's first 64 KiB."""

    status: int
    body: bytes


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
    """Send one request; OSError, asyncio.TimeoutError or BadAnswer when there is no answer."""
    data = request_bytes(target, method, path, headers, body)
    return await asyncio.wait_for(_exchange(target, data), timeout_seconds)


async def _exchange(target: Target, data: bytes) -> Answer:
    reader, writer = await asyncio.open_connection(target.address, target.port)
    try:
        writer.write(data)
        await writer.drain()
        status = parse_status(await reader.readline())
        # An answer is an answer once its status is read; a body that never ends is not waited for.
        rest = b""
        with contextlib.suppress(asyncio.TimeoutError, OSError):
            rest = await asyncio.wait_for(_read_rest(reader), _DRAIN_SECONDS)
        return Answer(status, rest.partition(b"\r\n\r\n")[2])
    finally:
        await _close(writer)


def parse_status(line: bytes) -> int:
    """Return the status of a status line; BadAnswer for anything else."""
    words = line.split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        raise BadAnswer(
            f"not an HTTP answer: {line[:60]!r}" if line else "closed without an answer"
        )
    return int(words[1])


async def _read_rest(reader: asyncio.StreamReader) -> bytes:
    kept = bytearray(b"\r\n")
    while chunk := await reader.read(65536):
        if len(kept) < _KEEP_BYTES:
            kept += chunk
    return bytes(kept)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, asyncio.TimeoutError):
        await asyncio.wait_for(writer.wait_closed(), 1.0)
