"""From a problem to an HTTP status and a document (RFC 9457), and nothing else.

Flows in: problems of any part of the daemon. Flows out: status, headers, body. An exception that
is no problem becomes "internal": its text and traceback stay in the log.
"""

from __future__ import annotations

import math
from http import HTTPStatus

from poold.api.messages import ProblemView
from poold.errors import Permanent, Problem, Refused, Temporary

# Refusals by the end of their code; whatever is not listed is a bad request.
_BY_ENDING: tuple[tuple[int, frozenset[str]], ...] = (
    (401, frozenset({"unauthorized"})),
    (404, frozenset({"unknown", "no-route"})),
    (405, frozenset({"bad-method"})),
    (409, frozenset({"taken", "foreign-name", "same-host", "elsewhere"})),
    (409, frozenset({"moving", "not-ready", "key-reused", "full"})),
    (409, frozenset({"up", "cordoned", "fenced", "configured", "unconfirmed", "incompatible"})),
    (409, frozenset({"held", "no-generation", "unknown-application"})),
    (412, frozenset({"changed"})),
    (413, frozenset({"too-large"})),
    (422, frozenset({"out-of-bounds", "not-of-pool", "no-limits"})),
)

INTERNAL = Permanent(
    "internal",
    "cannot finish the request: the daemon has a bug or met something it was not built for",
    hint="the daemon's log has the details: journalctl -u poold",
)


def status_of(problem: Problem) -> int:
    """Return the status that says whose fault it is and whether trying again helps."""
    if isinstance(problem, Temporary):
        return 503
    if problem.code == INTERNAL.code:
        return 500
    if not isinstance(problem, Refused):
        return 502
    last_part = problem.code.rpartition(".")[2]
    for status, endings in _BY_ENDING:
        if any(last_part == ending or last_part.endswith("-" + ending) for ending in endings):
            return status
    return 400


def document(problem: Problem) -> ProblemView:
    """Return the body of the answer."""
    status = status_of(problem)
    return ProblemView(
        type=f"urn:poold:problem:{problem.code}",
        title=HTTPStatus(status).phrase,
        status=status,
        code=problem.code,
        detail=problem.message,
        kind=problem.kind,
        hint=problem.hint,
        evidence=problem.detail,
        retry_after_seconds=problem.retry_after_seconds,
    )


def headers(problem: Problem) -> dict[str, str]:
    """Return what the status asks for beside the body."""
    status = status_of(problem)
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return {"Retry-After": str(max(1, math.ceil(problem.retry_after_seconds or 1)))}
    if status == HTTPStatus.UNAUTHORIZED:
        return {"WWW-Authenticate": 'Bearer realm="poold"'}
    return {}
