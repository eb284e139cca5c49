"""Asking the daemon, synchronously and from a short-lived program.

Flows in: where the daemon is, and a wish or a question. Flows out: the model's values, or a
problem. How the bytes get there and back is `poold.exchange`'s matter.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from poold import exchange
from poold.errors import Permanent, Problem, Temporary
from poold.exchange import DEFAULT_SOCKET, Where, is_unreachable
from poold.model.events import AcceptedCall, Event, Explanation
from poold.model.fleet import Change, Generation, HostStatus, PoolStatus, Replica, Spare

__all__ = ["DEFAULT_SOCKET", "Client", "Where", "is_unreachable"]

T = TypeVar("T")

_ANSWER_SECONDS = 15.0
_LOGS_SECONDS = 60.0
_DOCTOR_SECONDS = 300.0  # CRIU is tried on every host
_LONGEST_WAIT_SECONDS = 30.0  # of one long poll; the server allows 60
_SILENCE_SECONDS = 50.0  # on a stream of events; the server says something every 15 s
_RETRY_SECONDS = 0.5
_LOST = frozenset({"daemon.unreachable", "daemon.garbled", "daemon.slow"})


@dataclass(frozen=True)
class Client:
    """The API as functions. Every call but `follow` ends within its deadline, once connected.

    A wish whose answer was lost is sent again with its key for `patience_seconds`: it is accepted
    once, however often it arrives. `key` takes the place of a random one, so that another process
    can repeat the wish; with `if_revision` it is refused (pool.changed, host.changed) unless what
    it is about is at that revision.
    """

    where: Where = field(default_factory=Where)
    patience_seconds: float = 20.0
    key: str = ""
    if_revision: int | None = None

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

    def revisions(self, pool: str | None = None) -> tuple[tuple[Replica, ...], dict[str, int]]:
        """Return replicas, and the revisions of their pools' wishes in the very same moment."""
        answer = self.get(_path("/v1/replicas", pool=pool), dict[str, Any])
        try:
            found = msgspec.convert(answer.get("replicas"), tuple[Replica, ...])
            return found, msgspec.convert(answer.get("revisions", {}), dict[str, int])
        except msgspec.ValidationError as error:
            raise _other_version(error) from error

    def spares(self, pool: str | None = None) -> tuple[Spare, ...]:
        """Return what was restored ahead of need."""
        answer = self.get(_path("/v1/replicas", pool=pool), dict[str, Any])
        try:
            return msgspec.convert(answer.get("spares", ()), tuple[Spare, ...])
        except msgspec.ValidationError as error:
            raise _other_version(error) from error

    def hosts(self) -> tuple[HostStatus, ...]:
        """Return how each host is."""
        return self._list("/v1/hosts", "hosts", HostStatus)

    def generations(self, pool: str) -> tuple[Generation, ...]:
        """Return a pool's generations, the newest first."""
        return self._list(_path("/v1/pools", pool, "generations"), "generations", Generation)

    def unfit(self, pool: str) -> dict[str, dict[str, tuple[str, ...]]]:
        """Return which hosts cannot take which of a pool's generations, and why, by digest."""
        answer = self.get(_path("/v1/pools", pool, "generations"), dict[str, Any])
        try:
            return msgspec.convert(answer.get("unfit"), dict[str, dict[str, tuple[str, ...]]])
        except msgspec.ValidationError as error:
            raise _other_version(error) from error

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
        request = exchange.request(self.where, "GET", _path("/v1/events", pool=pool, after=after))
        yield from _read_events(exchange.stream(self.where, request, _SILENCE_SECONDS))

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

    def import_archive(
        self, pool: str, *, file: str, host: str | None = None, reason: str = ""
    ) -> Change:
        """Wish for a generation made of an archive that lies on a host."""
        wish = _given(file=file, host=host, reason=reason)
        return self._wish("POST", _path("/v1/pools", pool, "imports"), wish)

    def roll(
        self,
        pool: str,
        *,
        to: int | None = None,
        surge: int | None = None,
        unavailable: int | None = None,
        reason: str = "",
    ) -> Change:
        """Wish for all replicas to be of the newest generation that fits, or of this one."""
        wish = _given(to=to, surge=surge, unavailable=unavailable, reason=reason)
        return self._wish("POST", _path("/v1/pools", pool, "roll"), wish)

    def rollback(
        self,
        pool: str,
        *,
        to: int | None = None,
        surge: int | None = None,
        unavailable: int | None = None,
        reason: str = "",
    ) -> Change:
        """Wish for all replicas to be of the generation before, or of this one, and to stay so."""
        wish = _given(to=to, surge=surge, unavailable=unavailable, reason=reason)
        return self._wish("POST", _path("/v1/pools", pool, "rollback"), wish)

    # -- hosts ------------------------------------------------------------------------------------

    def cordon(self, host: str, *, reason: str = "") -> Change:
        """Have no new replica placed on a host."""
        return self._wish("POST", _path("/v1/hosts", host, "cordon"), _given(reason=reason))

    def uncordon(self, host: str, *, reason: str = "") -> Change:
        """Have replicas placed on a host again."""
        return self._wish("POST", _path("/v1/hosts", host, "uncordon"), _given(reason=reason))

    def pardon(self, host: str, *, pool: str = "", reason: str = "") -> Change:
        """Have quarantined generations tried on a host again."""
        wish = _given(pool=pool, reason=reason)
        return self._wish("POST", _path("/v1/hosts", host, "pardon"), wish)

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
        request = exchange.request(self.where, "GET", path)
        connection = exchange.connect(self.where, seconds)
        return _decode(exchange.converse(self.where, connection, request, seconds), kind)

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
        key = self.key or os.urandom(16).hex()
        request = exchange.request(
            self.where, method, path, body, key=key, if_revision=self.if_revision
        )
        connection = exchange.connect(self.where, _ANSWER_SECONDS)  # no daemon: nothing was lost
        try:
            return _decode(
                exchange.converse(self.where, connection, request, _ANSWER_SECONDS), Change
            )
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
                connection = exchange.connect(self.where, _ANSWER_SECONDS)
                return exchange.converse(self.where, connection, request, _ANSWER_SECONDS)
            except Temporary as problem:
                if problem.code not in _LOST:
                    raise
                lost = problem
        raise Temporary(
            lost.code,
            f"{lost.message}; whether the wish was accepted is not known",
            hint="poold changes shows it, once the daemon answers",
        ) from lost


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


def _path(base: str, *parts: str | None, **query: object) -> str:
    path = "/".join([base, *(quote(part or "-", safe="") for part in parts)])
    given = {key: value for key, value in query.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def _given(**fields: Any) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value not in (None, "")}
