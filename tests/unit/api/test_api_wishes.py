"""What can be wished of the daemon, over a real unix socket."""

from __future__ import annotations

import os

import pytest


async def test_scale_accepts_a_wish(call, fleet):
    """A wish that needs work is answered with 202, the change and its path."""
    reply = await call("PUT", "/v1/pools/hello/scale", json={"replicas": 3, "reason": "noon"})
    assert reply.status == 202
    assert reply.headers["Location"] == "/v1/changes/1"
    assert reply.json["wish"] == {"replicas": 3}
    assert reply.json["reason"] == "noon"
    assert fleet.change(1).state == "pending"


async def test_a_wish_that_is_so_already_is_answered_with_200(call, fleet):
    """Nothing to do: the change is settled at once and the status is 200."""
    fleet.settle(fleet.scale("hello", replicas=2, actor="test").id)
    reply = await call("PUT", "/v1/pools/hello/scale", json={"replicas": 2})
    assert (reply.status, reply.json["state"]) == (200, "settled")


async def test_scale_takes_a_difference(call, fleet):
    """A delta is added to what is wished."""
    fleet.settle(fleet.scale("hello", replicas=2, actor="test").id)
    reply = await call("PUT", "/v1/pools/hello/scale", json={"delta": -1})
    assert reply.json["wish"] == {"replicas": 1}


async def test_the_actor_is_who_the_kernel_says(call):
    """On a unix socket the actor is the peer's user id, whatever the caller claims."""
    reply = await call("POST", "/v1/pools/hello/checkpoints", headers={"X-Actor": "somebody"})
    assert reply.json["actor"] == f"uid:{os.geteuid()}"


async def test_restore_passes_name_and_host_on(call):
    """A replica can be wished by name and host."""
    body = {"name": "hello7", "host": "b"}
    reply = await call("POST", "/v1/pools/hello/replicas", json=body)
    assert (reply.status, reply.json["kind"], reply.json["wish"]) == (202, "restore", body)


async def test_restore_needs_no_body(call):
    """Name and host are chosen where no body is sent."""
    reply = await call("POST", "/v1/pools/hello/replicas")
    assert (reply.status, reply.json["wish"]) == (202, {})


async def test_remove_takes_its_reason_from_the_query(call, fleet):
    """DELETE has no body; the reason is a query parameter."""
    fleet.settle(fleet.scale("hello", replicas=1, actor="test").id)
    reply = await call("DELETE", "/v1/replicas/hello1?reason=too%20many")
    assert (reply.status, reply.json["reason"]) == (202, "too many")


async def test_move_names_the_target(call, fleet):
    """A replica is moved to a host."""
    fleet.settle(fleet.scale("hello", replicas=1, actor="test").id)
    reply = await call("POST", "/v1/replicas/hello1/move", json={"to": "b"})
    assert (reply.status, reply.json["wish"]) == (202, {"replica": "hello1", "to": "b"})


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/v1/pools/other", None, 404, "pool.unknown"),
        ("GET", "/v1/pools/other/scale", None, 404, "pool.unknown"),
        ("GET", "/v1/pools/other/generations", None, 404, "pool.unknown"),
        ("GET", "/v1/replicas?pool=other", None, 404, "pool.unknown"),
        ("GET", "/v1/replicas/hello9", None, 404, "replica.unknown"),
        ("GET", "/v1/replicas/hello9/logs", None, 404, "replica.unknown"),
        ("GET", "/v1/changes/9", None, 404, "change.unknown"),
        ("GET", "/v1/changes/nine", None, 404, "change.unknown"),
        ("GET", "/v1/changes/99999999999999999999", None, 404, "change.unknown"),
        ("PUT", "/v1/pools/other/scale", {"replicas": 1}, 404, "pool.unknown"),
        ("PUT", "/v1/pools/hello/scale", {"replicas": 9}, 422, "scale.out-of-bounds"),
        ("POST", "/v1/pools/hello/replicas", {"name": "hello1"}, 409, "replica.taken"),
        ("POST", "/v1/pools/hello/replicas", {"host": "z"}, 404, "host.unknown"),
        ("DELETE", "/v1/replicas/hello9", None, 404, "replica.unknown"),
        ("POST", "/v1/replicas/hello1/move", {"to": "a"}, 409, "move.same-host"),
        ("POST", "/v1/replicas/hello1/move", {"to": "z"}, 404, "host.unknown"),
        ("POST", "/v1/pools/other/checkpoints", None, 404, "pool.unknown"),
    ],
)
async def test_refusals_are_problem_documents(call, fleet, method, path, body, status, code):
    """A refusal has the status of its code, says why, and keeps no change."""
    fleet.settle(fleet.scale("hello", replicas=1, actor="test").id)
    reply = await call(method, path, json=body)
    assert (reply.status, reply.json["code"]) == (status, code)
    assert reply.headers["Content-Type"].startswith("application/problem+json")
    assert reply.json["detail"].startswith("cannot ")
    assert reply.json["status"] == status
    assert len(fleet.changes()) == 1


async def test_roll_and_rollback_pass_target_and_limits_on(call, fleet):
    """What is not given is left to the pool's configuration; numbers that cannot be are refused."""
    for _ in range(2):
        fleet.settle(fleet.checkpoint("hello", actor="test").id)
    reply = await call("POST", "/v1/pools/hello/roll", json={"to": 2, "surge": 0, "reason": "new"})
    assert (reply.status, reply.json["kind"], reply.json["reason"]) == (202, "roll", "new")
    assert reply.json["wish"] == {"to": 2, "surge": 0}
    reply = await call("POST", "/v1/pools/hello/rollback")
    assert (reply.status, reply.json["wish"]) == (202, {"to": 1})
    for body in ({"surge": -1}, {"to": 0}, {"generation": 1}):
        assert (await call("POST", "/v1/pools/hello/roll", json=body)).status == 400
    assert (await call("POST", "/v1/pools/hello/roll", json={"to": 7})).status == 404
    body = {"surge": 0, "unavailable": 0}
    assert (await call("POST", "/v1/pools/hello/roll", json=body)).status == 422
