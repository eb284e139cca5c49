"""Plain HTTP questions with a deadline, for measuring when an application first answers."""

from __future__ import annotations

import http.client
import socket
import time

from poold.errors import Temporary
from poold.model.application import Application, HttpProbe

_POLL_SECONDS = 0.005
_TRY_SECONDS = 2.0
_ANSWER_SECONDS = 10.0


def get(address: str, path: str, *, timeout_seconds: float = 10.0) -> str:
    """Return the body that `address` ("host:port") answers with, status 200 to 399.

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
    if not http.client.OK <= answer.status < http.client.BAD_REQUEST:
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
        "bench.no-answer",
        f"cannot get an answer of http://{address}{path} within {deadline_seconds:g} s",
        hint="look at the container on its host: podman ps -a",
    )


def answers(address: str, application: Application) -> None:
    """Ask a ready replica once, as its readiness probe would; raises when it does not answer.

    Where readiness is told by a command or on another port, a connection is all that is asked for.
    """
    host, _, port = address.rpartition(":")
    readiness = application.readiness
    if isinstance(readiness, HttpProbe) and readiness.port in (None, application.port):
        first_answer(address, readiness.path, deadline_seconds=_ANSWER_SECONDS)
        return
    with socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS):
        return
