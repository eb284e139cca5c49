"""A daemon's API over a fleet in memory in a thread of its own, and the command line against it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from poold.api.memory import MemoryFleet
from poold.api.memory_app import app_over
from poold.api.serve import serve_tcp, serve_unix
from poold.cli.app import run
from poold.cli.session import Session

ROOT = Path(__file__).parents[3]


@dataclass
class Daemon:
    """A served fleet; `do` runs something in its thread."""

    fleet: MemoryFleet
    socket: Path
    tcp_port: int
    loop: asyncio.AbstractEventLoop

    def do(self, function: Callable[..., object], *arguments: object) -> object:
        async def called() -> object:
            return function(*arguments)

        return asyncio.run_coroutine_threadsafe(called(), self.loop).result(10)


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    started = threading.Event()
    box: list[Daemon] = []
    stop = asyncio.Event()

    async def serve() -> None:
        fleet = MemoryFleet(pace_seconds=0.01)
        app = app_over(fleet, token="sesame")
        unix = await serve_unix(app, tmp_path / "s", 0o600)
        tcp = await serve_tcp(app, "127.0.0.1", 0)
        port = tcp.addresses[0][1]  # type: ignore[index]
        box.append(Daemon(fleet, tmp_path / "s", port, asyncio.get_running_loop()))
        started.set()
        await stop.wait()
        await unix.close()
        await tcp.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(10)
    yield box[0]
    box[0].loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    assert not thread.is_alive()


@pytest.fixture
def poold(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ran]:
    """Run a command line in this process, against the daemon."""
    for name in ("POOLD_URL", "POOLD_CONFIG", "POOLD_TOKEN_FILE", "POOLD_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("POOLD_SOCKET", str(daemon.socket))

    def call(*arguments: str, session: Session | None = None) -> Ran:
        capsys.readouterr()
        code = run(arguments, session)
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return call


@pytest.fixture
def program(daemon: Daemon) -> Callable[..., subprocess.Popen[str]]:
    """Start a command line as a program of its own, against the daemon."""

    def start(*arguments: str, python: tuple[str, ...] = (), **options: object):  # type: ignore[no-untyped-def]
        environment = {
            **os.environ,
            "POOLD_SOCKET": str(daemon.socket),
            "PYTHONPATH": str(ROOT),
            "NO_COLOR": "1",
        }
        settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen(
            [sys.executable, *python, "-m", "poold", *arguments],
            env=environment,
            text=True,
            stdin=subprocess.DEVNULL,
            **settings,
        )

    return start
