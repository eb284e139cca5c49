"""Waiting for news of a change: long polls."""

from __future__ import annotations

import asyncio

from poold.api.memory_app import app_over
from poold.api.serve import serve_unix
from poold.errors import Permanent


async def test_without_wait_the_change_is_answered_as_it_is(call, fleet):
    """Asking without `wait` never waits."""
    fleet.scale("hello", replicas=1, actor="test")
    reply = await call("GET", "/v1/changes/1")
    assert (reply.status, reply.json["state"]) == (200, "pending")


async def test_news_ends_a_wait_for_news(call, fleet):
    """With `after` the answer comes with the first update beyond it."""
    fleet.scale("hello", replicas=1, actor="test")
    waiting = asyncio.ensure_future(call("GET", "/v1/changes/1?wait=60&after=0"))
    await asyncio.wait({waiting}, timeout=0.05)
    assert not waiting.done()
    fleet.tell(1, "restoring hello1")
    assert (await waiting).json["progress"] == "restoring hello1"


async def test_old_news_is_answered_at_once(call, fleet):
    """News that came before the question does not get lost."""
    fleet.scale("hello", replicas=1, actor="test")
    fleet.tell(1, "restoring")
    reply = await call("GET", "/v1/changes/1?wait=60&after=0")
    assert reply.json["seq"] == 1


async def test_without_after_only_the_end_is_news(call, fleet):
    """Progress does not end a wait for the end; settling does."""
    fleet.scale("hello", replicas=1, actor="test")
    waiting = asyncio.ensure_future(call("GET", "/v1/changes/1?wait=60"))
    await asyncio.wait({waiting}, timeout=0.05)
    fleet.tell(1, "restoring")
    await asyncio.wait({waiting}, timeout=0.05)
    assert not waiting.done()
    fleet.settle(1)
    assert (await waiting).json["state"] == "settled"


async def test_an_ended_change_is_never_waited_for(call, fleet):
    """There will be no more news of a failed change, whatever `after` says."""
    fleet.scale("hello", replicas=1, actor="test")
    fleet.fail(1, Permanent("criu.live-connection", "cannot restore hello1"))
    reply = await call("GET", "/v1/changes/1?wait=60&after=99")
    assert reply.json["state"] == "failed"
    assert reply.json["problem"]["code"] == "criu.live-connection"


async def test_a_wait_ends_when_its_time_is_up(call, fleet):
    """Without news the change is answered as it is."""
    fleet.scale("hello", replicas=1, actor="test")
    reply = await call("GET", "/v1/changes/1?wait=0.05&after=0")
    assert (reply.status, reply.json["seq"]) == (200, 0)


async def test_the_daemons_stop_ends_waits(fleet, tmp_path):
    """A listener that closes answers those who wait, at once, with what is known."""
    path = tmp_path / "s"
    listener = await serve_unix(app_over(fleet), path, 0o600)
    fleet.scale("hello", replicas=1, actor="test")
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b"GET /v1/changes/1?wait=60 HTTP/1.0\r\nHost: poold\r\n\r\n")
    await asyncio.wait({asyncio.ensure_future(writer.drain())}, timeout=0.05)
    async with asyncio.timeout(4):  # less than the 5 s that requests under way are given
        await listener.close()
        answer = await reader.read()
    writer.close()
    assert b'"state":"pending"' in answer
