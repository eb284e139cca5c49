"""A real HAProxy for tests: an ordinary process, with its sockets in a folder of its own."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Protocol

import pytest

CONFIG = """\
global
  stats socket {folder}/admin.sock mode 600 level admin
  stats socket {folder}/user.sock mode 600 level user
  stats socket ipv4@127.0.0.1:{tcp_port} level admin
  server-state-file {folder}/state
defaults
  mode http
  timeout connect 1s
  timeout client 20s
  timeout server 20s
  timeout queue 5s
  retries 3
  option redispatch
  load-server-state-from-file global
frontend front
  bind unix@{folder}/front.sock
  use_backend slots if {{ path_beg /slots/ }}
  use_backend many if {{ path_beg /many/ }}
  use_backend static if {{ path_beg /static/ }}
  default_backend hello
backend hello
  balance roundrobin
  server spare 127.0.0.1:9 backup disabled
backend slots
  balance roundrobin
  server-template slot 2 127.0.0.1:9 check disabled
backend many
  balance roundrobin
  server-template slot 6 127.0.0.1:9 check disabled
backend static
  balance source
"""


def program() -> str:
    """Return HAProxy's path, or skip; CI may not skip."""
    found = shutil.which("haproxy")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI must test with HAProxy: .ci/setup --tools brings it", pytrace=False)
        pytest.skip("haproxy is not there; .ci/setup --tools brings it")
    return found


class Process:
    """A master and its worker."""

    def __init__(self, folder: Path, tcp_port: int) -> None:
        self.folder = folder
        self.tcp_port = tcp_port
        self._process: asyncio.subprocess.Process | None = None

    @property
    def admin(self) -> str:
        """The socket that may do everything."""
        return f"{self.folder}/admin.sock"

    @property
    def master(self) -> str:
        """The master's socket."""
        return f"{self.folder}/master.sock"

    async def start(self, text: str = "") -> None:
        """Run it, with another configuration where it is given, and return when it answers."""
        config = self.folder / "haproxy.cfg"
        config.write_text(text or CONFIG.format(folder=self.folder, tcp_port=self.tcp_port))
        log = (self.folder / "log").open("ab")
        with log:
            self._process = await asyncio.create_subprocess_exec(
                program(), "-W", "-S", self.master, "-f", str(config), stdout=log, stderr=log
            )
        await self.wait_up()

    async def wait_up(self, *, but_not: str = "") -> str:
        """Wait for a worker that answers, and is not the one of before; return its name."""
        async with asyncio.timeout(20):
            while True:
                with suppress(OSError):
                    answer = await raw(self.master, "@1 show info")
                    for line in answer.splitlines():
                        if line.startswith("Pid: ") and line != but_not:
                            return line
                await asyncio.sleep(0.02)

    async def reload(self) -> None:
        """Have the master begin anew with another worker."""
        before = await self.wait_up()
        assert self._process is not None
        self._process.send_signal(signal.SIGUSR2)
        await self.wait_up(but_not=before)

    async def stop(self) -> None:
        """End it, at once."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.terminate()
            await asyncio.wait_for(process.wait(), 10)
            # Its sockets stay; a worker that is ending must not answer for the next one.
            for socket in self.folder.glob("*.sock"):
                socket.unlink()


async def raw(path: str, line: str) -> str:
    """Ask a socket as an operator would."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(line.encode() + b"\n")
    writer.write_eof()
    try:
        return (await asyncio.wait_for(reader.read(), 5)).decode()
    finally:
        writer.close()
        await writer.wait_closed()


class Site:
    """A web server that says its name; /held waits until it is let go."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self.held = asyncio.Event()
        self.holding = asyncio.Event()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection, kept alive."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if b"/held" in head:
                    self.holding.set()
                    await self.held.wait()
                body = self.name.encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                await writer.drain()
        writer.close()


class Fronted(Protocol):
    """Something that answers at `front.sock` in its folder."""

    folder: Path


class Client:
    """Sends requests over one connection for as long as it is kept, and counts what failed."""

    def __init__(self, process: Fronted, path: str, *, posts: bool = True) -> None:
        self._socket = f"{process.folder}/front.sock"
        head = f"{path} HTTP/1.1\r\nHost: x\r\n"
        self._requests = [f"GET {head}\r\n"]
        self._requests += [f"POST {head}Content-Length: 0\r\n\r\n"] if posts else []
        self.answered: Counter[str] = Counter()
        self.failed: list[str] = []

    async def run(self, stop: asyncio.Event) -> None:
        """Send GET and POST in turn until `stop`."""
        while not stop.is_set():
            reader, writer = await asyncio.open_unix_connection(self._socket)
            try:
                while not stop.is_set() and await self._both(reader, writer):
                    pass
            except (OSError, asyncio.IncompleteReadError) as error:
                self.failed.append(repr(error))
            finally:
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()

    async def _both(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        for request in self._requests:
            writer.write(request.encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.partition("content-length: ")[2].split("\r\n")[0])
            body = (await reader.readexactly(length)).decode()
            if " 200 " in head.splitlines()[0]:
                self.answered[body] += 1
            else:
                self.failed.append(head.splitlines()[0])
            if "connection: close" in head:
                return False
        return True


@asynccontextmanager
async def site(name: str) -> AsyncIterator[Site]:
    """Serve until the end, on a port of loopback."""
    one, connections = Site(name), set[asyncio.Task[None]]()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        with suppress(asyncio.CancelledError):
            await one.answer(reader, writer)
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    one.port = server.sockets[0].getsockname()[1]
    try:
        yield one
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def get(process: Fronted, path: str = "/") -> tuple[int, str]:
    """Send one request through HAProxy; return the status, 0 where it hung up, and the body."""
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    reader, writer = await asyncio.open_unix_connection(f"{process.folder}/front.sock")
    try:
        writer.write(request.encode())
        answer = (await asyncio.wait_for(reader.read(), 20)).decode()
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split(" ")[1]) if head else 0, body
