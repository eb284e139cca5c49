"""The daemon as a whole over hosts in memory: what it makes of SIGHUP, files and questions."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from poold.daemon import serve
from poold.errors import Permanent
from poold.systemd import Notifier

HOST = '[hosts.{0}]\naddress = "{0}"\nkey_file = "/dev/null"\nknown_hosts_file = "/dev/null"\n'
POOL = (
    '[pools.hello]\nimage = "hello:1"\nport = 8080\nreplicas = 1\nhosts = ["{0}"]\n'
    "readiness = {{ kind = 'tcp' }}\n"
)


@dataclass
class Daemon:
    """One life of a daemon over fake hosts, its file and its socket."""

    folder: Path
    hosts: dict
    head: str = ""
    reloads: int = 0
    session: aiohttp.ClientSession = field(init=False)

    def write(self, *tables):
        state, path = self.folder / "state", self.folder / "run" / "s"
        head = f'[daemon]\nfleet = "test"\nstate_dir = "{state}"\nsocket = "{path}"\n{self.head}'
        (self.folder / "poold.toml").write_text(head + "".join(tables))

    async def serve(self):
        await serve(
            self.folder / "poold.toml",
            notifier=Notifier(None),
            link=lambda host: self.hosts[host.name],
        )

    async def get(self, path):
        async with self.session.get(path) as response:
            return response.status, await response.json()

    async def until(self, path, found):
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    _, value = await self.get(path)
                    if found(value):
                        return value
                await asyncio.sleep(0.02)

    async def reload(self, *tables):
        """Reload by signal; returns the change that says what became of it."""
        self.write(*tables)
        os.kill(os.getpid(), signal.SIGHUP)
        self.reloads += 1
        kinds = lambda v: [c for c in v["changes"] if c["kind"] == "reload"]  # noqa: E731
        found = await self.until("/v1/changes", lambda v: len(kinds(v)) == self.reloads)
        return kinds(found)[0]


@pytest.fixture
async def make_daemon(make_fleet, tmp_path):
    """Make a daemon that runs over the hosts a and b, of which its file names some."""
    running = []

    async def make(*tables, head=""):
        made = Daemon(tmp_path, dict(make_fleet(hosts=("a", "b")).hosts), head)
        made.write(*tables)
        connector = aiohttp.UnixConnector(str(tmp_path / "run" / "s"))
        made.session = aiohttp.ClientSession("http://poold", connector=connector)
        task = asyncio.create_task(made.serve())
        running.append((made, task))
        await made.until("/v1/health", lambda v: task.done() or v["status"] == "ok")
        return made

    yield make
    for made, task in running:
        await made.session.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            asyncio.get_running_loop().remove_signal_handler(number)


async def test_a_reload_reaches_new_hosts_as_the_daemon_reaches_its_first(make_daemon):
    """The way to hosts that was given to the daemon is the reload's as well."""
    daemon = await make_daemon(HOST.format("a"))
    assert (await daemon.reload(HOST.format("a"), HOST.format("b")))["state"] == "settled"
    up = lambda value: [h["name"] for h in value["hosts"] if h["state"] == "up"]  # noqa: E731
    await daemon.until("/v1/hosts", lambda value: up(value) == ["a", "b"])


async def test_the_output_of_a_replica_whose_host_left_is_refused_with_the_way_out(make_daemon):
    """It is still shown, so it is asked for: the answer says why it cannot be read."""
    daemon = await make_daemon(HOST.format("a"), HOST.format("b"), POOL.format("b"))
    await daemon.until("/v1/replicas", lambda v: [r["state"] for r in v["replicas"]] == ["ready"])
    await daemon.reload(HOST.format("a"))
    status, problem = await daemon.get("/v1/replicas/hello1/logs")
    assert (status, problem["code"]) == (404, "host.unknown")
    assert "its host b left the configuration" in problem["detail"]
    assert "poold host remove b" in problem["hint"]


async def test_a_token_that_is_no_text_leaves_the_old_configuration_running(make_daemon, tmp_path):
    """SIGHUP with such a file is refused like any other mistake; the daemon lives on."""
    token = tmp_path / "token"
    token.write_text("secret\n")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    head = f'listen = "127.0.0.1:{port}"\ntoken_file = "{token}"\n'
    daemon = await make_daemon(HOST.format("a"), head=head)
    token.write_bytes(b"\xff\xfe\x00")
    change = await daemon.reload(HOST.format("a"), HOST.format("b"))
    assert (change["state"], change["problem"]["code"]) == ("failed", "daemon.no-token")
    assert change["problem"]["message"].startswith("cannot read the token file")
    _, value = await daemon.get("/v1/hosts")
    assert [host["name"] for host in value["hosts"]] == ["a"]


async def test_the_examination_covers_the_daemons_own_machine(make_daemon):
    """GET /v1/doctor finds the same of it as `poold doctor --config` does."""
    daemon = await make_daemon(HOST.format("a"))
    daemon.hosts["a"].up = False
    status, value = await daemon.get("/v1/doctor")
    assert (status, list(value["hosts"])) == (200, ["daemon", "a"])
    found = {one["check"]: one["level"] for one in value["hosts"]["daemon"]}
    assert (found["config"], found["state"], found["socket"]) == ("ok", "ok", "ok")


async def test_a_socket_whose_folder_cannot_be_made_is_a_clear_problem(make_fleet, tmp_path):
    """A file in the way is said, with the way out."""
    daemon = Daemon(tmp_path, make_fleet().hosts)
    (tmp_path / "run").write_text("")
    daemon.write(HOST.format("a"))
    with pytest.raises(Permanent, match="cannot make the folder of the socket") as problem:
        await daemon.serve()
    assert problem.value.code == "api.cannot-listen"
