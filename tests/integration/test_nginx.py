"""nginx with the upstream file of config/: a reload takes nothing from what is under way."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest
from haproxy_process import site

from poold.balancers import balancer_to
from poold.balancers.base import Balancer, Server
from poold.model.application import Application
from poold.model.balancing import BalancerName, Behind, Rendered
from poold.model.fleet import HostName, Pool, PoolName

TEMPLATE = Path(__file__).parents[2] / "config" / "nginx-upstream.conf"
EDGE = BalancerName("edge")
POOL = Pool(
    PoolName("hello"),
    Application(image="i", port=8080),
    (HostName("a"),),
    HostName("a"),
    "hello{n}",
    balancer=Behind(EDGE, drain_seconds=1),
)
CONFIG = """\
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  include {folder}/upstreams/*.conf;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://hello;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_next_upstream error timeout non_idempotent;
    }}
  }}
}}
"""


class Nginx:
    """A master that runs in a folder of its own, and how poold tells it."""

    def __init__(self, program: str, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self._command = (
            *(program, "-p", f"{folder}", "-e", f"{folder}/error.log"),
            *("-c", f"{folder}/nginx.conf"),
        )
        self._process: asyncio.subprocess.Process | None = None

    def told_by(self, *command: str) -> Balancer:
        """Return it as the daemon has it."""
        path = f"{self.folder}/upstreams/@pool@.conf"
        return balancer_to(Rendered(EDGE, "file", str(TEMPLATE), path, command))

    @property
    def front(self) -> Balancer:
        """As it is told while it runs."""
        return self.told_by(*self._command, "-s", "reload")

    async def start(self, servers: list[Server]) -> None:
        """Run it with a set that was rendered before, and return when it answers."""
        await self.told_by("true").publish(POOL, servers)
        self._process = await asyncio.create_subprocess_exec(*self._command)
        async with asyncio.timeout(20):
            while True:
                with suppress(OSError):
                    await self._get("/")
                    return
                await asyncio.sleep(0.02)

    async def get(self, path: str) -> tuple[int, str]:
        """Send a request, again where a worker that a reload ends hung up before it read it."""
        while True:
            with suppress(aiohttp.ServerDisconnectedError, ConnectionError):
                return await self._get(path)

    async def _get(self, path: str) -> tuple[int, str]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.port}{path}") as response,
        ):
            body = await response.text()
            return response.status, body if response.status == 200 else ""

    async def until(self, answer: tuple[int, str]) -> None:
        """Ask until that is the answer: a reload is over a moment after its command."""
        async with asyncio.timeout(20):
            while await self.get("/") != answer:
                pass

    async def stop(self) -> None:
        """End it, at once."""
        if self._process is not None:
            self._process.terminate()
            await asyncio.wait_for(self._process.wait(), 20)


@pytest.fixture
async def nginx() -> AsyncIterator[Nginx]:
    """Prepare one; its workers are another user."""
    program = shutil.which("nginx")
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI must test with nginx: .ci/setup --tools brings it", pytrace=False)
        pytest.skip("nginx is not there; .ci/setup --tools brings it")
    with tempfile.TemporaryDirectory(prefix="poold-nginx-") as name:
        one = _prepared(program, Path(name))
        try:
            yield one
        finally:
            await one.stop()


def _prepared(program: str, folder: Path) -> Nginx:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.chmod(0o755)
    (folder / "upstreams").mkdir()
    (folder / "nginx.conf").write_text(CONFIG.format(folder=folder, port=port))
    return Nginx(program, folder, port)


async def test_replicas_come_and_go_behind_it(nginx: Nginx) -> None:
    """Who leaves ends what it has, and is stopped when it left; an empty upstream says 502."""
    async with site("one") as one:
        first = Server(name="hello1", address="127.0.0.1", port=one.port)
        await nginx.start([first])
        front = nginx.front
        assert await nginx.get("/") == (200, "one")
        async with site("two") as two:
            second = Server(name="hello2", address="127.0.0.1", port=two.port)
            await front.publish(POOL, [first, second])
            await nginx.until((200, "two"))
            held = []
            async with asyncio.timeout(20):
                while not two.holding.is_set():
                    held.append(asyncio.create_task(nginx.get("/held")))
                    await asyncio.wait(held, timeout=0.05)
            shown = await front.publish(POOL, [first])
            assert shown.lists("127.0.0.1", two.port)
            one.held.set()
            two.held.set()
            assert {status for status, _ in await asyncio.gather(*held)} == {200}
            async with asyncio.timeout(20):
                while shown.lists("127.0.0.1", two.port):
                    await asyncio.wait([asyncio.create_task(nginx.get("/"))])
                    shown = await front.publish(POOL, [first])
        for _ in range(20):
            assert await nginx.get("/") == (200, "one")
        await front.publish(POOL, [])
        await nginx.until((502, ""))
