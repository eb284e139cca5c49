"""Who may ask what over TCP, and what listening leaves on the file system."""

from __future__ import annotations

import asyncio
import socket
import stat

import aiohttp
import pytest

from poold.api.memory import MemoryFleet
from poold.api.memory_app import app_over
from poold.api.routes import ROUTES
from poold.api.serve import serve_tcp, serve_unix
from poold.errors import Permanent

PROTECTED = [route for route in ROUTES if not route.open]


@pytest.fixture
async def tcp(fleet):
    """Serve the API on a port of the loopback, with the token "sesame"."""
    listener = await serve_tcp(app_over(fleet, token="sesame"), "127.0.0.1", 0)
    host, port = listener.addresses[0]
    async with aiohttp.ClientSession(f"http://{host}:{port}") as session:
        yield session
    await listener.close()


def _path(route):
    path = route.path.replace("{pool}", "hello").replace("{host}", "a")
    return path.replace("{replica}", "x").replace("{change}", "1")


@pytest.mark.parametrize("route", PROTECTED, ids=lambda route: route.operation)
@pytest.mark.parametrize("header", [None, "Bearer wrong", "Bearer ", "Basic sesame", "sesame"])
async def test_tcp_needs_the_token(tcp, fleet, route, header):
    """Every route but the open ones answers 401 without the right token, and does nothing."""
    headers = {"Authorization": header} if header else {}
    async with tcp.request(route.method, _path(route), json={}, headers=headers) as response:
        problem = await response.json(content_type=None)
    assert (response.status, problem["code"]) == (401, "access.unauthorized")
    assert response.headers["WWW-Authenticate"].startswith("Bearer")
    assert fleet.changes() == ()


async def test_the_token_opens_tcp_and_names_the_actor(tcp, fleet):
    """With the token a wish over TCP is accepted; the actor says that it was the token."""
    headers = {"Authorization": "Bearer sesame"}
    async with tcp.put("/v1/pools/hello/scale", json={"replicas": 1}, headers=headers) as response:
        assert response.status == 202
    assert fleet.change(1).actor == "token"


@pytest.mark.parametrize("path", ["/v1/health", "/metrics"])
async def test_health_and_metrics_are_open(tcp, path):
    """Probes and Prometheus need no token."""
    async with tcp.get(path) as response:
        assert response.status == 200


async def test_without_a_token_tcp_stays_shut(fleet):
    """A daemon that has no token lets nobody in, not even with an empty one."""
    listener = await serve_tcp(app_over(fleet, token=None), "127.0.0.1", 0)
    host, port = listener.addresses[0]
    async with (
        aiohttp.ClientSession() as session,
        session.get(
            f"http://{host}:{port}/v1/pools", headers={"Authorization": "Bearer "}
        ) as response,
    ):
        problem = await response.json(content_type=None)
    await listener.close()
    assert response.status == 401
    assert "token file" in problem["hint"]


async def test_the_socket_has_its_mode_and_goes_away(tmp_path, fleet):
    """The socket file has the mode asked for, and closing removes it, twice without harm."""
    path = tmp_path / "s"
    listener = await serve_unix(app_over(fleet), path, 0o640)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    await listener.close()
    await listener.close()
    assert list(tmp_path.iterdir()) == []


async def test_a_stale_socket_is_replaced(tmp_path, fleet):
    """The socket of a daemon that was killed does not keep the next one from starting."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    listener = await serve_unix(app_over(fleet), path, 0o600)
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b"GET /v1/health HTTP/1.0\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.0 200")
    writer.close()
    await writer.wait_closed()
    await listener.close()


async def test_a_socket_that_answers_is_not_taken_away(tmp_path, fleet):
    """A second daemon on the same socket refuses to start and leaves the first one's alone."""
    path = tmp_path / "s"
    first = await serve_unix(app_over(fleet), path, 0o600)
    with pytest.raises(Permanent) as refused:
        await serve_unix(app_over(MemoryFleet()), path, 0o600)
    assert refused.value.code == "api.already-served"
    assert path.is_socket()
    await first.close()


async def test_another_file_is_not_overwritten(tmp_path, fleet):
    """A file that is no socket stays."""
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(Permanent) as refused:
        await serve_unix(app_over(fleet), path, 0o600)
    assert refused.value.code == "api.cannot-listen"
    assert path.read_text() == "precious"


async def test_a_successors_socket_is_not_removed(tmp_path, fleet):
    """Closing removes the own socket only, not one that has taken its place."""
    path = tmp_path / "s"
    first = await serve_unix(app_over(fleet), path, 0o600)
    path.rename(tmp_path / "old")
    second = await serve_unix(app_over(MemoryFleet()), path, 0o600)
    await first.close()
    assert path.is_socket()
    await second.close()


@pytest.mark.parametrize("path", ["missing/s", "x" * 120])
async def test_an_impossible_socket_is_a_clear_problem(tmp_path, fleet, path):
    """A folder that is missing or a path that is too long ends in a sentence."""
    with pytest.raises(Permanent, match="cannot listen on"):
        await serve_unix(app_over(fleet), tmp_path / path, 0o600)


async def test_a_port_that_is_taken_is_a_clear_problem(fleet):
    """A TCP port in use is said to be so."""
    first = await serve_tcp(app_over(fleet), "127.0.0.1", 0)
    port = first.addresses[0][1]
    with pytest.raises(Permanent, match=f"cannot listen on 127.0.0.1:{port}: Address already"):
        await serve_tcp(app_over(fleet), "127.0.0.1", port)
    await first.close()
