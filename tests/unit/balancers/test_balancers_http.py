"""Caddy is compared and repaired, a webhook is signed, and what fails is said."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from poold.balancers.base import Server
from poold.balancers.http import CaddyTeller, HookTeller
from poold.errors import Permanent, Problem, Temporary
from poold.model.application import Application
from poold.model.balancing import BalancerName
from poold.model.fleet import HostName, Pool, PoolName

EDGE = BalancerName("edge")
POOL = Pool(
    PoolName("hello"), Application(image="i", port=1), (HostName("a"),), HostName("a"), "hello{n}"
)
ONE = Server(name="hello1", address="10.0.0.1", port=1)
SIX = Server(name="hello2", address="::1", port=2)


class Peer:
    """A server that keeps one JSON value as Caddy does, and whatever is posted to it."""

    def __init__(self) -> None:
        self.value: Any = None
        self.status = 200
        self.asked: list[str] = []
        self.posted: list[tuple[dict[str, str], bytes]] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(f"{request.method} {request.path}")
        if self.status != 200:
            return web.Response(status=self.status, text="not so")
        if request.method == "POST":
            self.posted.append((dict(request.headers), await request.read()))
        elif request.method in ("PUT", "PATCH"):
            self.value = await request.json()
        return web.json_response(self.value)


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    one, app = Peer(), web.Application()
    app.router.add_route("*", "/{tail:.*}", one.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    one.url = f"http://{host}:{port}"
    yield one
    await runner.cleanup()


async def test_caddy_is_compared_and_repaired(peer: Peer) -> None:
    """Nothing is written where it shows the set; what was changed by hand is put right."""
    caddy = CaddyTeller(name=EDGE, url=f"{peer.url}/", timeout_seconds=20)
    assert not await caddy.tell(POOL, (), anew=True)
    assert await caddy.tell(POOL, (ONE, SIX), anew=True)
    assert peer.value == [{"dial": "10.0.0.1:1"}, {"dial": "[::1]:2"}]
    assert not await caddy.tell(POOL, (ONE, SIX), anew=False)
    peer.value = [{"dial": "10.0.0.9:1"}]
    assert await caddy.tell(POOL, (ONE, SIX), anew=False)
    assert await caddy.tell(POOL, (), anew=True)
    assert peer.value == []
    path = "/id/hello/upstreams"
    assert [a for a in peer.asked if "GET" not in a] == [f"PUT {path}", *[f"PATCH {path}"] * 2]


async def test_a_webhook_is_signed(peer: Peer, tmp_path: Path) -> None:
    """Over time stamp and body, with a secret that is read when it is needed."""
    secret = tmp_path / "secret"
    hook = HookTeller(
        name=EDGE,
        url=f"{peer.url}/hook",
        secret_file=str(secret),
        timeout_seconds=20,
        clock=lambda: 1234.5,
    )
    with pytest.raises(Permanent, match="cannot read"):
        await hook.tell(POOL, (ONE,), anew=True)
    secret.write_text("sesame\n")
    assert await hook.tell(POOL, (ONE,), anew=True)
    assert not await hook.tell(POOL, (ONE,), anew=False)
    ((headers, body),) = peer.posted
    right = hmac.new(b"sesame", b"1234." + body, hashlib.sha256).hexdigest()
    assert headers["X-Poold-Signature"] == f"sha256={right}"
    assert headers["X-Poold-Timestamp"] == "1234"
    assert [s["name"] for s in json.loads(body)["servers"]] == ["hello1"]


@pytest.mark.parametrize(("status", "kind"), [(404, Permanent), (500, Temporary), (302, Temporary)])
async def test_what_is_not_taken_is_said(peer: Peer, status: int, kind: type[Problem]) -> None:
    """A redirect is no yes."""
    peer.status = status
    hook = HookTeller(name=EDGE, url=peer.url, secret_file=None, timeout_seconds=20)
    with pytest.raises(kind, match=f"answered with {status}"):
        await hook.tell(POOL, (ONE,), anew=True)


async def test_nobody_there_is_said() -> None:
    """A refused connection is Temporary."""
    caddy = CaddyTeller(name=EDGE, url="http://127.0.0.1:1", timeout_seconds=20)
    with pytest.raises(Temporary, match="cannot tell edge"):
        await caddy.tell(POOL, (ONE,), anew=True)
