"""The OpenAPI 3.1 document, made from the route table.

Flows in: routes. Flows out: a JSON value. It describes nothing that the table does not say.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

import msgspec

from poold import __version__
from poold.api.messages import NAME, ProblemView
from poold.api.routes import Query, Route

_REF = "#/components/schemas/{name}"
_DESCRIPTIONS = {
    200: "As asked; for a wish: nothing was left to do for it.",
    202: "Accepted and kept; Location names the change, which can be waited for.",
}
_LOCATION = {"description": "The change's path.", "schema": {"type": "string"}}
_ETAG = {
    "description": "The revision of what is wished of the pool or said of the host.",
    "schema": {"type": "string"},
}
_RETRY_AFTER = {"description": "Seconds.", "schema": {"type": "integer"}}


def problem_statuses(route: Route) -> tuple[int, ...]:
    """Return the statuses of every problem that the route may answer with."""
    statuses = {400, 500, 502, 503, *route.refusals}
    if route.changes_something:
        statuses |= {409, 412}
    if not route.open:
        statuses.add(401)
    if route.body is not None:
        statuses.add(413)
    return tuple(sorted(statuses))


def build_document(routes: Iterable[Route]) -> dict[str, Any]:
    """Describe the routes."""
    routes = tuple(routes)
    kinds: list[Any] = [ProblemView]
    for route in routes:
        used = (route.body, route.streams, *route.answers.values())
        kinds += [kind for kind in used if _has_schema(kind)]
    unique = list(dict.fromkeys(kinds))
    schemas, components = msgspec.json.schema_components(unique, ref_template=_REF)
    by_kind = dict(zip(unique, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, by_kind)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "poold",
            "version": __version__,
            "summary": "Warm checkpoints restored as named replicas across hosts.",
            "description": "On the unix socket the file's mode is the guard; on TCP everything"
            " but /v1/health, /metrics and a replica's ready needs the token.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route, schemas: dict[Any, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": route.operation,
        "summary": route.summary,
        "security": [] if route.open else [{"token": []}, {}],
        "parameters": [
            *(_path_parameter(name) for name in route.path_parameters),
            *(_query_parameter(query) for query in route.query),
            *(_header_parameter(name, text) for name, text in route.headers.items()),
        ],
        "responses": {
            **{str(status): _answer(route, status, schemas) for status in route.answers},
            **{str(status): _problem(status) for status in problem_statuses(route)},
        },
    }
    if route.body is not None:
        described["requestBody"] = {
            "content": {"application/json": {"schema": schemas[route.body]}}
        }
    return described


def _answer(route: Route, status: int, schemas: dict[Any, Any]) -> dict[str, Any]:
    kind = route.answers[status]
    content: dict[str, Any] = {"text/plain": {"schema": {"type": "string"}}}
    if kind is not bytes:
        content = {"application/json": {"schema": schemas.get(kind, {"type": "object"})}}
    if route.streams is not None:
        content["text/event-stream"] = {"schema": schemas[route.streams]}
    answer: dict[str, Any] = {"description": _DESCRIPTIONS[status], "content": content}
    if route.changes_something:
        answer["headers"] = {"Location": _LOCATION, "ETag": _ETAG}
    elif route.tagged:
        answer["headers"] = {"ETag": _ETAG}
    return answer


def _problem(status: int) -> dict[str, Any]:
    schema = {"$ref": _REF.format(name=ProblemView.__name__)}
    problem: dict[str, Any] = {
        "description": HTTPStatus(status).phrase,
        "content": {"application/problem+json": {"schema": schema}},
    }
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        problem["headers"] = {"Retry-After": _RETRY_AFTER}
    return problem


def _path_parameter(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string", "pattern": f"^{NAME.pattern}$"}
    if name == "change":
        schema = {"type": "integer", "minimum": 1}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _header_parameter(name: str, text: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": text,
        "schema": {"type": "string"},
    }


def _query_parameter(query: Query) -> dict[str, Any]:
    schema = msgspec.json.schema(query.kind)
    if query.default is not None:
        schema["default"] = query.default
    return {
        "name": query.name,
        "in": "query",
        "required": False,
        "description": query.description,
        "schema": schema,
    }


def _has_schema(kind: Any) -> bool:
    return kind is not None and kind is not bytes and kind is not dict
