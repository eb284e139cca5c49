"""Alertmanager: each alert is acted on once, and every decision has its reason."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from poold.api.memory_app import app_over
from poold.api.serve import serve_tcp
from poold.model.scaling import Scaling

HOOK = "/v1/hooks/alertmanager"


def alert(scale="+1", *, pool="hello", status="firing", fingerprint="f1", starts="1", **more):
    """Return an alert as Alertmanager sends it."""
    return {
        "status": status,
        "labels": {"alertname": "TooBusy", "severity": "page"},
        "annotations": {"poold_pool": pool, "poold_scale": scale, **more},
        "startsAt": f"2026-01-01T00:00:0{starts}Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus/graph",
        "fingerprint": fingerprint,
    }


def message(*alerts: Any) -> dict[str, Any]:
    """Return the webhook's body."""
    return {
        "version": "4",
        "groupKey": "{}:{}",
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": "poold",
        "groupLabels": {},
        "commonLabels": {},
        "commonAnnotations": {},
        "externalURL": "http://alertmanager",
        "alerts": list(alerts),
    }


async def told(call, *alerts):
    """Send them and return what was done about each."""
    reply = await call("POST", HOOK, json=message(*alerts))
    assert reply.status == 200
    return [outcome["outcome"] for outcome in reply.json["alerts"]]


async def test_an_alert_scales_once_however_often_it_is_told(call, fleet):
    """Firing, its repetitions, resolved, and the next time it fires: three wishes, with reasons."""
    fires = alert("+2", poold_scale_resolved="-1")
    assert await told(call, fires) == ["scaled"]
    for _ in range(3):
        assert await told(call, fires) == ["repeated"]
    resolved = {**fires, "status": "resolved"}
    pool = fleet.config.pools["hello"]
    fleet.config.pools["hello"] = replace(pool, scaling=Scaling(in_after_seconds=0))
    assert await told(call, resolved, fires) == ["scaled", "repeated"]
    assert await told(call, alert("+2", starts="2")) == ["scaled"]
    reasons = [change.reason for change in reversed(fleet.changes())]
    assert reasons == [
        "TooBusy is firing: +2 asked for: 0 to 2",
        "TooBusy is resolved: -1 asked for: 2 to 1",
        "TooBusy is firing: +2 asked for: 1 to 3",
    ]


async def test_repetitions_leave_no_trail(call, fleet):
    """An alert that is told for hours pushes no accepted call out of the audit."""
    await told(call, alert())
    before = fleet.calls.newest(limit=99)
    await told(call, alert())
    await told(call, alert(pool=""))
    assert fleet.calls.newest(limit=99) == before
    assert len(before) == 1


async def test_a_pause_has_alertmanager_try_again(call, fleet):
    """Held back is not done: 503 with the seconds, and the next try counts."""
    await told(call, alert("4"))
    down = alert("-1", fingerprint="f2")
    reply = await call("POST", HOOK, json=message(down))
    assert (reply.status, reply.json["code"]) == (503, "scale.cooling-down")
    assert int(reply.headers["Retry-After"]) <= 60
    assert await told(call, down, alert("+1", fingerprint="f3")) == ["held", "scaled"]
    pool = fleet.config.pools["hello"]
    fleet.config.pools["hello"] = replace(pool, scaling=Scaling(in_after_seconds=0))
    assert await told(call, down) == ["scaled"]
    assert fleet.count("hello") == 4


@pytest.mark.parametrize(
    ("odd", "outcome"),
    [
        (alert(pool="nowhere"), "refused"),
        (alert(pool="x" * 10_000), "refused"),
        (alert(pool="hel\nlo"), "refused"),
        (alert("many"), "refused"),
        (alert("1" * 10_000), "refused"),
        (alert("٣"), "refused"),
        (alert(""), "ignored"),
        ({"status": "resolved", "annotations": {"poold_pool": "hello"}}, "ignored"),
        ({"status": "firing"}, "ignored"),
    ],
)
async def test_what_cannot_be_used_is_named_and_holds_nothing_up(call, fleet, odd, outcome):
    """Names of 10 kB, control characters and pools that are not there concern one alert."""
    assert await told(call, odd, alert()) == [outcome, "scaled"]
    assert fleet.count("hello") == 1


async def test_an_alert_s_name_breaks_no_line(call, fleet):
    """What becomes part of the reason is one short line."""
    odd = alert()
    odd["labels"]["alertname"] = "A\n" * 5000
    await told(call, odd)
    (change,) = fleet.changes()
    assert "\n" not in change.reason
    assert len(change.reason) < 200


async def test_many_alerts_at_once_are_taken(call):
    """A group is larger than what other calls may send."""
    many = [alert(pool="", fingerprint=f"f{n}") for n in range(1000)]
    assert len(message(*many)["alerts"]) == 1000
    assert set(await told(call, *many)) == {"ignored"}
    reply = await call("POST", HOOK, data=io.BytesIO(b"x" * (5 << 20)))
    assert reply.status == 413


async def test_the_wrong_token_changes_nothing(fleet):
    """Over TCP a hook needs the token as everybody does; a balancer's check does not."""
    fleet.settle(fleet.scale("hello", replicas=1, actor="test").id)
    listener = await serve_tcp(app_over(fleet, token="right"), "127.0.0.1", 0)
    host, port = listener.addresses[0]
    async with aiohttp.ClientSession(f"http://{host}:{port}") as session:
        for token, status in (("wrong", 401), ("right", 200)):
            headers = {"Authorization": f"Bearer {token}"}
            async with session.post(HOOK, json=message(alert()), headers=headers) as response:
                assert response.status == status
        async with session.get("/v1/replicas/hello1/ready") as response:
            assert response.status == 200
    await listener.close()
    assert fleet.count("hello") == 2
