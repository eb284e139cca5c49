"""Requests that are wrong in themselves, and failures of the daemon's own."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

import poold
from poold.api import problems
from poold.errors import Permanent, Refused, Temporary

SCALE = "/v1/pools/hello/scale"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "Input data was truncated"),
        (b"[]", "Expected `object`"),
        (b"", "exactly one of replicas, count and delta"),
        (b"{}", "exactly one of replicas, count and delta"),
        (b'{"replicas": 1, "delta": 1}', "exactly one of replicas, count and delta"),
        (b'{"replica": 3}', "unknown field `replica`"),
        (b'{"replicas": "3"}', "Expected `int | null`"),
        (b'{"replicas": -1}', ">= 0"),
        (b'{"replicas": 1e99}', "replicas"),
        (b'{"replicas": 1, "reason": "a\\nb"}', "control character"),
        (b'{"replicas": 1, "reason": "\\u001b[31m"}', "control character"),
        (b'{"replicas": 1, "reason": "' + b"x" * 501 + b'"}', "longer than 500"),
        (b'{"replicas": 1, "reason": "\xff"}', "utf-8"),
    ],
)
async def test_a_wrong_body_is_refused_with_the_reason(call, fleet, body, says):
    """What is wrong with a body is said, with the fields it may have, and nothing is wished."""
    reply = await call("PUT", SCALE, data=body)
    assert (reply.status, reply.json["code"]) == (400, "request.bad-body")
    assert says.lower() in reply.json["detail"].lower()
    assert reply.json["hint"] == "a JSON object with the fields: replicas, count, delta, reason"
    assert fleet.changes() == ()


@pytest.mark.parametrize("name", ["", "a b", "../x", "-x", "x" * 64, "a\n"])
async def test_names_in_bodies_are_validated(call, name):
    """A replica's name that could not be a container's is refused."""
    reply = await call("POST", "/v1/pools/hello/replicas", json={"name": name})
    assert (reply.status, reply.json["code"]) == (400, "request.bad-body")


@pytest.mark.parametrize("name", ["a%20b", "%2e%2e%2fx", "-x", "x" * 64, "a%0a", "%00"])
async def test_names_in_paths_are_validated(call, name):
    """A path with what cannot be a name is refused before anything looks for it."""
    reply = await call("GET", f"/v1/replicas/{name}")
    assert reply.status in {400, 404}
    assert reply.json["code"] in {"request.bad-name", "request.no-route"}


async def test_a_body_is_bounded(call, fleet):
    """More than 64 kB are refused, not read."""
    reply = await call("PUT", SCALE, data=b" " * 70_000)
    assert (reply.status, reply.json["code"]) == (413, "request.too-large")


@pytest.mark.parametrize(
    "query",
    [
        "wiat=3",
        "wait=x",
        "wait=nan",
        "wait=inf",
        "wait=-1",
        "wait=61",
        "after=1.5",
        "wait=%00",
    ],
)
async def test_wrong_query_parameters_are_refused(call, fleet, query):
    """A parameter that is unknown, misspelt or out of bounds is refused, never ignored."""
    change = fleet.scale("hello", replicas=1, actor="test")
    reply = await call("GET", f"/v1/changes/{change.id}?{query}")
    assert (reply.status, reply.json["code"]) == (400, "request.bad-query")


@pytest.mark.parametrize("word", ["nan", "inf", "Infinity", "-inf"])
async def test_a_word_that_spells_a_number_is_a_word(call, fleet, word):
    """A reason may be "inf", and a pool that is not there may be asked for as "nan"."""
    fleet.settle(fleet.scale("hello", replicas=1, actor="test").id)
    reply = await call("DELETE", f"/v1/replicas/hello1?reason={word}")
    assert (reply.status, reply.json["reason"]) == (202, word)
    assert (await call("GET", f"/v1/changes?pool={word}")).status == 200


async def test_an_unknown_path_names_the_document(call):
    """A path that is not there is answered as a problem that says where the routes are."""
    reply = await call("GET", "/v2/pools")
    assert (reply.status, reply.json["code"]) == (404, "request.no-route")
    assert "openapi.json" in reply.json["hint"]


async def test_a_wrong_method_names_the_right_ones(call):
    """A method that a path does not have is answered with those it has."""
    reply = await call("PATCH", SCALE)
    assert (reply.status, reply.json["code"]) == (405, "request.bad-method")
    assert set(reply.headers["Allow"].split(",")) >= {"GET", "PUT"}


async def test_a_bug_is_not_shown_to_the_caller(call, fleet, caplog):
    """An unexpected exception is code "internal"; its text is in the log and not in the answer."""
    fleet.misbehaviour = "broken"
    with caplog.at_level(logging.ERROR):
        reply = await call("GET", "/v1/health")
    assert (reply.status, reply.json["code"]) == (500, "internal")
    assert b"secret" not in reply.body
    assert b"Traceback" not in reply.body
    assert "a secret that no caller may see" in caplog.text


@pytest.mark.parametrize(
    ("problem", "status"),
    [
        (Refused("pool.unknown", "cannot"), 404),
        (Refused("replica.name-taken", "cannot"), 409),
        (Refused("replica.foreign-name", "cannot"), 409),
        (Refused("move.same-host", "cannot"), 409),
        (Refused("move.not-ready", "cannot"), 409),
        (Refused("replica.elsewhere", "cannot"), 409),
        (Refused("scale.out-of-bounds", "cannot"), 422),
        (Refused("host.not-of-pool", "cannot"), 422),
        (Refused("replica.bad-name", "cannot"), 400),
        (Refused("scale.ambiguous", "cannot"), 400),
        (Refused("pool.unmistaken", "cannot"), 400),
        (Temporary("host.unreachable", "cannot"), 503),
        (Temporary("host.unknown", "cannot"), 503),
        (Permanent("engine.missing", "cannot"), 502),
        (problems.INTERNAL, 500),
    ],
)
def test_statuses_follow_kind_and_code(problem, status):
    """The kind decides whose fault it is, the end of a refusal's code which refusal."""
    assert problems.status_of(problem) == status


def test_the_table_of_statuses_names_only_what_is_raised():
    """Each ending is one of a code that some module has, and stands there once."""
    raised = set()
    for module in Path(poold.__file__).parent.rglob("*.py"):
        raised |= set(re.findall(r'"([a-z]+\.[a-z-]+)"', module.read_text()))
    listed = [ending for _, endings in problems._BY_ENDING for ending in endings]
    assert len(listed) == len(set(listed))
    assert [one for one in listed if not any(code.endswith(one) for code in raised)] == []


def test_a_refused_wish_is_not_called_a_bad_request():
    """What is refused for how the fleet is has a status that says so."""
    folder = Path(poold.__file__).parent
    modules = [folder / f"{name}.py" for name in ("control", "cordon", "rollout")]
    words = "".join(module.read_text() for module in modules)
    codes = set(re.findall(r'Refused\(\s*"([a-z]+\.[a-z-]+)"', words))
    assert codes > {"host.full", "replica.moving"}
    bad = {code for code in codes if problems.status_of(Refused(code, "cannot")) == 400}
    assert bad == {"replica.bad-name", "scale.ambiguous"}


@pytest.mark.parametrize(("retry", "header"), [(None, "1"), (0.2, "1"), (7.1, "8")])
async def test_what_may_work_later_says_when(retry, header):
    """A temporary problem is 503 with whole seconds in Retry-After, at least one."""
    problem = Temporary("host.unreachable", "cannot reach a", retry_after_seconds=retry)
    assert problems.headers(problem) == {"Retry-After": header}


def test_a_document_carries_everything_of_a_problem():
    """Hint and evidence of a problem travel beside its text."""
    problem = Temporary("host.unreachable", "cannot reach a", hint="plug it in", detail="x\ny")
    document = problems.document(problem)
    told = (document.type, document.detail, document.hint, document.evidence)
    assert told == ("urn:poold:problem:host.unreachable", "cannot reach a", "plug it in", "x\ny")


async def test_a_host_that_is_away_is_503_with_patience(call, fleet):
    """What needs a host that cannot be reached may be asked again later."""
    fleet.settle(fleet.scale("hello", replicas=1, actor="test").id)
    fleet.misbehaviour = "unreachable"
    reply = await call("GET", "/v1/replicas/hello1/logs")
    assert (reply.status, reply.json["code"]) == (503, "host.unreachable")
    assert reply.json["kind"] == "temporary"
    assert reply.headers["Retry-After"] == "1"
