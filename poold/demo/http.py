"""Plain HTTP questions with a deadline, for measuring when an application first answers."""

from __future__ import annotations

import http.client
import time

from poold.errors import Temporary

_POLL_SECONDS = 0.005
_TRY_SECONDS = 2.0


def get(address: str, path: str, *, timeout_seconds: float = 10.0) -> str:
    """Return the body that `address` ("host:port") answers with status 200.

    Raises OSError or http.client.HTTPException when it does not.
    """
    connection = http.client.HTTPConnection(address, timeout=timeout_seconds)
    try:
        # Closed by the server: a client that closes first leaves the server's socket half open.
        connection.request("GET", path, headers={"Connection": "close"})
        answer = connection.getresponse()
        body = answer.read().decode(errors="replace")
    finally:
        connection.close()
    if answer.status != http.client.OK:
        raise http.client.HTTPException(f"{address}{path} answered {answer.status}")
    return body.strip()


def first_answer(address: str, path: str, *, deadline_seconds: float) -> float:
    """Ask every few milliseconds until it answers; return that moment (monotonic seconds)."""
    deadline = time.monotonic() + deadline_seconds
    while time.monotonic() < deadline:
        try:
            get(address, path, timeout_seconds=_TRY_SECONDS)
        except (OSError, http.client.HTTPException):
            time.sleep(_POLL_SECONDS)
        else:
            return time.monotonic()
    raise Temporary(
        "demo.no-answer",
        f"cannot get an answer of http://{address}{path} within {deadline_seconds:g} s",
        hint="look at the container: poold lab exec a -- podman ps -a",
    )
