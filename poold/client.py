"""Asking the daemon, synchronously and from a short-lived program.

Flows in: where the daemon is, and a wish or a question. Flows out: the model's values, or a
problem (the daemon's own, or "daemon.unreachable" with the way out). It speaks HTTP/1.0 by hand,
one connection a request: http.client would cost every command a third of its time allowance (it
imports email and ssl), and the answers of one known server need no more than this.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from poold.errors import Permanent, Problem, Refused, Temporary, problem_from_json
from poold.model.events import AcceptedCall, Event, Explanation
from poold.model.fleet import Change, Generation, HostStatus, PoolStatus, Replica

T = TypeVar("T")

DEFAULT_SOCKET = "/run/poold/poold.sock"
_ANSWER_SECONDS = 15.0
_LOGS_SECONDS = 60.0
_DOCTOR_SECONDS = 300.0  # CRIU is tried on every host
_LONGEST_WAIT_SECONDS = 30.0  # of one long poll; the server allows 60
_SILENCE_SECONDS = 50.0  # on a stream of events; the server says something every 15 s
_RETRY_SECONDS = 0.5
_LOST = frozenset({"daemon.unreachable", "daemon.garbled", "daemon.slow"})
_LARGEST_ANSWER_BYTES = 64 << 20


@dataclass(frozen=True)
class Where:
    """The daemon's address: a unix socket, or a URL with the file that holds the token."""

    socket: str = DEFAULT_SOCKET
    url: str = ""
    token_file: str = ""


@dataclass(frozen=True)
class Client:
    """The API as functions. Every call but `follow` ends within its deadline.

    A wish whose answer was lost is sent again with its key for `patience_seconds`: it is accepted
    once, however often it arrives.
    """

    where: Where = field(default_factory=Where)
    patience_seconds: float = 20.0

    # -- questions --------------------------------------------------------------------------------

    def health(self) -> dict[str, str]:
        """Return the daemon's version and its sentence."""
        return self.get("/v1/health", dict[str, str])

    def pools(self) -> tuple[PoolStatus, ...]:
        """Return how each pool is."""
        return self._list("/v1/pools", "pools", PoolStatus)

    def replicas(self, pool: str | None = None) -> tuple[Replica, ...]:
        """Return all replicas, or a pool's."""
        return self._list(_path("/v1/replicas", pool=pool), "replicas", Replica)

    def hosts(self) -> tuple[HostStatus, ...]:
        """Return how each host is."""
        return self._list("/v1/hosts", "hosts", HostStatus)

    def generations(self, pool: str) -> tuple[Generation, ...]:
        """Return a pool's generations, the newest first."""
        return self._list(_path("/v1/pools", pool, "generations"), "generations", Generation)

    def logs(self, replica: str, tail: int) -> tuple[str, ...]:
        """Return the last lines of a replica's output."""
        path = _path("/v1/replicas", replica, "logs", tail=tail)
        return self._list(path, "lines", str, seconds=_LOGS_SECONDS)

    def changes(self, pool: str | None = None, limit: int = 20) -> tuple[Change, ...]:
        """Return the newest changes first."""
        return self._list(_path("/v1/changes", pool=pool, limit=limit), "changes", Change)

    def change(
        self, number: int, *, wait_seconds: float = 0, after_seq: int | None = None
    ) -> Change:
        """Return a change, at once or when there is news of it; never later than 30 s."""
        wait_seconds = min(max(wait_seconds, 0), _LONGEST_WAIT_SECONDS)
        path = _path(
            "/v1/changes", str(number), wait=round(wait_seconds, 3) or None, after=after_seq
        )
        return self.get(path, Change, seconds=_ANSWER_SECONDS + wait_seconds)

    def doctor(self) -> dict[str, Any]:
        """Have every host examined; takes seconds to minutes."""
        return self.get("/v1/doctor", dict[str, Any], seconds=_DOCTOR_SECONDS)

    def explain(self, pool: str) -> Explanation:
        """Return why a pool is as it is and what it waits for."""
        return self.get(_path("/v1/pools", pool, "explain"), Explanation)

    def calls(self, pool: str | None = None, limit: int = 20) -> tuple[AcceptedCall, ...]:
        """Return accepted changing calls, the newest first."""
        return self._list(_path("/v1/audit", pool=pool, limit=limit), "calls", AcceptedCall)

    def events(
        self, pool: str | None = None, *, after: int | None = None, limit: int = 50
    ) -> tuple[tuple[Event, ...], int]:
        """Return events, oldest first, and the id to go on after.

        The newest ones, or the next ones after an id.
        """
        path = _path("/v1/events", follow=0, pool=pool, after=after, limit=limit)
        answer = self.get(path, dict[str, Any])
        try:
            events = msgspec.convert(answer.get("events"), tuple[Event, ...])
            last = msgspec.convert(answer.get("last"), int)
        except msgspec.ValidationError as error:
            raise _other_version(error) from error
        return events, events[-1].id if after is not None and events else last

    def follow(self, pool: str | None = None, *, after: int | None = None) -> Iterator[Event]:
        """Give events as they happen, until the daemon ends the stream.

        Where events after `after` are not kept any more, the first one is of the kind "gap".
        Raises a Temporary when the daemon is gone or silent: go on after the last event seen.
        """
        request = self._request("GET", _path("/v1/events", pool=pool, after=after), b"", "")
        with _connect(self.where, _SILENCE_SECONDS) as connection:
            try:
                connection.sendall(request)
                with connection.makefile("rb") as answer:
                    head = b"".join(iter(answer.readline, b"\r\n"))
                    if head.split(b" ", 2)[1:2] != [b"200"]:
                        _body_or_problem(self.where, head + b"\r\n" + answer.read(1 << 20))
                        return
                    yield from _read_events(answer)
            except TimeoutError as error:
                raise _slow(self.where, _SILENCE_SECONDS) from error
            except OSError as error:
                raise _unreachable(self.where, error) from error

    # -- wishes -----------------------------------------------------------------------------------

    def scale(
        self,
        pool: str,
        *,
        replicas: int | None = None,
        delta: int | None = None,
        reason: str = "",
    ) -> Change:
        """Wish for a number of replicas, or for so many more or fewer."""
        wish = _given(replicas=replicas, delta=delta, reason=reason)
        return self._wish("PUT", _path("/v1/pools", pool, "scale"), wish)

    def restore(
        self, pool: str, *, name: str | None = None, host: str | None = None, reason: str = ""
    ) -> Change:
        """Wish for one more replica."""
        wish = _given(name=name, host=host, reason=reason)
        return self._wish("POST", _path("/v1/pools", pool, "replicas"), wish)

    def remove(self, replica: str, *, reason: str = "") -> Change:
        """Wish for one replica less: this one."""
        return self._wish("DELETE", _path("/v1/replicas", replica, reason=reason or None), None)

    def move(self, replica: str, *, to: str, reason: str = "") -> Change:
        """Wish for a running replica to go on elsewhere."""
        wish = _given(to=to, reason=reason)
        return self._wish("POST", _path("/v1/replicas", replica, "move"), wish)

    def checkpoint(self, pool: str, *, reason: str = "") -> Change:
        """Wish for a new generation."""
        return self._wish("POST", _path("/v1/pools", pool, "checkpoints"), _given(reason=reason))

    # -- hosts ------------------------------------------------------------------------------------

    def cordon(self, host: str, *, reason: str = "") -> Change:
        """Have no new replica placed on a host."""
        return self._wish("POST", _path("/v1/hosts", host, "cordon"), _given(reason=reason))

    def uncordon(self, host: str, *, reason: str = "") -> Change:
        """Have replicas placed on a host again."""
        return self._wish("POST", _path("/v1/hosts", host, "uncordon"), _given(reason=reason))

    def fence(self, host: str, *, confirmed: bool, reason: str = "") -> Change:
        """Take it that a host out of reach is dead."""
        wish = _given(confirmed=confirmed, reason=reason)
        return self._wish("POST", _path("/v1/hosts", host, "fence"), wish)

    def remove_host(self, host: str, *, confirmed: bool, reason: str = "") -> Change:
        """Forget a host that left the configuration."""
        wish = _given(confirmed=confirmed, reason=reason)
        return self._wish("POST", _path("/v1/hosts", host, "remove"), wish)

    # -- inside -----------------------------------------------------------------------------------

    def get(self, path: str, kind: type[T], *, seconds: float = _ANSWER_SECONDS) -> T:
        """Read a path of the API as a value of `kind`."""
        return _decode(self._exchange("GET", path, None, seconds), kind)

    def _list(
        self, path: str, key: str, kind: type[T], *, seconds: float = _ANSWER_SECONDS
    ) -> tuple[T, ...]:
        answer = self.get(path, dict[str, Any], seconds=seconds)
        try:
            return msgspec.convert(answer.get(key), tuple[kind, ...])  # type: ignore[valid-type]
        except msgspec.ValidationError as error:
            raise _other_version(error) from error

    def _wish(self, method: str, path: str, wish: dict[str, Any] | None) -> Change:
        body = b"" if wish is None else msgspec.json.encode(wish)
        request = self._request(method, path, body, os.urandom(16).hex())
        connection = _connect(self.where, _ANSWER_SECONDS)  # no daemon: nothing was lost
        try:
            return _decode(self._converse(connection, request, _ANSWER_SECONDS), Change)
        except Temporary as problem:
            if problem.code not in _LOST:
                raise
            return _decode(self._once_more(request, problem), Change)

    def _once_more(self, request: bytes, lost: Temporary) -> bytes:
        """Send a wish again whose answer was lost, until there is one or patience ends."""
        deadline = time.monotonic() + self.patience_seconds
        while time.monotonic() < deadline:
            time.sleep(min(_RETRY_SECONDS, max(0.0, deadline - time.monotonic())))
            try:
                connection = _connect(self.where, _ANSWER_SECONDS)
                return self._converse(connection, request, _ANSWER_SECONDS)
            except Temporary as problem:
                if problem.code not in _LOST:
                    raise
                lost = problem
        raise Temporary(
            lost.code,
            f"{lost.message}; whether the wish was accepted is not known",
            hint="poold changes shows it, once the daemon answers",
        ) from lost

    def _exchange(self, method: str, path: str, body: bytes | None, seconds: float) -> bytes:
        """Send one request and return the answer's body, or raise the problem it carries."""
        request = self._request(method, path, body or b"", "")
        return self._converse(_connect(self.where, seconds), request, seconds)

    def _converse(self, connection: socket.socket, request: bytes, seconds: float) -> bytes:
        raw = bytearray()
        with connection:
            try:
                # A server that refuses early (a body too large) may close before it read all.
                with contextlib.suppress(BrokenPipeError):
                    connection.sendall(request)
                while chunk := connection.recv(1 << 16):
                    raw += chunk
                    if len(raw) > _LARGEST_ANSWER_BYTES:
                        raise _garbled(self.where, "it is too long")
            except TimeoutError as error:
                raise _slow(self.where, seconds) from error
            except OSError as error:
                raise _unreachable(self.where, error) from error
        return _body_or_problem(self.where, bytes(raw))

    def _request(self, method: str, path: str, body: bytes, key: str) -> bytes:
        headers = {"Host": urlsplit(self.where.url).netloc or "poold", "Accept": "application/json"}
        if self.where.token_file and self.where.url:
            headers["Authorization"] = f"Bearer {_token(self.where.token_file)}"
        if method != "GET":
            headers["Content-Type"] = "application/json"
            headers["Content-Length"] = str(len(body))
        if key:
            headers["Idempotency-Key"] = key
        base = urlsplit(self.where.url).path.rstrip("/")
        lines = [f"{method} {base}{path} HTTP/1.0", *(f"{k}: {v}" for k, v in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def _read_events(lines: Iterable[bytes]) -> Iterator[Event]:
    is_gap = False
    for line in lines:
        if line.startswith(b"event: "):
            is_gap = line.strip() == b"event: gap"
        elif line.startswith(b"data: "):
            if not is_gap:
                yield _decode(line[6:], Event)
                continue
            gap = _decode(line[6:], dict[str, int])
            text = f"what happened after event {gap.get('after', 0)} is not kept any more"
            yield Event(max(0, gap.get("first", 0) - 1), time.time(), "gap", text)
            is_gap = False


def is_unreachable(problem: Problem) -> bool:
    """Tell whether the daemon could not be asked at all."""
    return problem.code == "daemon.unreachable"


def _connect(where: Where, seconds: float) -> socket.socket:
    """Connect; the timeout bounds each step of the exchange afterwards."""
    if not where.url:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(seconds)
        try:
            connection.connect(where.socket)
        except OSError as error:
            connection.close()
            raise _unreachable(where, error) from error
        return connection
    parts = urlsplit(where.url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        port = 0
    if parts.scheme not in {"http", "https"} or not parts.hostname or not port:
        raise Refused(
            "client.bad-url",
            f"cannot use the URL {where.url!r}",
            hint="as in http://host:8080",
        )
    try:
        connection = socket.create_connection((parts.hostname, port), timeout=seconds)
        return _encrypt(connection, parts.hostname) if parts.scheme == "https" else connection
    except OSError as error:
        raise _unreachable(where, error) from error


def _encrypt(connection: socket.socket, name: str) -> socket.socket:
    import ssl

    try:
        return ssl.create_default_context().wrap_socket(connection, server_hostname=name)
    except OSError:
        connection.close()
        raise


def _body_or_problem(where: Where, raw: bytes) -> bytes:
    head, separator, body = raw.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ", 2)
    if (
        not separator
        or len(words) < 2
        or not words[0].startswith("HTTP/")
        or not words[1].isdigit()
    ):
        raise _garbled(where, "it is not HTTP, or it broke off")
    length = _header(lines[1:], "content-length")
    if length.isdigit() and len(body) != int(length):
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


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise _other_version(error) from error


def _other_version(error: Exception) -> Problem:
    return Permanent(
        "daemon.other-version",
        f"cannot understand the daemon's answer: {error}",
        hint="compare poold --version with the daemon's: GET /v1/health",
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


def _path(base: str, *parts: str | None, **query: object) -> str:
    path = "/".join([base, *(quote(part or "-", safe="") for part in parts)])
    given = {key: value for key, value in query.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def _given(**fields: Any) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value not in (None, "")}
