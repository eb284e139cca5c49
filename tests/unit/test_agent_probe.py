"""Readiness probes against real servers on loopback that come up late, lie or say nothing."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from poold.agent import http, probe
from poold.agent.engines.base import Executed
from poold.agent.http import Target
from poold.agent.probe import Reach
from poold.errors import Permanent, Problem, Refused, Temporary
from poold.model.application import ExecProbe, HttpProbe, Probe, TcpProbe

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def never() -> None:
    """Be a container that lives."""
    await asyncio.Event().wait()


async def no_command(command: tuple[str, ...], stdin: bytes, seconds: float) -> Executed:
    raise AssertionError("no command was to be run")


def reach(port: int, execute: probe.Execute = no_command) -> Reach:
    return Reach("hello1", 8080, {8080: Target("127.0.0.1", port)}, execute)


@contextlib.asynccontextmanager
async def server(*answers: bytes) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Serve these answers, the last one again and again; yields the port and what was asked."""
    left, asked = list(answers), list[bytes]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(left.pop(0) if len(left) > 1 else left[0])
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1], asked
    finally:
        listening.close()
        await listening.wait_closed()


async def ready(asked: Probe, at: Reach) -> float:
    return await probe.until_ready(asked, at, never)


async def test_only_200_to_399_is_ready() -> None:
    """Errors are asked again; the first good status ends it."""
    async with server(
        b"HTTP/1.1 503 Not yet\r\n\r\n",
        b"HTTP/1.1 404 Not yet\r\n\r\n",
        b"HTTP/1.1 302 Found\r\n\r\n",
    ) as (port, asked):
        began = time.monotonic()
        assert await ready(HttpProbe(path="/ready?now=1"), reach(port)) >= began
    assert len(asked) == 3
    assert asked[0].startswith(b"GET /ready?now=1 HTTP/1.1\r\nHost: 127.0.0.1:")


async def test_a_server_that_comes_late_is_waited_for() -> None:
    """A refused connection is asked again until somebody listens."""
    async with server(b"HTTP/1.1 200 OK\r\n\r\n") as (port, _):
        pass
    waiting = asyncio.ensure_future(ready(TcpProbe(), reach(port)))
    listening = None
    try:
        await asyncio.sleep(0)
        assert not waiting.done()

        async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()
            await writer.wait_closed()

        listening = await asyncio.start_server(hang_up, "127.0.0.1", port)
        await asyncio.wait_for(waiting, 10)
    finally:
        waiting.cancel()
        if listening is not None:
            listening.close()
            await listening.wait_closed()


@contextlib.asynccontextmanager
async def keeping_open(answer: bytes) -> AsyncIterator[Target]:
    """Serve an answer and keep the connection, as a server does that heeds no "close"."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        await reader.read()
        writer.close()
        await writer.wait_closed()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield Target("127.0.0.1", listening.sockets[0].getsockname()[1])
    finally:
        listening.close()
        await listening.wait_closed()


@pytest.mark.parametrize(
    ("method", "answer", "body"),
    [
        ("GET", b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine", b"fine"),
        ("POST", b"HTTP/1.1 204 Done\r\n\r\n", b""),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", b""),
    ],
)
async def test_an_answer_ends_where_it_says(method: str, answer: bytes, body: bytes) -> None:
    """A connection that is kept open is not waited for."""
    async with keeping_open(answer) as target:
        began = time.monotonic()
        got = await http.request(target, method, "/", timeout_seconds=10)
        assert time.monotonic() - began < http.DRAIN_SECONDS / 2
    assert got.body == body


async def test_the_status_is_the_answer_whatever_follows() -> None:
    """Its rest gets a time of its own, the success is dated before it, what came is kept."""
    async with keeping_open(b"HTTP/1.1 200 OK\r\n\r\nhalf") as target:
        began = time.monotonic()
        probing = HttpProbe(timeout_seconds=1.0, deadline_seconds=0.5)
        got, ready_at = await asyncio.gather(
            http.request(target, "GET", "/", timeout_seconds=1.0),
            ready(probing, reach(target.port)),
        )
    assert got.body == b"half"
    assert max(got.at, ready_at) - began < 1.0


@pytest.mark.parametrize(
    ("answer", "told"),
    [(b"HTTP/1.1 500 Broken\r\n\r\n", "HTTP status 500"), (b"SSH-2.0-x\r\n", "not an HTTP answer")],
)
async def test_the_deadline_tells_what_was_answered_last(answer: bytes, told: str) -> None:
    """The operator sees what was asked for and what came instead."""
    async with server(answer) as (port, _):
        with pytest.raises(Temporary) as caught:
            await ready(HttpProbe(path="/x", deadline_seconds=0.05), reach(port))
    assert caught.value.code == "probe.deadline"
    assert "GET /x on port 8080" in caught.value.message
    assert told in caught.value.message


async def test_a_server_that_accepts_and_says_nothing_is_not_ready() -> None:
    """Each attempt has a time limit of its own."""

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()

    listening = await asyncio.start_server(mute, "127.0.0.1", 0)
    try:
        asked = HttpProbe(timeout_seconds=0.05, deadline_seconds=0.08)
        with pytest.raises(Temporary, match=r"no answer within 0\.05 s"):
            await ready(asked, reach(listening.sockets[0].getsockname()[1]))
    finally:
        listening.close()
        await listening.wait_closed()


async def test_a_container_that_ended_is_not_probed_on() -> None:
    """Death ends the waiting at once, long before the deadline."""

    async def died() -> None:
        return

    with pytest.raises(Permanent) as caught:
        await probe.until_ready(TcpProbe(deadline_seconds=3600), reach(1), died)
    assert caught.value.code == "replica.exited"


async def test_exec_probes_ask_inside_until_the_status_is_0() -> None:
    """The command's status decides; one that takes too long is asked again."""
    commands = []

    async def execute(command: tuple[str, ...], stdin: bytes, seconds: float) -> Executed:
        commands.append(command)
        if len(commands) == 1:
            raise Temporary("command.timeout", "cannot finish in time")
        return Executed(0 if len(commands) == 3 else 1, "not yet")

    await ready(ExecProbe(("check", "me"), interval_ms=1), reach(1, execute))
    assert commands == [("check", "me")] * 3


async def test_a_broken_engine_is_not_taken_for_an_application_not_ready() -> None:
    """Another problem than a time limit ends the probing."""

    async def execute(command: tuple[str, ...], stdin: bytes, seconds: float) -> Executed:
        raise Permanent("command.not-found", "cannot run podman")

    with pytest.raises(Problem) as caught:
        await ready(ExecProbe(("check",)), reach(1, execute))
    assert caught.value.code == "command.not-found"


async def test_a_port_that_is_not_published_is_refused() -> None:
    """The pool's mistake is said at once, with the key that mends it."""
    with pytest.raises(Refused, match="extra_ports"):
        await ready(HttpProbe(port=9990), reach(1))


async def test_cancelling_leaves_no_task() -> None:
    """Probing ends with the action that asked for it."""
    before = asyncio.all_tasks()
    waiting = asyncio.ensure_future(ready(TcpProbe(deadline_seconds=3600), reach(1)))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert asyncio.all_tasks() == before
