"""A changing call, accepted once: its key, its precondition, its wish and its trail in one go.

Flows in: a parsed call. Flows out: its answer, or the answer that the same key had before. All of
it is one transaction: what is answered is durable, what is refused left nothing.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import msgspec

from poold.api import revision
from poold.api.ports import Ports
from poold.api.routes import IDEMPOTENCY_KEY, IF_MATCH, Route
from poold.api.views import Answer, Call, accepted
from poold.errors import Refused
from poold.model.fleet import Change, ChangeId
from poold.store.calls import Remembered

log = logging.getLogger(__name__)

LONGEST_KEY = 200


def accept(ports: Ports, route: Route, call: Call, path: str) -> Answer:
    """Do what is asked for, or find that it was done; refusals are logged, not kept."""
    try:
        with ports.store.transaction():
            return _accept(ports, route, call, path)
    except Refused as problem:
        log.info(
            "refused %s %s by %s (%s): %s", route.method, path, call.actor, call.origin, problem,
            extra={"action": "refused", "code": problem.code},
        )  # fmt: skip
        raise


def _accept(ports: Ports, route: Route, call: Call, path: str) -> Answer:
    calls = ports.store.calls
    key = _key(call.headers.get(IDEMPOTENCY_KEY))
    fingerprint = _fingerprint(route, path, call)
    known = calls.find(call.actor, key) if key else None
    if known is not None:
        if known.fingerprint != fingerprint:
            raise Refused(
                "idempotency.key-reused",
                f"cannot accept this with {IDEMPOTENCY_KEY} {key}: another request had that key",
                hint="a new request needs a new key; a repeated one must be repeated as it was",
            )
        return _again(ports, known, call)
    wished = revision.of_path(ports, call.path)
    if wished is not None and IF_MATCH in call.headers:
        wished.check(call.headers[IF_MATCH])
    answer = _at_once(route.view(ports, call))
    if not answer.recorded:
        return answer
    change = answer.value if isinstance(answer.value, Change) else None
    pool = change.pool if change else call.path.get("pool", "")
    calls.add(
        actor=call.actor,
        origin=call.origin,
        operation=route.operation,
        path=path,
        request=_request(call),
        pool=pool,
        reason=change.reason if change else str(_request(call).get("reason", "")),
        key=key,
        answer=Remembered(
            fingerprint=fingerprint,
            change=change.id if change else None,
            status=answer.status,
            body="" if change else msgspec.json.encode(answer.value).decode(),
        ),
    )
    return _tagged(ports, answer, call, pool)


def _at_once(view: Coroutine[Any, Any, Any]) -> Answer:
    """Run a view that waits for nothing: it is inside a transaction."""
    try:
        view.send(None)
    except StopIteration as done:
        answer: Answer = done.value
        return answer
    view.close()
    raise RuntimeError("a changing view must not wait: it writes a wish, the loop does the rest")


def _tagged(ports: Ports, answer: Answer, call: Call, pool: str) -> Answer:
    """Say at which revision it is now; a removed replica's path does not lead to it any more."""
    now = revision.of_pool(ports, pool) if pool else revision.of_path(ports, call.path)
    return replace(answer, etag=now.tag) if now is not None else answer


def _again(ports: Ports, known: Remembered, call: Call) -> Answer:
    """Answer a repeated call: its change as it is now, whatever became of it."""
    if known.change is None:
        return Answer(known.body.encode(), status=known.status)
    change = ports.store.change(ChangeId(known.change))
    if change is None:
        raise Refused(
            "change.unknown", f"cannot find change {known.change}, which this call had made"
        )
    return _tagged(ports, accepted(change), call, change.pool)


def _key(text: str | None) -> str | None:
    if text is None:
        return None
    key = text.strip().strip('"')
    if not key or len(key) > LONGEST_KEY or not (key.isascii() and key.isprintable()):
        raise Refused(
            "request.bad-header",
            f"cannot use this {IDEMPOTENCY_KEY}: it takes 1 to {LONGEST_KEY} printable characters",
            hint="a random word for each wish, sent again with every repetition of it",
        )
    return key


def _fingerprint(route: Route, path: str, call: Call) -> str:
    asked = (route.method, path, sorted(_request(call).items()))
    return hashlib.sha256(msgspec.json.encode(asked)).hexdigest()


def _request(call: Call) -> dict[str, object]:
    """Return what was asked beside the path: the body's fields and the query's."""
    body = msgspec.to_builtins(call.body) if call.body is not None else {}
    fields: dict[str, object] = {**call.query, **body}
    return {name: value for name, value in fields.items() if value not in (None, "")}
