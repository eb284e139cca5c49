"""Events over HTTP: as a list, as a stream, resumed, and to readers that take too little."""

from __future__ import annotations

import asyncio
import contextlib
import json

import aiohttp
import pytest
from aiohttp import web

from poold.api import stream
from poold.api.app import PORTS
from poold.api.memory import MemoryFleet
from poold.api.memory_app import app_over
from poold.api.serve import serve_unix
from poold.api.views import Stream


@pytest.fixture
async def served(tmp_path):
    """Serve a fleet; give it, its listener and a session."""
    fleet = MemoryFleet()
    listener = await serve_unix(app_over(fleet), tmp_path / "s", 0o600)
    connector = aiohttp.UnixConnector(str(tmp_path / "s"))
    async with aiohttp.ClientSession("http://poold", connector=connector) as session:
        yield fleet, listener, session
    await listener.close()


async def read(response, count):
    """Return the next `count` messages of a stream, each as its fields."""
    found = []
    async with asyncio.timeout(10):
        while len(found) < count:
            block = (await response.content.readuntil(b"\n\n")).decode().strip()
            found.append(dict(line.split(": ", 1) for line in block.splitlines()))
    return found


def say(fleet, *texts, pool="hello"):
    for text in texts:
        fleet.events.add("host.up", text, pool=pool)


async def test_a_list_has_the_newest_or_the_next(served):
    """Without a stream events are a list: the newest, or those after an id, oldest first."""
    fleet, _, session = served
    say(fleet, "1", "2", "3")
    say(fleet, "4", pool="other")
    for query, texts in (("limit=2", "34"), ("after=1&limit=2", "23"), ("pool=hello", "123")):
        async with session.get(f"/v1/events?follow=0&{query}") as response:
            answer = await response.json()
        assert "".join(event["text"] for event in answer["events"]) == texts
        assert (answer["first"], answer["last"]) == (1, 4)


async def test_a_stream_gives_what_happens(served):
    """A stream begins with what happens next; each event carries its id."""
    fleet, _, session = served
    say(fleet, "before")
    async with session.get("/v1/events") as response:
        assert response.content_type == "text/event-stream"
        assert await read(response, 1) == [{"retry": "1000"}]
        say(fleet, "now", "then")
        messages = await read(response, 2)
    assert [message["id"] for message in messages] == ["2", "3"]
    assert [json.loads(message["data"])["text"] for message in messages] == ["now", "then"]


@pytest.mark.parametrize("how", ["header", "query"])
async def test_a_stream_is_resumed_without_loss_or_repetition(served, how):
    """With the last id seen, a new stream goes on right after it, however much was missed."""
    fleet, _, session = served
    say(fleet, *map(str, range(1, 251)))
    headers = {"Last-Event-ID": "7"} if how == "header" else {}
    path = "/v1/events?after=3" if how == "header" else "/v1/events?after=7"
    async with session.get(path, headers=headers) as response:
        messages = (await read(response, 244))[1:]
    assert [int(message["id"]) for message in messages] == list(range(8, 251))


async def test_a_stream_of_one_pool(served):
    """Other pools' events are left out, and do not make the stream spin or stop."""
    fleet, _, session = served
    async with session.get("/v1/events?pool=hello") as response:
        await read(response, 1)
        say(fleet, "no", pool="other")
        await asyncio.sleep(0)
        say(fleet, "yes")
        (message,) = await read(response, 1)
    assert json.loads(message["data"])["text"] == "yes"


@pytest.mark.parametrize("after", [1, 99])
async def test_a_gap_is_said(served, after):
    """An id that is too old, or of another store, is answered with a gap and all that is kept."""
    fleet, _, session = served
    fleet.events.keep = 2
    say(fleet, "1", "2", "3", "4")
    async with session.get(f"/v1/events?after={after}") as response:
        _, gap, third, fourth = await read(response, 4)
    assert gap["event"] == "gap"
    assert json.loads(gap["data"]) == {"after": after, "first": 3}
    assert (third["id"], fourth["id"]) == ("3", "4")


async def test_a_gap_is_said_where_nothing_is_kept(served):
    """All that followed the id that was seen is gone: the stream says so and goes on."""
    fleet, _, session = served
    say(fleet, "1", "2", "3", "4")
    fleet.events.keep = 0
    say(fleet, "5")
    async with session.get("/v1/events?after=2") as response:
        _, gap = await read(response, 2)
        fleet.events.keep = 9
        say(fleet, "6")
        (sixth,) = await read(response, 1)
    assert json.loads(gap["data"]) == {"after": 2, "first": 0}
    assert sixth["id"] == "6"


async def test_a_gap_is_said_to_who_falls_behind(served):
    """What was pruned before a slow reader came to it is told as well."""
    fleet, _, _ = served
    ports = app_over(fleet)[PORTS]
    say(fleet, "1", "2")
    async with contextlib.aclosing(stream.follow(ports, None, 1)) as chunks:
        first = [await anext(chunks) for _ in range(2)]
        say(fleet, "3", "4", "5", "6")
        fleet.events.keep = 1
        say(fleet, "7")
        gap, last = await anext(chunks), await anext(chunks)
    assert b"id: 2" in first[1]
    assert b'{"after":2,"first":7}' in gap
    assert b"id: 7" in last


async def test_a_silent_stream_shows_that_it_lives():
    """Where nothing happens a comment is sent now and then."""
    ports = app_over(MemoryFleet())[PORTS]
    async with contextlib.aclosing(
        stream.follow(ports, None, None, heartbeat_seconds=0.001)
    ) as chunks:
        assert [await anext(chunks) for _ in range(3)] == [
            b"retry: 1000\n\n", b": still here\n\n", b": still here\n\n",
        ]  # fmt: skip


async def test_streams_end_when_the_daemon_stops(served):
    """A stopping daemon ends its streams at once, not after a deadline."""
    _, listener, session = served
    async with session.get("/v1/events") as response:
        await read(response, 1)
        closing = asyncio.create_task(listener.close())
        async with asyncio.timeout(4):
            assert await response.content.read() == b""
            await closing


async def test_a_reader_that_takes_nothing_is_dropped(tmp_path):
    """A reader whose buffers are full is cut off, and nothing goes on for him."""
    ended, closed = asyncio.Event(), []

    async def endless():
        try:
            while True:
                yield b"x" * (1 << 16)
        finally:
            closed.append(True)

    async def handle(request):
        try:
            return await stream.send(request, Stream(endless(), "text/x"), write_seconds=0.05)
        finally:
            ended.set()

    app = web.Application()
    app.router.add_get("/", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "s")).start()
    _, writer = await asyncio.open_unix_connection(str(tmp_path / "s"), limit=1024)
    writer.write(b"GET / HTTP/1.1\r\nHost: poold\r\n\r\n")
    async with asyncio.timeout(10):
        await ended.wait()
    assert closed
    writer.transport.abort()
    await runner.cleanup()


@pytest.mark.parametrize("text", ["nine", "-1", "9" * 30])
async def test_a_bad_id_is_refused(served, text):
    """What is no event's id is refused, not taken for the beginning."""
    _, _, session = served
    async with session.get("/v1/events", headers={"Last-Event-ID": text}) as response:
        answer = await response.json()
    assert (response.status, answer["code"]) == (400, "request.bad-header")
