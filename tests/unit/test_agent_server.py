"""The agent as a program behind pipes, with a handler that does nothing real.

Every test runs on this Python, the ones that take `python` also on a real 3.9: what the oldest
hosts have.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import poold
from poold.agent.codec import encode
from poold.agent.frames import MAX_FRAME_BYTES, LostFramingError, read_frame, to_frame
from poold.agent.journal import Journal, read_boot_id
from poold.agent.messages import Examine, Logs, Remove
from poold.agent.runner import Runner
from poold.errors import Refused, Temporary
from poold.hosts.bundle import build_bundle

FAKE = Path(__file__).parents[1] / "contract" / "fake_agent.py"
SECONDS = 30.0
BOOT_ID = read_boot_id()
ADDRESS = {"action": "a1", "boot_id": BOOT_ID, "deadline_seconds": 1}


def oldest_python() -> str | None:
    """Find a Python 3.9 on PATH or among pyenv's versions."""
    roots = [Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))]
    found = [str(path) for root in roots for path in root.glob("versions/3.9*/bin/python3.9")]
    for candidate in [*found, shutil.which("python3.9")]:
        if (
            candidate
            and not subprocess.run([candidate, "-V"], check=False, capture_output=True).returncode
        ):
            return candidate
    return None


@pytest.fixture(params=["this", "3.9"])
def python(request):
    """Run the test with this Python and with 3.9."""
    if request.param == "this":
        return sys.executable
    found = oldest_python()
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("CI needs a Python 3.9 to test the agent with")
        pytest.skip("no Python 3.9 here")
    return found


class Agent:
    """A running agent program and both ends of its wire."""

    def __init__(self, process, root: Path) -> None:
        self.process = process
        self.root = root

    def write(self, data: bytes) -> None:
        self.process.stdin.write(data)

    def send(self, **frame) -> None:
        self.write(to_frame(frame))

    def ask(self, number, request, action="a1", boot_id=BOOT_ID, seconds=SECONDS) -> None:
        self.send(
            id=number, verb=request.verb, body=encode(request), action=action,
            boot_id=boot_id, deadline_seconds=seconds,
        )  # fmt: skip

    async def next(self):
        async with asyncio.timeout(SECONDS):
            return await read_frame(self.process.stdout)

    async def answer(self, number):
        while True:
            frame = await self.next()
            assert frame is not None, "the agent ended without an answer"
            if frame.get("id") == number and "progress" not in frame:
                return frame

    async def ended(self) -> tuple[int, str]:
        async with asyncio.timeout(SECONDS):
            said = await self.process.stderr.read()
            return await self.process.wait(), said.decode()

    def ran(self) -> list[str]:
        file = self.root / "ran.log"
        return file.read_text().splitlines() if file.exists() else []

    async def until(self, *lines: str) -> None:
        async with asyncio.timeout(SECONDS):
            while self.ran() != list(lines):  # noqa: ASYNC110 - the agent is another process
                await asyncio.sleep(0.01)

    def recorded(self, action="a1"):
        record = json.loads((self.root / f"run/actions/{action}.json").read_text())
        return record.get("state"), record.get("result") or record["problem"]["code"]


@asynccontextmanager
async def running(root: Path, python: str = sys.executable, program: Path = FAKE, **environment):
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        python, str(program), "serve", "--dir", str(root), "--run", str(root / "run"),
        stdin=pipe, stdout=pipe, stderr=pipe,
        env={**os.environ, "PYTHONPATH": str(Path(poold.__file__).parents[1]), **environment},
    )  # fmt: skip
    agent = Agent(process, root)
    try:
        agent.hello = (await agent.next())["hello"]
        yield agent
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_the_agent_greets_answers_and_ends(python, tmp_path):
    """Hello first, an answer to a question, and a clean end when the wire ends."""
    async with running(tmp_path, python) as agent:
        assert agent.hello["boot_id"] == BOOT_ID
        assert (agent.hello["pid"], agent.hello["hash"]) == (agent.process.pid, "")
        agent.ask(1, Logs("f", "hello"))
        assert await agent.answer(1) == {"id": 1, "result": {"lines": ["hello"]}}
        agent.process.stdin.close()
        assert await agent.ended() == (0, "")


async def test_the_agent_runs_from_its_bundle(python, tmp_path):
    """One zip file is all it takes; the hello says which one it is."""
    bundle = build_bundle({"__main__.py": FAKE.read_bytes()})
    program = tmp_path / "agent.pyz"
    program.write_bytes(bundle.content)
    async with running(tmp_path / "root", python, program, PYTHONPATH="") as agent:
        assert agent.hello["hash"] == bundle.sha256
        agent.ask(1, Remove("f", "quick"))
        assert (await agent.answer(1))["result"] == {"changed": True}


async def test_what_a_handler_prints_stays_out_of_the_wire(python, tmp_path):
    """Standard output belongs to frames: a stray print goes to standard error."""
    async with running(tmp_path, python, FAKE_AGENT_PRINTS="1") as agent:
        agent.ask(1, Logs("f", "x"))
        assert "result" in await agent.answer(1)
        agent.process.stdin.close()
        assert await agent.ended() == (0, "hello, this is no frame\n")


async def test_actions_run_side_by_side_with_progress(python, tmp_path):
    """A long action does not keep a short one waiting."""
    async with running(tmp_path, python) as agent:
        agent.ask(1, Remove("f", "wait"))
        await agent.until("a1 begin")
        agent.ask(2, Remove("f", "quick"), "a2")
        frames = [await agent.next() for _ in range(3)]
        assert frames[0] == {"id": 1, "progress": {"text": "half", "done": 1, "total": 2}}
        assert [frame["id"] for frame in frames] == [1, 2, 2]
        (tmp_path / "go-wait").touch()
        assert (await agent.answer(1))["result"] == {"changed": True}


async def test_a_ping_is_answered_at_once(tmp_path):
    """The heartbeat does not wait for actions."""
    async with running(tmp_path) as agent:
        agent.ask(1, Examine(0.0))
        agent.send(ping=7)
        assert await agent.next() == {"pong": 7}


async def test_an_action_survives_the_end_of_the_wire(python, tmp_path):
    """Connection lost: the action runs to its end, is recorded, and then the agent ends."""
    async with running(tmp_path, python) as agent:
        agent.ask(1, Remove("f", "wait"))
        agent.ask(2, Examine(0.0), "a2")
        await agent.until("a1 begin")
        agent.process.stdin.close()
        agent.process._transport.get_pipe_transport(1).close()  # nobody reads: EPIPE
        (tmp_path / "go-wait").touch()
        assert (await agent.ended())[0] == 0
        assert agent.recorded() == ("done", {"changed": True})
        assert agent.ran() == ["a1 begin", "a1 end"]


async def test_a_reader_that_went_away_does_not_hurt_an_action(tmp_path):
    """Progress and answers into a closed pipe are dropped; later questions are done too."""
    async with running(tmp_path) as agent:
        agent.process._transport.get_pipe_transport(1).close()
        agent.ask(1, Remove("f", "quick"))
        await agent.until("a1 begin", "a1 end")
        agent.ask(2, Remove("f", "quick"), "a2")
        await agent.until("a1 begin", "a1 end", "a2 begin", "a2 end")
        agent.process.stdin.close()
        assert await agent.ended() == (0, "")


async def test_another_agent_waits_for_the_action_of_the_first(python, tmp_path):
    """After a reconnect the new agent joins what the old one still does."""
    async with running(tmp_path, python) as old, running(tmp_path, python) as new:
        old.ask(1, Remove("f", "wait"))
        await old.until("a1 begin")
        old.process.stdin.close()
        new.ask(1, Remove("f", "wait"))
        (tmp_path / "go-wait").touch()
        assert (await new.answer(1))["result"] == {"changed": True}
        assert new.ran() == ["a1 begin", "a1 end"]


async def test_the_deadline_is_kept_by_the_agent(python, tmp_path):
    """Past it the action is cancelled, undone, and its outcome is on record."""
    async with running(tmp_path, python) as agent:
        agent.ask(1, Remove("f", "stubborn"), seconds=0.1)
        assert (await agent.answer(1))["problem"]["code"] == "action.deadline"
        assert agent.recorded() == ("done", "action.deadline")
        assert agent.ran() == ["a1 begin", "a1 undone"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_actions_and_the_agent(python, tmp_path, number):
    """Told to stop: actions are undone and recorded, and whoever waits is told."""
    async with running(tmp_path, python) as agent:
        agent.ask(1, Remove("f", "stubborn"))
        await agent.until("a1 begin")
        agent.process.send_signal(number)
        assert (await agent.answer(1))["problem"]["code"] == "action.interrupted"
        assert await agent.ended() == (0, "")
        assert agent.recorded() == ("done", "action.interrupted")
        assert agent.ran() == ["a1 begin", "a1 undone"]


async def test_a_hangup_is_ignored(tmp_path):
    """The end of the session that started it does not end the agent."""
    async with running(tmp_path) as agent:
        agent.process.send_signal(signal.SIGHUP)
        agent.ask(1, Logs("f", "x"))
        assert "result" in await agent.answer(1)


async def test_a_request_for_another_boot_is_not_done(tmp_path):
    """The host rebooted since it was asked: nothing is done."""
    async with running(tmp_path) as agent:
        agent.ask(1, Remove("f", "quick"), boot_id="before")
        assert (await agent.answer(1))["problem"]["code"] == "host.rebooted"
        assert agent.ran() == []


@pytest.mark.parametrize("body", [b"no json", b"[]", b"\xff", b'"x"', b"[" * 100_000])
async def test_a_frame_of_rubbish_is_answered_and_survived(tmp_path, body):
    """A well-framed mistake costs one problem, not the wire."""
    async with running(tmp_path) as agent:
        agent.write(struct.pack(">I", len(body)) + body)
        problem = await agent.next()
        assert (problem["id"], problem["problem"]["code"]) == (None, "wire.bad-message")
        agent.ask(1, Logs("f", "x"))
        assert "result" in await agent.answer(1)


@pytest.mark.parametrize(
    "frame",
    [
        {},
        {"verb": "logs", "body": {}},
        {**ADDRESS, "verb": "fly", "body": {}},
        {**ADDRESS, "verb": "logs", "body": {}},
        {**ADDRESS, "verb": "logs", "body": encode(Logs("f", "x")), "action": 7},
        {**ADDRESS, "verb": "logs", "body": encode(Logs("f", "x")), "deadline_seconds": "1"},
    ],
)
async def test_a_frame_that_is_no_request_is_refused(tmp_path, frame):
    """What is missing or wrong is told to the one who asked."""
    async with running(tmp_path) as agent:
        agent.send(id=1, **frame)
        answer = await agent.answer(1)
        assert (answer["problem"]["kind"], answer["problem"]["code"]) == (
            "refused",
            "wire.bad-message",
        )


@pytest.mark.parametrize(
    "rubbish", [b"GET / HTTP/1.1\r\n\r\n", b"\xff\xff\xff\xff", b"\0\0", b"\0\0\0\x09{"]
)
async def test_unframed_rubbish_ends_the_agent(python, tmp_path, rubbish):
    """When frames cannot be told any more the agent says so and ends; its action ends first."""
    async with running(tmp_path, python) as agent:
        agent.ask(1, Remove("f", "wait"))
        await agent.until("a1 begin")
        agent.write(rubbish)
        agent.process.stdin.close()
        (tmp_path / "go-wait").touch()
        code, said = await agent.ended()
        assert (code, said.startswith("cannot read a frame")) == (2, True)
        assert agent.recorded() == ("done", {"changed": True})


async def test_an_answer_too_large_is_a_problem(tmp_path):
    """An answer beyond a frame's size is refused, not sent in part."""
    async with running(tmp_path) as agent:
        agent.ask(1, Logs("f", "big"))
        assert (await agent.answer(1))["problem"]["code"] == "wire.too-large"


# -- without a process ----------------------------------------------------------------------------


def reader_of(data: bytes) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    return reader


async def test_frames_are_read_back():
    """What is framed is read, one after the other, to the end of the stream."""
    frames = [{"id": 1}, {"text": "é" * 70_000}, {}]
    reader = reader_of(b"".join(map(to_frame, frames)))
    assert [await read_frame(reader) for _ in range(4)] == [*frames, None]


async def test_a_frame_has_a_largest_size():
    """Nothing larger is written, and nothing larger is believed."""
    with pytest.raises(Refused):
        to_frame({"x": "x" * MAX_FRAME_BYTES})
    with pytest.raises(LostFramingError):
        await read_frame(reader_of(struct.pack(">I", MAX_FRAME_BYTES + 1)))


class Stuck:
    """A handler that does not let itself be cancelled until it is told to."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.free = asyncio.Event()

    async def handle(self, request, *, action, report):
        self.begun.set()
        while not self.free.is_set():
            try:
                await self.free.wait()
            except asyncio.CancelledError:
                continue
        return request.answer()


async def test_an_action_that_ends_after_its_deadline_is_recorded_as_it_ended(tmp_path):
    """A handler that finishes rather than undoes itself is believed: it is done."""
    handler = Stuck()
    runner = Runner(tmp_path, handler, Journal(tmp_path, "boot"), "boot")
    asked = asyncio.create_task(
        runner.run(
            Remove("f", "x"), action="a1", boot_id="boot", deadline_seconds=0.05,
            report=lambda _: None,
        )
    )  # fmt: skip
    await handler.begun.wait()
    asyncio.get_running_loop().call_later(0.15, handler.free.set)
    assert await asked == Remove.answer()
    record = json.loads((tmp_path / "actions/a1.json").read_text())
    assert (record["state"], record["result"]) == ("done", {"changed": True})


async def test_stopping_before_the_first_step_still_records(tmp_path):
    """An action cancelled before it began is on record as interrupted, and nothing stays open."""
    handler = Stuck()
    handler.free.set()
    runner = Runner(tmp_path, handler, Journal(tmp_path, "boot"), "boot")
    asked = asyncio.create_task(
        runner.run(
            Remove("f", "x"), action="a1", boot_id="boot", deadline_seconds=5,
            report=lambda _: None,
        )
    )  # fmt: skip
    await asyncio.sleep(0)
    await runner.stop()
    with pytest.raises(Temporary) as caught:
        await asked
    assert caught.value.code == "action.interrupted"
    assert Journal(tmp_path, "boot").running() == ()
