"""One exchange with the daemon: a request out, its answer's body back, or a problem.

Flows in: where the daemon is, and what is asked of it. Flows out: bytes, or a problem (the
daemon's own, or "daemon.unreachable" with the way out). It knows no route and no value. It speaks
HTTP/1.0 by hand, one connection a request: http.client would cost every command a third of its
time allowance (it imports email and ssl), and the answers of one known server need no more.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO
from urllib.parse import SplitResult, urlsplit

import msgspec

from poold.errors import Permanent, Problem, Refused, Temporary, problem_from_json

DEFAULT_SOCKET = "/run/poold/poold.sock"
_LARGEST_ANSWER_BYTES = 64 << 20
_LARGEST_HEAD_BYTES = 64 << 10
_LARGEST_PROBLEM_BYTES = 1 << 20


@dataclass(frozen=True)
class Where:
    """The daemon's address: a unix socket, or a URL with the file that holds the token."""

    socket: str = DEFAULT_SOCKET
    url: str = ""
    token_file: str = ""


def is_unreachable(problem: Problem) -> bool:
    """Tell whether the daemon could not be asked at all."""
    return problem.code == "daemon.unreachable"


def request(
    where: Where,
    method: str,
    path: str,
    body: bytes = b"",
    *,
    key: str = "",
    if_revision: int | None = None,
) -> bytes:
    """Return the request as it is sent; reads the token where one is needed."""
    url = _parts(where.url) if where.url else urlsplit("")
    headers = {"Host": url.netloc or "poold", "Accept": "application/json"}
    if where.token_file and where.url:
        headers["Authorization"] = f"Bearer {_token(where.token_file)}"
    if method != "GET":
        headers["Content-Type"] = "application/json"
        headers["Content-Length"] = str(len(body))
    if key:
        headers["Idempotency-Key"] = key
    if if_revision is not None:
        headers["If-Match"] = f'"{if_revision}"'
    base = url.path.rstrip("/")
    lines = [f"{method} {base}{path} HTTP/1.0", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def connect(where: Where, seconds: float) -> socket.socket:
    """Connect, within so many seconds for each address that a name has."""
    if not where.url:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(seconds)
        try:
            connection.connect(where.socket)
        except OSError as error:
            connection.close()
            raise _unreachable(where, error) from error
        return connection
    parts = _parts(where.url)
    address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    try:
        connection = socket.create_connection(address, timeout=seconds)
        return _encrypt(connection, address[0]) if parts.scheme == "https" else connection
    except OSError as error:
        raise _unreachable(where, error) from error


def _parts(url: str) -> SplitResult:
    """Take a URL apart; whatever cannot be used of it is refused here."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        host.encode("idna")  # as getaddrinfo does: a label is empty or too long
        usable = parts.scheme in {"http", "https"} and host != "" and parts.port != 0
    except ValueError:
        usable = False
    if not (usable and url.isascii() and url.isprintable()) or " " in url:
        raise Refused(
            "client.bad-url", f"cannot use the URL {url!r}", hint="as in http://host:8080"
        )
    return parts


def _encrypt(connection: socket.socket, name: str) -> socket.socket:
    import ssl

    try:
        return ssl.create_default_context().wrap_socket(connection, server_hostname=name)
    except OSError:
        connection.close()
        raise


def converse(where: Where, connection: socket.socket, asked: bytes, seconds: float) -> bytes:
    """Send one request and return the answer's body, or raise the problem it carries.

    The whole of it ends within `seconds`, however slowly the answer comes.
    """
    deadline = time.monotonic() + seconds
    raw = bytearray()
    with connection:
        try:
            # A server that refuses early (a body too large) may close before it read all.
            with contextlib.suppress(BrokenPipeError):
                connection.sendall(asked)
            while not _is_whole(raw) and (chunk := _receive(connection, deadline)):
                raw += chunk
                if len(raw) > _LARGEST_ANSWER_BYTES:
                    raise _garbled(where, "it is too long")
        except TimeoutError as error:
            raise _slow(where, seconds) from error
        except OSError as error:
            raise _unreachable(where, error) from error
    return _body_or_problem(where, bytes(raw))


def _is_whole(raw: bytearray) -> bool:
    """Whether all is there that was announced: a busy server closes the connection later."""
    end = raw.find(b"\r\n\r\n")
    if end < 0:
        return False
    length = _header(raw[:end].decode("latin-1").split("\r\n")[1:], "content-length")
    return length.isdecimal() and len(raw) >= end + 4 + int(length)


def _receive(connection: socket.socket, deadline: float) -> bytes:
    left_seconds = deadline - time.monotonic()
    if left_seconds <= 0:
        raise TimeoutError
    connection.settimeout(left_seconds)
    return connection.recv(1 << 16)


def stream(where: Where, asked: bytes, silence_seconds: float) -> Iterator[bytes]:
    """Send one request and give its answer's lines as they come; silence ends it with a problem."""
    with connect(where, silence_seconds) as connection:
        try:
            connection.sendall(asked)
            with connection.makefile("rb") as answer:
                head = _head(where, answer)
                if head.split(b" ", 2)[1:2] != [b"200"]:
                    _body_or_problem(where, head + answer.read(_LARGEST_PROBLEM_BYTES))
                    return
                yield from answer
        except TimeoutError as error:
            raise _slow(where, silence_seconds) from error
        except OSError as error:
            raise _unreachable(where, error) from error


def _head(where: Where, answer: BinaryIO) -> bytes:
    """Read the lines up to the empty one, and that."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = answer.readline(_LARGEST_HEAD_BYTES)
        if not line or len(head) > _LARGEST_HEAD_BYTES:
            raise _garbled(where, "it is not HTTP, or it broke off")
        head += line
    return head


def _body_or_problem(where: Where, raw: bytes) -> bytes:
    head, separator, body = raw.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ", 2)
    if (
        not separator
        or len(words) < 2
        or not words[0].startswith("HTTP/")
        or not words[1].isdecimal()
    ):
        raise _garbled(where, "it is not HTTP, or it broke off")
    length = _header(lines[1:], "content-length")
    if length.isdecimal() and len(body) != int(length):
        raise _garbled(where, "it broke off")
    if int(words[1]) < 300:
        return body
    raise _problem(where, int(words[1]), body)


def _header(lines: Iterable[str], name: str) -> str:
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip().lower() == name:
            return value.strip()
    return ""


def _problem(where: Where, status: int, body: bytes) -> Problem:
    """Rebuild the daemon's problem from its document; a proxy's page becomes a plain one."""
    try:
        document = msgspec.json.decode(body, type=dict[str, Any])
        return problem_from_json(
            {
                "kind": document["kind"],
                "code": document["code"],
                "message": document["detail"],
                "hint": document.get("hint", ""),
                "detail": document.get("evidence", ""),
                "retry_after_seconds": document.get("retry_after_seconds"),
            }
        )
    except (msgspec.MsgspecError, KeyError):
        return Permanent(
            "daemon.not-poold",
            f"cannot understand the answer of {_named(where)}: HTTP {status}",
            hint="is it poold that listens there?",
        )


def _token(file: str) -> str:
    from pathlib import Path

    try:
        token = Path(file).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not ASCII"
        raise Refused(
            "client.no-token",
            f"cannot read the token file {file}: {why}",
            hint="--token-file or POOLD_TOKEN_FILE names the file that holds the daemon's token",
        ) from error
    if not token.isprintable():
        raise Refused("client.no-token", f"cannot use the token in {file}: it has several lines")
    return token


def _named(where: Where) -> str:
    return f"the daemon at {where.url or where.socket}"


def _slow(where: Where, seconds: float) -> Temporary:
    return Temporary(
        "daemon.slow",
        f"cannot get an answer from {_named(where)} within {seconds:.0f} s",
        hint="it may be busy or stuck: journalctl -u poold",
    )


def _garbled(where: Where, why: str) -> Problem:
    return Temporary(
        "daemon.garbled", f"cannot read the answer of {_named(where)}: {why}", hint="try again"
    )


def _unreachable(where: Where, error: OSError) -> Problem:
    why = error.strerror or str(error) or type(error).__name__
    hint = "is it running? systemctl status poold; --socket, --url or --config say where it is"
    if isinstance(error, PermissionError):
        hint = "the socket's owner and group may ask: run it as root or join that group"
    return Temporary(
        "daemon.unreachable", f"cannot reach {_named(where)}: {why.lower()}", hint=hint
    )
