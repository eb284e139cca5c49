"""The OpenAPI document against the route table, and real answers against what it declares."""

from __future__ import annotations

import re

import aiohttp
import msgspec
import pytest

from poold.api.memory import MemoryFleet
from poold.api.memory_app import app_over
from poold.api.messages import ProblemView
from poold.api.openapi import problem_statuses
from poold.api.routes import ROUTES
from poold.api.serve import serve_unix

BODIES = {
    "put_scale": {"replicas": 3},
    "restore": {"name": "hello7"},
    "move": {"to": "b"},
    "import_archive": {"file": "/root/hello.tar"},
    "checkpoint": {},
    "cordon": {"reason": "noon"},
    "uncordon": {},
    "fence": {"confirmed": True},
    "remove_host": {"confirmed": True},
    "envoy": {"node": {"id": "edge"}, "resource_names": ["hello"]},
    "alertmanager": {"alerts": [{"status": "firing", "annotations": {"poold_pool": "hello"}}]},
    "scale_job": {"Count": 2, "Message": "cpu"},
}
HOSTS = {"fence": "b", "remove_host": "old"}
QUERIES = {"events": "?follow=0"}  # a stream has no end; it has tests of its own


@pytest.fixture
async def session(tmp_path):
    """Serve a fleet with one replica and one generation."""
    fleet = MemoryFleet(away={"b"}, left={"old"})
    fleet.settle(fleet.scale("hello", replicas=1, actor="test").id)
    fleet.settle(fleet.checkpoint("hello", actor="test").id)
    path = tmp_path / "s"
    listener = await serve_unix(app_over(fleet), path, 0o600)
    connector = aiohttp.UnixConnector(str(path))
    async with aiohttp.ClientSession("http://poold", connector=connector) as session:
        yield session
    await listener.close()


async def _document(session):
    async with session.get("/v1/openapi.json") as response:
        assert response.status == 200
        return await response.json()


def _filled(route):
    path, host = route.path, HOSTS.get(route.operation, "a")
    given = (("pool", "hello"), ("replica", "hello1"), ("change", "1"), ("host", host))
    for name, value in given:
        path = path.replace(f"{{{name}}}", value)
    return path


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.operation)
async def test_every_route_and_status_is_described(session, route):
    """Method, path, parameters, body and every status of each route are in the document."""
    described = (await _document(session))["paths"][route.path][route.method.lower()]
    assert set(described["responses"]) == {
        str(s) for s in (*route.answers, *problem_statuses(route))
    }
    names = {parameter["name"] for parameter in described["parameters"]}
    queries = {query.name for query in route.query}
    assert names == {*route.path_parameters, *queries, *route.headers}
    assert ("requestBody" in described) == (route.body is not None)
    assert (described["security"] == []) == route.open


async def test_the_document_describes_nothing_else(session):
    """What is not in the table is not in the document, but the document's own route."""
    document = await _document(session)
    described = {(m.upper(), p) for p, methods in document["paths"].items() for m in methods}
    known = {(route.method, route.path) for route in ROUTES}
    assert described == known | {("GET", "/v1/openapi.json")}
    assert document["openapi"].startswith("3.1")


async def test_every_reference_leads_somewhere(session):
    """No $ref of the document is dangling, and operation names are unique."""
    document = await _document(session)
    text = msgspec.json.encode(document).decode()
    names = set(re.findall(r'"#/components/schemas/([^"]+)"', text))
    assert names <= set(document["components"]["schemas"])
    operations = re.findall(r'"operationId":"([^"]+)"', text)
    assert len(operations) == len(set(operations)) == len(ROUTES) + 1


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.operation)
async def test_real_answers_are_what_is_declared(session, route):
    """Each route's real answer reads as its declared type and loses nothing by it."""
    body = BODIES.get(route.operation)
    path = _filled(route) + QUERIES.get(route.operation, "")
    async with session.request(route.method, path, json=body) as response:
        raw = await response.read()
    assert response.status in route.answers
    kind = route.answers[response.status]
    if kind is not bytes:
        answer = msgspec.json.decode(raw)
        again = msgspec.json.encode(msgspec.convert(answer, kind))
        assert msgspec.json.decode(again) == answer


@pytest.mark.parametrize(
    "route", [r for r in ROUTES if r.path_parameters], ids=lambda route: route.operation
)
async def test_real_problems_are_what_is_declared(session, route):
    """A request for what is not there is answered by a declared status and document."""
    path = re.sub(r"{\w+}", "999", route.path)
    async with session.request(route.method, path, json=BODIES.get(route.operation)) as response:
        raw = await response.read()
    assert response.status == 404
    assert response.status in problem_statuses(route)
    problem = msgspec.json.decode(raw, type=ProblemView)
    assert problem.status == response.status
