"""The one place where HTTP meets the views.

Flows in: aiohttp requests. Flows out: JSON, or a problem document; a caller never sees a
traceback. It decides nothing about the fleet.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from poold.agent.messages import Finding
from poold.api import access, once, openapi, problems, stream
from poold.api.messages import check_name, check_reason
from poold.api.ports import (
    ConfigPort,
    ControlPort,
    HostControlPort,
    Ports,
    RolloutPort,
    StorePort,
    WorldPort,
)
from poold.api.routes import ROUTES, Route
from poold.api.views import Answer, Call, Stream
from poold.errors import Problem, Refused
from poold.model.events import Explanation

log = logging.getLogger(__name__)

LARGEST_BODY_BYTES = 64 * 1024
LARGEST_CHANGE_NUMBER = 2**63 - 1

PORTS: web.AppKey[Ports] = web.AppKey("ports", Ports)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def build_app(
    *,
    control: ControlPort,
    store: StorePort,
    world: WorldPort,
    config: Callable[[], ConfigPort],
    logs: Callable[[str, int], Awaitable[tuple[str, ...]]],
    examine: Callable[[], Awaitable[dict[str, tuple[Finding, ...]]]],
    metrics: Callable[[], tuple[bytes, str]],
    token: Callable[[], str | None],
    host_control: HostControlPort,
    rollout: RolloutPort,
    explain: Callable[[str], Explanation],
) -> web.Application:
    """Put the API together; it can be served on several sockets (`poold.api.serve`)."""
    ports = Ports(
        control=control,
        store=store,
        world=world,
        config=config,
        logs=logs,
        examine=examine,
        metrics=metrics,
        token=token,
        host_control=host_control,
        rollout=rollout,
        explain=explain,
    )
    app = web.Application(middlewares=[_problems_as_documents], client_max_size=LARGEST_BODY_BYTES)
    app[PORTS] = ports
    for route in _with_document(ROUTES):
        app.router.add_route(route.method, route.path, _handler(route))
    return app


def _with_document(routes: tuple[Route, ...]) -> tuple[Route, ...]:
    """Add the route that describes all the others and itself."""

    async def describe(ports: Ports, call: Call) -> Answer:  # noqa: ARG001
        return Answer(document)

    this = Route("GET", "/v1/openapi.json", describe, "This document", {200: dict})
    document = openapi.build_document((*routes, this))
    return (*routes, this)


def _handler(route: Route) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        ports = request.app[PORTS]
        actor = access.actor(request, route, ports)
        call = Call(
            path=_path(request),
            query=_query(route, request),
            body=await _body(route, request),
            actor=actor,
            origin=access.origin(request),
            headers={n: request.headers[n] for n in route.headers if n in request.headers},
        )
        if route.changes_something:
            return _respond(once.accept(ports, route, call, request.path))
        answer = await route.view(ports, call)
        if isinstance(answer, Stream):
            return await stream.send(request, answer)
        return _respond(answer)

    return handle


@web.middleware
async def _problems_as_documents(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Problem as problem:
        return _respond_problem(problem)
    except web.HTTPException as error:  # the router's own: no route, wrong method, body too large
        return _respond_problem(_from_router(request, error), error.headers.get("Allow"))
    except ConnectionError:
        raise  # the caller went away: nobody to tell
    except Exception:
        log.exception(
            "cannot answer %s %s", request.method, request.path, extra={"action": "api_bug"}
        )
        return _respond_problem(problems.INTERNAL)


def _path(request: web.Request) -> dict[str, str]:
    parts = dict(request.match_info)
    for what, text in parts.items():
        if what == "change":
            _check_number(text)
            continue
        try:
            check_name(what, text)
        except ValueError as error:
            raise Refused("request.bad-name", f"cannot use this path: {error}") from error
    return parts


def _check_number(text: str) -> None:
    digits = text.isascii() and text.isdigit() and len(text) <= len(str(LARGEST_CHANGE_NUMBER))
    if not (digits and int(text) <= LARGEST_CHANGE_NUMBER):
        raise Refused(
            "change.unknown",
            f"cannot find change {text[:40]!r}: changes have numbers",
            hint="poold changes lists the newest (GET /v1/changes)",
        )


def _query(route: Route, request: web.Request) -> dict[str, Any]:
    known = {query.name for query in route.query}
    unknown = sorted(set(request.query) - known)
    if unknown:
        listed = ", ".join(sorted(known)) or "none"
        raise Refused(
            "request.bad-query",
            f"cannot use the query parameter {unknown[0][:80]!r}: {request.path} has none such",
            hint=f"it takes: {listed}",
        )
    return {
        query.name: _parameter(query.name, query.kind, request.query[query.name])
        if query.name in request.query
        else query.default
        for query in route.query
    }


def _parameter(name: str, kind: Any, text: str) -> Any:
    try:
        check_reason(text)
        return _finite(msgspec.convert(text, kind, strict=False))
    except (ValueError, msgspec.ValidationError) as error:
        raise Refused(
            "request.bad-query", f"cannot use {name}={text[:80]!r}: {_sentence(error)}"
        ) from error


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a finite number is needed")
    return value


async def _body(route: Route, request: web.Request) -> Any:
    if route.body is None:
        return None
    if route.largest_body_bytes is not None:
        request = request.clone(client_max_size=route.largest_body_bytes)
    raw = await request.read()
    try:
        return msgspec.json.decode(raw or b"{}", type=route.body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        fields = ", ".join(field.encode_name for field in msgspec.structs.fields(route.body))
        raise Refused(
            "request.bad-body",
            f"cannot use the body: {_sentence(error)}",
            hint=f"a JSON object with the fields: {fields}",
        ) from error


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())[:500]


def _respond(answer: Answer) -> web.Response:
    headers = {"Location": answer.location} if answer.location else {}
    headers["Cache-Control"] = "no-store"
    if answer.etag:
        headers["ETag"] = answer.etag
    if isinstance(answer.value, bytes):
        headers["Content-Type"] = answer.content_type
        return web.Response(body=answer.value, status=answer.status, headers=headers)
    return web.Response(
        body=msgspec.json.encode(answer.value),
        status=answer.status,
        headers=headers,
        content_type=answer.content_type,
    )


def _respond_problem(problem: Problem, allow: str | None = None) -> web.Response:
    headers = problems.headers(problem)
    if allow:
        headers["Allow"] = allow
    return web.Response(
        body=msgspec.json.encode(problems.document(problem)),
        status=problems.status_of(problem),
        headers=headers,
        content_type="application/problem+json",
    )


def _from_router(request: web.Request, error: web.HTTPException) -> Problem:
    path = request.path[:200]
    if error.status == 404:
        return Refused(
            "request.no-route",
            f"cannot find {path!r}",
            hint="GET /v1/openapi.json lists the routes",
        )
    if error.status == 405:
        allowed = error.headers.get("Allow", "")
        return Refused(
            "request.bad-method",
            f"cannot {request.method} {path!r}",
            hint=f"allowed there: {allowed}",
        )
    if error.status == 413:
        return Refused(
            "request.too-large",
            f"cannot take a body of more than {LARGEST_BODY_BYTES} bytes",
        )
    return Refused("request.bad", f"cannot read the request: {error.reason}")
