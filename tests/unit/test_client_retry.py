"""A wish whose answer was lost: sent again with the same key, and only then."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from poold.client import Client, Where
from poold.errors import Problem, Temporary
from poold.model.fleet import Change

CHANGE = msgspec.json.encode(
    Change(id=7, pool="hello", kind="scale", wish={}, actor="a", created_at=0.0)
)
ACCEPTED = b"HTTP/1.1 202 Accepted\r\nContent-Length: %d\r\n\r\n%b" % (len(CHANGE), CHANGE)
FULL = b'{"kind":"temporary","code":"store.disk-full","detail":"cannot write"}'
REFUSED = b"HTTP/1.1 503 Unavailable\r\n\r\n" + FULL


@contextmanager
def server(path: Path, *answers: bytes) -> Iterator[list[bytes]]:
    """Give each connection the next answer; yields the requests that arrived."""
    requests: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def serve() -> None:
            for answer in answers:
                connection, _ = listening.accept()
                with connection:
                    requests.append(connection.recv(65536))
                    connection.sendall(answer)
            listening.close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield requests
        thread.join(10)
        assert not thread.is_alive()


def keys(requests: list[bytes]) -> list[bytes]:
    return [
        line.split(b": ")[1]
        for request in requests
        for line in request.split(b"\r\n")
        if line.startswith(b"Idempotency-Key: ")
    ]


def test_a_lost_answer_is_asked_for_again_with_the_same_key(tmp_path):
    """The connection ends without an answer, twice: the third time the change is there."""
    with server(tmp_path / "s", b"", b"HTTP/1.1 202 Acc", ACCEPTED) as requests:
        change = Client(Where(socket=str(tmp_path / "s"))).scale("hello", delta=1)
    assert change.id == 7
    assert len(requests) == 3
    assert len(keys(requests)) == 3
    assert len(set(keys(requests))) == 1


def test_an_answer_is_an_answer(tmp_path):
    """A problem that the daemon answered with is not asked for again, even a temporary one."""
    with server(tmp_path / "s", REFUSED) as requests, pytest.raises(Temporary) as failed:
        Client(Where(socket=str(tmp_path / "s"))).scale("hello", delta=1)
    assert failed.value.code == "store.disk-full"
    assert len(requests) == 1


def test_no_daemon_is_said_at_once(tmp_path):
    """Where nothing listens nothing was lost: no patience is needed."""
    with pytest.raises(Problem) as failed:
        Client(Where(socket=str(tmp_path / "s")), patience_seconds=3600).scale("hello", delta=1)
    assert failed.value.code == "daemon.unreachable"


def test_patience_ends(tmp_path):
    """A daemon that stays away after a lost answer: it is said that nobody knows."""
    client = Client(Where(socket=str(tmp_path / "s")), patience_seconds=0.01)
    with server(tmp_path / "s", b""), pytest.raises(Temporary) as failed:
        client.scale("hello", delta=1)
    assert "whether the wish was accepted is not known" in failed.value.message


def test_without_patience_a_lost_answer_is_said_at_once(tmp_path):
    """A client with no patience sends its wish once."""
    client = Client(Where(socket=str(tmp_path / "s")), patience_seconds=0.0)
    with server(tmp_path / "s", b"") as requests, pytest.raises(Temporary) as failed:
        client.scale("hello", delta=1)
    assert "whether the wish was accepted is not known" in failed.value.message
    assert len(requests) == 1


def test_questions_are_not_repeated(tmp_path):
    """A question has no key and is not sent again: who asks may ask again."""
    with server(tmp_path / "s", b"") as requests, pytest.raises(Temporary):
        Client(Where(socket=str(tmp_path / "s"))).pools()
    assert keys(requests) == []
    assert len(requests) == 1
