"""Repeated, reordered and competing calls: what a key and a precondition are worth."""

from __future__ import annotations

import asyncio
import logging
import os

import aiohttp
import pytest

from poold.api.memory import MemoryFleet
from poold.api.memory_app import app_over
from poold.api.serve import serve_unix
from poold.config import Config
from poold.control import Control
from poold.model.fleet import Host, HostName
from poold.store import Store

SCALE = "/v1/pools/hello/scale"


class Daemon:
    """The API over a real store and a real control; `restart` begins its next life."""

    def __init__(self, folder):
        self.folder = folder
        self.fleet = MemoryFleet()
        hosts = {HostName(name): Host(name=HostName(name)) for name in "ab"}
        self.config = Config(hosts=hosts, pools=self.fleet.config.pools)

    async def begin(self):
        self.store = Store(self.folder / "state")
        control = Control(store=self.store, world=self.fleet, config=lambda: self.config)
        app = app_over(self.fleet, control=control, store=self.store)
        self.listener = await serve_unix(app, self.folder / "s", 0o600)
        connector = aiohttp.UnixConnector(str(self.folder / "s"))
        self.session = aiohttp.ClientSession("http://poold", connector=connector)

    async def end(self):
        await self.session.close()
        await self.listener.close()
        self.store.close()

    async def restart(self):
        await self.end()
        await self.begin()

    async def call(self, method, path, body=None, **headers):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.request(method, path, json=body, headers=named) as response:
            return response.status, await response.json(content_type=None), response.headers


@pytest.fixture
async def daemon(tmp_path):
    daemon = Daemon(tmp_path)
    await daemon.begin()
    yield daemon
    await daemon.end()


async def test_the_same_key_is_the_same_change(daemon):
    """A repeated call is answered with the change that it made, and wishes nothing more."""
    first = await daemon.call("PUT", SCALE, {"delta": 1}, Idempotency_Key="k")
    again = await daemon.call("PUT", SCALE, {"delta": 1}, Idempotency_Key="k")
    assert (first[0], first[1]) == (again[0], again[1])
    assert again[2]["Location"] == first[2]["Location"]
    assert len(daemon.store.wishes("hello")) == 1


async def test_the_same_key_after_a_restart_is_the_same_change(daemon):
    """The daemon's next life knows the key as well."""
    _, change, _ = await daemon.call("PUT", SCALE, {"delta": 1}, Idempotency_Key="k")
    await daemon.restart()
    status, again, _ = await daemon.call("PUT", SCALE, {"delta": 1}, Idempotency_Key="k")
    assert (status, again["id"]) == (202, change["id"])
    assert len(daemon.store.wishes("hello")) == 1


async def test_a_repeated_call_shows_what_became_of_the_change(daemon):
    """Once the change has ended the repeated call is answered with its end."""
    _, change, _ = await daemon.call("PUT", SCALE, {"delta": 1}, Idempotency_Key="k")
    daemon.store.end_change(change["id"], "settled", progress="hello 1/1")
    status, again, _ = await daemon.call("PUT", SCALE, {"delta": 1}, Idempotency_Key="k")
    assert (status, again["state"]) == (200, "settled")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", SCALE, {"delta": 2}),
        ("PUT", SCALE, {"delta": 1, "reason": "another"}),
        ("POST", "/v1/pools/hello/replicas", {}),
        ("DELETE", "/v1/replicas/hello1", None),
    ],
)
async def test_a_key_of_another_request_is_refused(daemon, method, path, body):
    """A key stands for one request; with another one it is a mistake, and nothing is done."""
    await daemon.call("PUT", SCALE, {"delta": 1}, Idempotency_Key="k")
    status, problem, _ = await daemon.call(method, path, body, Idempotency_Key="k")
    assert (status, problem["code"]) == (409, "idempotency.key-reused")
    assert len(daemon.store.changes()) == len(daemon.store.calls.newest(limit=9)) == 1


async def test_a_refused_call_does_not_use_its_key_up(daemon):
    """What was refused may be asked again with the same key once it is possible."""
    status, _, _ = await daemon.call("DELETE", "/v1/replicas/hello1", Idempotency_Key="k")
    assert status == 404
    assert daemon.store.calls.newest(limit=9) == ()
    await daemon.call("PUT", SCALE, {"replicas": 1})
    status, change, _ = await daemon.call("DELETE", "/v1/replicas/hello1", Idempotency_Key="k")
    assert (status, change["kind"]) == (202, "remove")


async def test_ten_copies_at_once_wish_once(daemon):
    """Copies of one call that arrive together are one wish."""
    calls = (daemon.call("PUT", SCALE, {"delta": 1}, Idempotency_Key="k") for _ in range(10))
    answers = await asyncio.gather(*calls)
    assert {change["id"] for _, change, _ in answers} == {1}
    assert len(daemon.store.wishes("hello")) == 1


@pytest.mark.parametrize("key", ["", " ", "x" * 201, "caf\u00e9"])
async def test_a_bad_key_is_refused(daemon, key):
    """An empty, endless or unprintable key is no key."""
    status, problem, _ = await daemon.call("PUT", SCALE, {"delta": 1}, Idempotency_Key=key)
    assert (status, problem["code"]) == (400, "request.bad-header")


async def test_of_two_clients_that_decided_on_the_same_only_one_is_heard(daemon):
    """Two read the wish and both want to write: the second is told that it has changed."""
    _, _, one = await daemon.call("GET", SCALE)
    _, _, two = await daemon.call("GET", "/v1/pools/hello")
    assert one["ETag"] == two["ETag"]
    status, _, answered = await daemon.call("PUT", SCALE, {"replicas": 3}, If_Match=one["ETag"])
    assert status == 202
    status, problem, _ = await daemon.call("PUT", SCALE, {"replicas": 1}, If_Match=two["ETag"])
    assert (status, problem["code"]) == (412, "pool.changed")
    assert len(daemon.store.wishes("hello")) == 3
    status, _, _ = await daemon.call("PUT", SCALE, {"replicas": 1}, If_Match=answered["ETag"])
    assert status == 202


async def test_a_call_that_arrives_late_and_twice_does_no_harm(daemon):
    """A copy of an old call with its key and its tag comes after a newer wish: the newer stands."""
    _, _, seen = await daemon.call("GET", SCALE)
    old = {"Idempotency_Key": "old", "If_Match": seen["ETag"]}
    status, change, _ = await daemon.call("PUT", SCALE, {"replicas": 2}, **old)
    await daemon.call("PUT", SCALE, {"replicas": 5}, Idempotency_Key="new")
    status, again, _ = await daemon.call("PUT", SCALE, {"replicas": 2}, **old)
    assert (status, again["id"]) == (202, change["id"])
    assert len(daemon.store.wishes("hello")) == 5
    # The same wish under a key of its own, decided on what was seen then: it is too late.
    old["Idempotency_Key"] = "older"
    assert (await daemon.call("PUT", SCALE, {"replicas": 2}, **old))[0] == 412
    assert len(daemon.store.wishes("hello")) == 5


async def test_the_tag_guards_replicas_too(daemon):
    """Removing a replica minds the tag of its pool; a star is any."""
    await daemon.call("PUT", SCALE, {"replicas": 2})
    status, problem, _ = await daemon.call("DELETE", "/v1/replicas/hello1", If_Match='"0"')
    assert (status, problem["code"]) == (412, "pool.changed")
    assert (await daemon.call("DELETE", "/v1/replicas/hello1", If_Match="*"))[0] == 202
    assert (await daemon.call("DELETE", "/v1/replicas/hello9", If_Match='"0"'))[0] == 404


async def test_what_becomes_of_replicas_is_not_another_wish(daemon):
    """The tag is of the wish: news of replicas and changes leaves it as it is."""
    _, change, sent = await daemon.call("PUT", SCALE, {"replicas": 1})
    daemon.store.end_change(change["id"], "settled", progress="hello 1/1")
    _, _, seen = await daemon.call("GET", SCALE)
    assert seen["ETag"] == sent["ETag"]


async def test_accepted_calls_leave_a_trail_and_refused_ones_a_log_line(daemon, caplog):
    """Who, what, from where and why is kept of what was accepted; refusals are only logged."""
    await daemon.call("PUT", SCALE, {"replicas": 1, "reason": "noon"}, Idempotency_Key="secret")
    with caplog.at_level("INFO", logger="poold.api.once"):
        await daemon.call("PUT", SCALE, {"replicas": 99})
    assert "refused PUT /v1/pools/hello/scale by uid:" in caplog.text
    _, answer, _ = await daemon.call("GET", "/v1/audit?pool=hello")
    (call,) = answer["calls"]
    assert (call["actor"], call["origin"]) == (f"uid:{os.geteuid()}", f"unix pid:{os.getpid()}")
    assert (call["operation"], call["path"], call["change"]) == ("put_scale", SCALE, 1)
    assert call["request"] == {"replicas": 1, "reason": "noon"}
    assert call["reason"] == "noon"


@pytest.mark.parametrize(
    "number",
    ["x", "-1", "1.5", "9" * 19, "1" + "0" * 19, "0" * 20 + "9" * 30, "9" * 5000, "%D9%A3"],
)
async def test_what_cannot_be_a_changes_number_is_no_change(daemon, number):
    """Text, and numbers that no change can have, are answered like any change that is not there."""
    status, problem, _ = await daemon.call("GET", f"/v1/changes/{number}")
    assert (status, problem["code"]) == (404, "change.unknown")


async def test_what_is_not_durable_is_neither_logged_nor_told(daemon, caplog):
    """A trail that cannot be written undoes the wish; the loop and the log do not hear of it."""
    heard = []
    daemon.store.listen(heard.append)
    daemon.store._database._connection.execute("ALTER TABLE calls RENAME TO gone")
    with caplog.at_level(logging.INFO):
        status, _, _ = await daemon.call("PUT", SCALE, {"delta": 1})
    assert status >= 500
    assert (daemon.store.wishes(), daemon.store.changes(), heard) == ((), (), [])
    assert "accepted scale" not in caplog.text
    daemon.store._database._connection.execute("ALTER TABLE gone RENAME TO calls")
    with caplog.at_level(logging.INFO):
        status, _, _ = await daemon.call("PUT", SCALE, {"delta": 1})
    assert (status, heard) == (202, ["hello"])
    assert "accepted scale" in caplog.text
