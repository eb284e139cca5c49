"""Events as they happen (server-sent events), and as a list.

Flows in: where to begin. Flows out: text, as fast as the reader takes it: nothing is kept for him
here, the store is the buffer. A reader who takes too little is dropped and comes back with the id
that he saw last.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator

import msgspec
from aiohttp import web

from poold.api.messages import EventList
from poold.api.ports import Ports
from poold.api.views import Answer, Call, Stream
from poold.api.waiting import unless_stopping
from poold.errors import Refused
from poold.model.events import Event

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 15.0
WRITE_SECONDS = 20.0  # for a reader to take what is in the buffers (64 kB here, and the kernel's)
BATCH = 100
LAST_EVENT_ID = "Last-Event-ID"
_RECONNECT = b"retry: 1000\n\n"
_HEARTBEAT = b": still here\n\n"


async def events(ports: Ports, call: Call) -> Answer | Stream:
    """Follow what happens, or list it."""
    pool, after = call.query["pool"], _after(call)
    log_ = ports.store.events
    if call.query["follow"]:
        return Stream(follow(ports, pool, after), "text/event-stream")
    limit: int = call.query["limit"]
    if after is None:
        found = log_.newest(pool=pool, limit=limit)
    else:
        found = log_.after(after, pool=pool, limit=limit)
    first, last = log_.bounds()
    return Answer(EventList(events=found, first=first, last=last))


def _after(call: Call) -> int | None:
    """Return the id to go on after; what a reconnecting reader says goes before the address."""
    text = call.headers.get(LAST_EVENT_ID, "")
    if not text:
        number: int | None = call.query["after"]
        return number
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise Refused(
            "request.bad-header",
            f"cannot use {LAST_EVENT_ID}: {text[:40]!r}: it is no event's number",
            hint="send the id of the last event that was seen, or leave the header out",
        )
    return int(text)


async def follow(
    ports: Ports,
    pool: str | None,
    after: int | None,
    *,
    heartbeat_seconds: float = HEARTBEAT_SECONDS,
) -> AsyncGenerator[bytes, None]:
    """Give what happens after an id, or from now on; a comment where nothing does for so long."""
    log_ = ports.store.events
    first, last = log_.bounds()
    cursor = last if after is None else after
    yield _RECONNECT
    if cursor > last:  # of another store
        yield _gap(cursor, first)
        cursor = 0
    while not ports.stopping.is_set():
        first, last = log_.bounds()
        if 0 < cursor < (first - 1 if first else last):  # pruned meanwhile
            yield _gap(cursor, first)
            cursor = first - 1 if first else last
        found = log_.after(cursor, pool=pool, limit=BATCH)
        _, last = log_.bounds()
        cursor = found[-1].id if len(found) == BATCH else max(cursor, last)
        if found:
            yield b"".join(map(_encode, found))
        else:
            waiting = _news(ports, cursor)
            heard = await unless_stopping(waiting, ports.stopping, seconds=heartbeat_seconds)
            if not heard and not ports.stopping.is_set():
                yield _HEARTBEAT


def _gap(after: int, first: int) -> bytes:
    """Tell that events after one are gone; those from `first` on follow, 0: none."""
    return b"event: gap\ndata: %b\n\n" % msgspec.json.encode({"after": after, "first": first})


def _encode(event: Event) -> bytes:
    # No event name: a browser's EventSource gives those only to who knows them beforehand.
    return b"id: %d\ndata: %b\n\n" % (event.id, msgspec.json.encode(event))


async def _news(ports: Ports, cursor: int) -> bool:
    await ports.store.events.wait(cursor)
    return True


async def send(
    request: web.Request, stream: Stream, *, write_seconds: float = WRITE_SECONDS
) -> web.StreamResponse:
    """Send a stream to its end; a caller who does not take it is cut off."""
    response = web.StreamResponse(
        headers={"Content-Type": stream.content_type, "Cache-Control": "no-store"}
    )
    await response.prepare(request)
    async with contextlib.aclosing(stream.chunks) as chunks:
        async for chunk in chunks:
            try:
                async with asyncio.timeout(write_seconds):
                    await response.write(chunk)
            except TimeoutError:
                log.info("a reader of events is too slow", extra={"action": "reader_dropped"})
                if request.transport is not None:
                    request.transport.abort()
                break
    return response
