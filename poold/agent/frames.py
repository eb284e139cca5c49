"""The framing of the wire: four bytes of length, big endian, then that much JSON.

Flows in: bytes. Flows out: one JSON object a frame. It refuses to know what is in them.
Used by both ends.
"""

from __future__ import annotations

import asyncio
import json
import struct
from typing import Any, Optional, Protocol

from poold.errors import Refused

MAX_FRAME_BYTES = 16 * 1024 * 1024
_LENGTH = struct.Struct(">I")


class Source(Protocol):
    """What frames are read from: asyncio's stream reader, or asyncssh's."""

    async def readexactly(self, n: int, /) -> bytes:
        """Return exactly `n` bytes or raise asyncio.IncompleteReadError."""


class LostFramingError(Exception):
    """What was read is no frame: nothing that follows can be understood."""


def to_frame(value: dict[str, Any]) -> bytes:
    """Return a value as a frame; raises Refused("wire.too-large") when it exceeds the limit."""
    body = json.dumps(value, separators=(",", ":")).encode()
    if len(body) > MAX_FRAME_BYTES:
        raise Refused("wire.too-large", f"cannot send a message of {len(body)} bytes")
    return _LENGTH.pack(len(body)) + body


async def read_frame(source: Source) -> Optional[dict[str, Any]]:
    """Return the next frame, or None at the end of the stream.

    Raises Refused("wire.bad-message") for a frame that is not a JSON object: the next frame can
    still be read. Raises LostFramingError when the stream ends within a frame or a length is
    beyond the limit.
    """
    try:
        head = await source.readexactly(_LENGTH.size)
    except asyncio.IncompleteReadError as end:
        if not end.partial:
            return None
        raise LostFramingError("cannot read a frame: the stream ended within its length") from None
    (length,) = _LENGTH.unpack(head)
    if length > MAX_FRAME_BYTES:
        raise LostFramingError(f"cannot read a frame: {bytes(head)!r} is not the length of one")
    try:
        body = await source.readexactly(length)
    except asyncio.IncompleteReadError:
        raise LostFramingError("cannot read a frame: the stream ended within it") from None
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Refused("wire.bad-message", "cannot read a frame: it is not a JSON object")
    return value
