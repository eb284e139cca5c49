"""Two clients, repeated and late calls of every changing route; the store and control are real."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, replace

import aiohttp
import pytest

from poold.agent.messages import Sealed
from poold.api.memory import MemoryFleet
from poold.api.memory_app import app_over
from poold.api.routes import ROUTES
from poold.api.serve import serve_unix
from poold.config import Config
from poold.control import Control
from poold.cordon import Cordon
from poold.model.fleet import Host, HostName, HostStatus, Manifest
from poold.rollout import Rollout
from poold.store import Assignment, Store


@dataclass(frozen=True)
class Case:
    """One call that a prepared fleet accepts, and its body."""

    operation: str
    path: str
    body: dict[str, object] | None = None

    @property
    def method(self):
        return next(route.method for route in ROUTES if route.operation == self.operation)

    def saying(self, reason):
        """Return path and body of the same wish for another reason."""
        if self.body is None:
            return f"{self.path}?reason={reason}", None
        said = "Message" if self.operation == "scale_job" else "reason"
        return self.path, {**self.body, said: reason}


# hello1 is ready on a and of generation 2, b is out of reach, c left with a replica on it.
CASES = [
    Case("put_scale", "/v1/pools/hello/scale", {"replicas": 3}),
    Case("scale_job", "/v1/job/hello/scale", {"Count": 3}),
    Case("restore", "/v1/pools/hello/replicas", {"name": "hello5"}),
    Case("checkpoint", "/v1/pools/hello/checkpoints", {}),
    Case("import_archive", "/v1/pools/hello/imports", {"file": "/root/hello.tar"}),
    Case("roll", "/v1/pools/hello/roll", {"to": 1}),
    Case("rollback", "/v1/pools/hello/rollback", {}),
    Case("remove", "/v1/replicas/hello1"),
    Case("move", "/v1/replicas/hello1/move", {"to": "b"}),
    Case("cordon", "/v1/hosts/a/cordon", {}),
    Case("uncordon", "/v1/hosts/a/uncordon", {}),
    Case("pardon", "/v1/hosts/a/pardon", {}),
    Case("fence", "/v1/hosts/b/fence", {"confirmed": True}),
    Case("remove_host", "/v1/hosts/c/remove", {"confirmed": True}),
]
each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.operation)


class World(MemoryFleet):
    """What control and cordon look at: b is out of reach."""

    def host(self, name):
        return HostStatus(name, "unknown" if name == "b" else "up")

    def in_reach(self, name):
        return name != "b"

    def found_on(self, name):
        return frozenset()


class Daemon:
    """The API over a real store, control and cordon; `restart` begins its next life."""

    def __init__(self, folder):
        self.folder = folder
        self.world = World()
        self.hosts = {HostName(name): Host(name=HostName(name)) for name in "ab"}

    def config(self):
        return Config(hosts=self.hosts, pools=self.world.config.pools)

    async def begin(self):
        self.store = Store(self.folder / "state")
        parts = {"store": self.store, "world": self.world, "config": self.config}
        app = app_over(
            self.world,
            store=self.store,
            control=Control(**parts),
            host_control=Cordon(**parts),
            rollout=Rollout(**parts),
        )
        self.listener = await serve_unix(app, self.folder / "s", 0o600)
        connector = aiohttp.UnixConnector(str(self.folder / "s"))
        self.session = aiohttp.ClientSession("http://poold", connector=connector)

    async def end(self):
        await self.session.close()
        await self.listener.close()
        self.store.close()

    async def prepare(self):
        """One ready replica on a, of the second generation, and one on the host that left."""
        self.world.settle(self.world.scale("hello", replicas=1, actor="test").id)
        assert await self.do("PUT", "/v1/pools/hello/scale", {"replicas": 1}) in {200, 202}
        for number in (1, 2):
            application = self.world.config.pools["hello"].application
            manifest = Manifest(
                pool="hello", build=f"b{number}", fingerprint=application.fingerprint(), image="i",
                image_id="x", archive_sha256="s", archive_bytes=3, packed_sha256="p",
                packed_bytes=2, engine="podman 5", runtime="runc 1", criu="4", kernel="6",
                machine="x86_64", cpu_flags=(), created_at=float(number),
            )  # fmt: skip
            sealed = Sealed(digest=manifest.digest(), manifest=manifest)
            self.store.add_generation("hello", sealed, "a", application)
        self.world._replicas["hello1"] = replace(self.world._replicas["hello1"], generation=2)
        for name, host in (("hello1", "a"), ("hello8", "c")):
            self.store.put_assignment(Assignment(name=name, pool="hello", host=host, since=1.0))

    async def do(self, method, path, body=None):
        return (await self.call(method, path, body))[0]

    async def call(self, method, path, body=None, **headers):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.request(method, path, json=body, headers=named) as response:
            return response.status, await response.json(content_type=None), response.headers

    async def tag(self, case):
        """Return the tag that a client sees who looks before it decides."""
        _, kind, name, *_ = case.path.strip("/").split("/")
        path = f"/v1/hosts/{name}" if kind == "hosts" else "/v1/pools/hello/scale"
        _, _, headers = await self.call("GET", path)
        return headers.get("ETag", '"0"')  # of a host that left nothing was said

    async def another_wish(self, case):
        """Have another client wish for something of the same pool or host."""
        _, kind, name, *_ = case.path.strip("/").split("/")
        if kind != "hosts":
            assert await self.do("PUT", "/v1/pools/hello/scale", {"delta": 1}) == 202
            return
        known, self.hosts = self.hosts, {**self.hosts, HostName(name): Host(name=HostName(name))}
        assert await self.do("POST", f"/v1/hosts/{name}/pardon", {}) == 200
        self.hosts = known

    def everything(self):
        """Return all that a call may leave behind."""
        store = self.store
        changes = [replace(change, seq=0) for change in store.changes()]  # a new life's are higher
        return (
            changes, store.calls.newest(limit=99), store.wishes(), store.assignments(),
            store.moves(), store.rolls.hold("hello"), store.hosts.all(), store.events.bounds(),
        )  # fmt: skip


@pytest.fixture
async def daemon(tmp_path):
    daemon = Daemon(tmp_path)
    await daemon.begin()
    await daemon.prepare()
    yield daemon
    await daemon.end()


def test_every_changing_route_has_a_case():
    """A route that is added without a case below fails here."""
    changing = {route.operation for route in ROUTES if route.changes_something}
    lists = {"alertmanager"}  # it knows its alerts again itself: test_api_alertmanager
    assert {case.operation for case in CASES} | lists == changing


@each
async def test_a_repeated_call_is_one_wish(daemon, case):
    """With its key a call is one change however often it arrives, in the daemon's next life too."""
    status, change, headers = await daemon.call(
        case.method, case.path, case.body, Idempotency_Key="k"
    )
    assert status in {200, 202}
    before = daemon.everything()
    for _ in range(2):
        again = await daemon.call(case.method, case.path, case.body, Idempotency_Key="k")
        assert (again[0], again[1]["id"]) == (status, change["id"])
        if "ETag" in again[2]:  # the path of a removed replica leads to no revision
            assert again[2]["ETag"] == headers["ETag"]
        assert daemon.everything() == before
        await daemon.end()
        await daemon.begin()


@each
async def test_copies_that_arrive_at_once_are_one_wish(daemon, case):
    """Several connections bring the same call in the same moment."""
    before = len(daemon.store.changes())
    calls = (daemon.call(case.method, case.path, case.body, Idempotency_Key="k") for _ in range(5))
    answers = await asyncio.gather(*calls)
    assert len({change["id"] for _, change, _ in answers}) == 1
    assert len(daemon.store.changes()) == before + 1


@each
async def test_a_key_is_for_one_request(daemon, case):
    """The same key with another request is refused, and leaves nothing."""
    assert (await daemon.call(case.method, case.path, case.body, Idempotency_Key="k"))[0] < 300
    before = daemon.everything()
    path, body = case.saying("another")
    status, problem, _ = await daemon.call(case.method, path, body, Idempotency_Key="k")
    assert (status, problem["code"]) == (409, "idempotency.key-reused")
    assert daemon.everything() == before


@each
async def test_of_two_clients_that_saw_the_same_one_is_heard(daemon, case):
    """Both looked, both decide on that: the second is told of the first, and does nothing."""
    seen = await daemon.tag(case)
    status, _, headers = await daemon.call(case.method, case.path, case.body, If_Match=seen)
    assert status in {200, 202}
    before = daemon.everything()
    status, problem, _ = await daemon.call(case.method, case.path, case.body, If_Match=seen)
    if case.operation == "remove":  # there is nothing left to decide on
        assert (status, problem["code"]) == (404, "replica.unknown")
    else:
        assert (status, problem["code"]) == (412, problem["code"].split(".")[0] + ".changed")
        assert headers["ETag"] != seen
        assert headers["ETag"].strip('"') in problem["detail"]
    assert "poold " in problem["hint"]
    assert daemon.everything() == before


@each
async def test_a_call_that_was_overtaken_is_refused(daemon, case):
    """A call that arrives after a later decision does nothing; its key is free for a new one."""
    seen = await daemon.tag(case)
    await daemon.another_wish(case)
    before = daemon.everything()
    late = {"Idempotency_Key": "k", "If_Match": seen}
    status, problem, _ = await daemon.call(case.method, case.path, case.body, **late)
    assert (status, problem["code"].split(".")[1]) == (412, "changed")
    assert daemon.everything() == before
    late["If_Match"] = await daemon.tag(case) if case.operation != "remove_host" else "*"
    assert (await daemon.call(case.method, case.path, case.body, **late))[0] in {200, 202}


@each
async def test_a_copy_that_arrives_after_a_later_wish_changes_nothing(daemon, case):
    """The first copy was accepted, somebody wished for more, then the second copy arrives."""
    seen = {"Idempotency_Key": "k", "If_Match": await daemon.tag(case)}
    _, change, _ = await daemon.call(case.method, case.path, case.body, **seen)
    await daemon.another_wish(case)
    before = daemon.everything()
    status, again, _ = await daemon.call(case.method, case.path, case.body, **seen)
    assert (status, again["id"]) == (200 if again["state"] == "settled" else 202, change["id"])
    assert daemon.everything() == before


@each
async def test_an_accepted_call_leaves_one_row_in_the_trail(daemon, case):
    """Who, what, when, from where and why, with the change; a key is nobody's business."""
    path, body = case.saying("why-not")
    _, change, _ = await daemon.call(case.method, path, body, Idempotency_Key="secret-key")
    _, answer, _ = await daemon.call("GET", "/v1/audit?limit=1")
    (call,) = answer["calls"]
    assert (call["operation"], call["path"], call["change"]) == (
        case.operation, case.path, change["id"],
    )  # fmt: skip
    assert (call["actor"], call["origin"]) == (f"uid:{os.geteuid()}", f"unix pid:{os.getpid()}")
    assert call["reason"] == change["reason"]
    assert change["reason"].partition(":")[0] == "why-not"  # what a hook decided may follow
    assert "secret-key" not in str(answer)
