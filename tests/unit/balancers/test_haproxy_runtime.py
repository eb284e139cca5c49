"""A command line that misbehaves costs one bounded call and is said in the operator's words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from poold.balancers.haproxy.runtime import Runtime, dial
from poold.errors import Problem, Refused
from poold.model.balancing import BalancerName

Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def answering(path: Path, answer: Answer) -> AsyncIterator[None]:
    """Listen as HAProxy does."""
    tasks = set[asyncio.Task[None]]()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with suppress(ConnectionError, asyncio.CancelledError):
            await answer(await reader.readline(), writer)
        writer.close()

    server = await asyncio.start_unix_server(connected, path)
    try:
        yield
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def runtime(path: Path, *, timeout_seconds: float = 5, master: bool = False) -> Runtime:
    """Return the client."""
    return Runtime(
        BalancerName("front"), dial(str(path)), timeout_seconds=timeout_seconds, master=master
    )


async def code_of(asking: Awaitable[str]) -> str:
    """Return the code of the problem that a call ends in."""
    with pytest.raises(Problem) as caught:
        await asking
    assert caught.value.message.startswith("cannot ")
    return caught.value.code


async def test_an_answer_in_pieces_is_one(tmp_path: Path) -> None:
    """The end of the connection is the end of the answer; a master's worker is asked."""

    async def echo(line: bytes, writer: asyncio.StreamWriter) -> None:
        for byte in line:
            writer.write(bytes([byte]))
            await writer.drain()

    async with answering(tmp_path / "s", echo):
        assert await runtime(tmp_path / "s").ask("show info") == "show info\n"
        assert await runtime(tmp_path / "s", master=True).ask("show info") == "@1 show info\n"


async def test_silence_ends_with_the_time(tmp_path: Path) -> None:
    """Who never answers is not waited for."""

    async def hang(_: bytes, __: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with answering(tmp_path / "s", hang):
        asking = runtime(tmp_path / "s", timeout_seconds=0.05).ask("show info")
        assert await code_of(asking) == "balancer.timeout"


async def test_an_answer_without_end_is_cut(tmp_path: Path) -> None:
    """More than any list can be is rubbish, and not kept."""

    async def pour(_: bytes, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(bytes(1 << 20))
            await writer.drain()

    async with answering(tmp_path / "s", pour):
        asking = runtime(tmp_path / "s", timeout_seconds=60).ask("show info")
        assert await code_of(asking) == "balancer.rubbish"


async def test_who_hangs_up_is_unreachable(tmp_path: Path) -> None:
    """A connection without an answer says nothing about what was done."""

    async def hang_up(_: bytes, __: asyncio.StreamWriter) -> None:
        return

    async with answering(tmp_path / "s", hang_up):
        assert await code_of(runtime(tmp_path / "s").ask("show info")) == "balancer.unreachable"


async def test_a_socket_that_is_not_there(tmp_path: Path) -> None:
    """No file, and a file that nobody listens at, are the same to the operator."""
    assert await code_of(runtime(tmp_path / "s").ask("show info")) == "balancer.unreachable"
    async with answering(tmp_path / "s", lambda _, __: asyncio.sleep(0)):
        pass
    assert await code_of(runtime(tmp_path / "s").ask("show info")) == "balancer.unreachable"


async def test_a_socket_that_may_not_be_opened() -> None:
    """That needs a hand: HAProxy's configuration says who may."""

    async def refuse() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        raise PermissionError(13, "Permission denied")

    asking = Runtime(BalancerName("front"), refuse, timeout_seconds=1).ask("show info")
    assert await code_of(asking) == "balancer.denied"


@pytest.mark.parametrize("line", ["a;b", "a\nb", "a\\b", "a\0", "ä", "a\tb"])
async def test_what_would_be_two_commands_is_not_sent(tmp_path: Path, line: str) -> None:
    """The last line of defence against names that chain."""
    with pytest.raises(Refused):
        await runtime(tmp_path / "nobody").ask(line)
