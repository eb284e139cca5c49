"""Hooks and warm-up requests against a small server that remembers what it was sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from poold.agent import hooks
from poold.agent.engines.base import Executed
from poold.agent.http import Target
from poold.agent.messages import Progress
from poold.agent.probe import Reach
from poold.errors import Permanent, Problem, Temporary
from poold.model.application import ExecHook, HttpHook, WarmupRequest


@dataclass
class Application:
    """What was asked, and what is answered; without words of its own it echoes."""

    status: str = "204 Done"
    says: str = "why it is so"
    prints: str = "what it printed"
    keeps: int = 1000
    asked: list[tuple[str, bytes]] = field(default_factory=list)
    commands: list[tuple[tuple[str, ...], bytes]] = field(default_factory=list)
    exit_status: int = 0
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        body = await reader.readexactly(length)
        self.asked.append((head.split(b" HTTP")[0].decode(), body))
        said = self.says.encode() or body
        if self.status:
            said = f"HTTP/1.1 {self.status}\r\n\r\n".encode() + said
        writer.write(said)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def execute(self, command: tuple[str, ...], stdin: bytes, seconds: float) -> Executed:
        self.commands.append((command, stdin))
        if command[0] == "sleep":
            raise Temporary("command.timeout", f"cannot finish podman within {seconds:g} s")
        return Executed(self.exit_status, (self.prints or stdin.decode())[-self.keeps :])

    @property
    def reach(self) -> Reach:
        return Reach("hello1", 8080, {8080: Target("127.0.0.1", self.port)}, self.execute)


@pytest.fixture
async def app() -> AsyncIterator[Application]:
    found = Application()
    listening = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.port = listening.sockets[0].getsockname()[1]
    yield found
    listening.close()
    await listening.wait_closed()


async def test_after_restore_gets_name_pool_and_fresh_bytes(app: Application) -> None:
    """Two clones never get the same 32 bytes."""
    for _ in range(2):
        await hooks.call(HttpHook("/wake"), "after_restore", app.reach, "hello")
    (asked, first), (_, second) = app.asked
    assert asked == "POST /wake"
    told = json.loads(first)
    assert {key: told[key] for key in ("event", "replica", "pool")} == {
        "event": "after_restore", "replica": "hello1", "pool": "hello",
    }  # fmt: skip
    assert len(bytes.fromhex(told["seed"])) == 32
    assert told["seed"] != json.loads(second)["seed"]


async def test_before_checkpoint_gets_no_seed(app: Application) -> None:
    """What is frozen must not hold the bytes that make clones differ."""
    await hooks.call(ExecHook(("prepare",)), "before_checkpoint", app.reach, "hello")
    ((command, stdin),) = app.commands
    assert command == ("prepare",)
    assert json.loads(stdin) == {"event": "before_checkpoint", "replica": "hello1", "pool": "hello"}


async def test_a_hook_that_does_not_succeed_is_told_with_its_words(app: Application) -> None:
    """Any status but 2xx, and any exit status but 0, fails with what was said."""
    app.status = "302 Elsewhere"
    with pytest.raises(Problem) as caught:
        await hooks.call(HttpHook("/wake"), "after_restore", app.reach, "hello")
    assert (caught.value.code, caught.value.detail) == ("hook.failed", "why it is so")
    app.exit_status = 3
    with pytest.raises(Problem, match="exits with status 3") as caught:
        await hooks.call(ExecHook(("x",)), "after_restore", app.reach, "hello")
    assert caught.value.detail == "what it printed"


async def test_the_seed_is_in_no_error(app: Application) -> None:
    """A failing hook's problem travels and is logged; the bytes stay out, whole and in pieces."""
    app.says = app.prints = ""
    told = []
    app.status, app.exit_status = "500 Broken", 1
    for keeps in (1000, 40):
        app.keeps = keeps
        for hook in (HttpHook("/wake"), ExecHook(("x",))):
            with pytest.raises(Problem) as caught:
                await hooks.call(hook, "after_restore", app.reach, "hello")
            told.append(json.dumps(caught.value.to_json()))
    app.status = ""  # the echo comes where a status line should
    with pytest.raises(Problem, match="not an HTTP answer") as caught:
        await hooks.call(HttpHook("/wake"), "after_restore", app.reach, "p")
    told.append(json.dumps(caught.value.to_json()))
    seeds = [json.loads(body)["seed"] for _, body in (*app.asked, *app.commands)]
    assert len(seeds) == len(told) == 5
    pieces = {seed[at : at + 8] for seed in seeds for at in range(57)}
    assert not {piece for piece in pieces if any(piece in text for text in told)}
    assert '"hello\\", \\"seed\\": \\"\\u2026' in told[0], "the rest is told"


async def test_a_command_that_does_not_end_fails_as_an_answer_that_does_not_come(
    app: Application,
) -> None:
    """Trying again does not help a hook that hangs, whichever kind it is."""
    hook = ExecHook(("sleep", "9"), timeout_seconds=2)
    with pytest.raises(Permanent, match="hook after_restore of hello1: no end in 2 s") as caught:
        await hooks.call(hook, "after_restore", app.reach, "hello")
    assert caught.value.code == "hook.failed"


async def test_warm_up_requests_go_out_in_order_and_are_counted(app: Application) -> None:
    """Each is sent as often as it says; a client error warms as well as a success."""
    app.status = "404 Gone"
    news: list[Progress] = []
    wishes = (
        WarmupRequest("/a", repeat=2),
        WarmupRequest("/b", method="PUT", body="text", headers={"X-Warm": "yes"}),
    )
    await hooks.warm(wishes, app.reach, news.append)
    assert app.asked == [("GET /a", b""), ("GET /a", b""), ("PUT /b", b"text")]
    assert [progress.text for progress in news] == ["warming 1/3", "warming 2/3", "warming 3/3"]


async def test_a_warm_up_request_that_breaks_the_application_ends_the_build(
    app: Application,
) -> None:
    """A server error is not to be frozen."""
    app.status = "500 Broken"
    with pytest.raises(Problem) as caught:
        await hooks.warm((WarmupRequest("/a"),), app.reach, lambda _: None)
    assert (caught.value.code, caught.value.detail) == ("warmup.failed", "why it is so")
