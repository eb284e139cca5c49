"""The client against servers that misbehave; the good cases are the command line's tests."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from poold.client import Client, Where
from poold.errors import Permanent, Problem, Refused, Temporary


@contextmanager
def _answering(path: Path, raw: bytes) -> Iterator[Client]:
    """Serve one fixed answer on a unix socket, once, and give a client for it."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def serve() -> None:
            connection, _peer = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(raw)

        thread = threading.Thread(target=serve)
        thread.start()
        yield Client(Where(socket=str(path)))
        thread.join(10)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "daemon.garbled"),
        (b"hello\r\n\r\n", "daemon.garbled"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "daemon.garbled"),
        (b"HTTP/1.1 \xb2 OK\r\n\r\n", "daemon.garbled"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\n{}", "daemon.other-version"),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"pools"', "daemon.garbled"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "daemon.other-version"),
        (b"HTTP/1.1 200 OK\r\n\r\nnot json", "daemon.other-version"),
        (b'HTTP/1.1 200 OK\r\n\r\n{"pools": [{"name": 1}]}', "daemon.other-version"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n<html>", "daemon.not-poold"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n{}", "daemon.not-poold"),
        (b"HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n", "daemon.not-poold"),
    ],
)
def test_what_is_not_an_answer_is_a_problem(tmp_path, raw, code):
    """Broken off, not HTTP, not JSON, not poold: each is a problem with a code."""
    with _answering(tmp_path / "s", raw) as client, pytest.raises(Problem) as failed:
        client.pools()
    assert failed.value.code == code
    assert failed.value.message.startswith("cannot ")


@pytest.mark.parametrize(
    "raw", [b"", b"HTTP/1.1 200 OK\r\nContent-Type: text/ev", b"hello\r\n\r\n"]
)
def test_a_stream_that_breaks_off_in_its_head_is_a_problem(tmp_path, raw):
    """A daemon that dies before it answered: whoever follows may come back, and does not hang."""
    with _answering(tmp_path / "s", raw) as client, pytest.raises(Temporary) as failed:
        list(client.follow())
    assert failed.value.code == "daemon.garbled"


def test_a_problem_document_becomes_the_same_problem(tmp_path):
    """Kind, code, text, hint, evidence and patience of the daemon's problem arrive."""
    document = (
        b'{"kind":"temporary","code":"host.unreachable","detail":"cannot reach a",'
        b'"hint":"plug it in","evidence":"x\\ny","retry_after_seconds":3,"status":503}'
    )
    raw = b"HTTP/1.1 503 Service Unavailable\r\n\r\n" + document
    with _answering(tmp_path / "s", raw) as client, pytest.raises(Temporary) as failed:
        client.hosts()
    problem = failed.value
    assert (problem.code, problem.message) == ("host.unreachable", "cannot reach a")
    assert (problem.hint, problem.detail) == ("plug it in", "x\ny")
    assert problem.retry_after_seconds == 3


def test_a_silent_daemon_is_slow_not_gone(tmp_path):
    """No answer within the deadline is a problem of its own."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        with pytest.raises(Temporary) as slow:
            Client(Where(socket=str(tmp_path / "s"))).get("/v1/pools", dict, seconds=0.05)
    assert slow.value.code == "daemon.slow"


def test_a_whole_answer_is_not_waited_on(tmp_path):
    """What was announced is there: when the daemon closes the connection does not matter."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        taken = threading.Event()

        def serve() -> None:
            connection, _peer = listening.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{")
                connection.sendall(b"}")
                taken.wait(10)

        thread = threading.Thread(target=serve)
        thread.start()
        assert Client(Where(socket=str(tmp_path / "s"))).get("/v1/pools", dict, seconds=5) == {}
        taken.set()
        thread.join(10)


def test_a_daemon_that_drips_is_slow(tmp_path):
    """The deadline is the whole answer's, however often a byte of it arrives."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        gone = threading.Event()

        def drip() -> None:
            connection, _peer = listening.accept()
            with connection, suppress(OSError):
                for _ in range(100):
                    connection.sendall(b"x")
                    gone.wait(0.02)

        thread = threading.Thread(target=drip)
        thread.start()
        with pytest.raises(Temporary) as slow:
            Client(Where(socket=str(tmp_path / "s"))).get("/v1/pools", dict, seconds=0.2)
        gone.set()
        thread.join(10)
    assert slow.value.code == "daemon.slow"


def test_a_dead_socket_is_unreachable(tmp_path):
    """A socket file without a daemon says that nobody listens there."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    with pytest.raises(Temporary, match="connection refused") as away:
        Client(Where(socket=str(tmp_path / "s"))).pools()
    assert away.value.code == "daemon.unreachable"


def test_a_path_that_is_too_long_is_unreachable(tmp_path):
    """A socket path that the kernel does not take is a sentence, not a traceback."""
    with pytest.raises(Temporary, match="too long"):
        Client(Where(socket=str(tmp_path / ("x" * 120)))).pools()


def test_a_port_where_nobody_listens_is_unreachable():
    """TCP that is refused says so."""
    with pytest.raises(Temporary) as away:
        Client(Where(url="http://127.0.0.1:1")).pools()
    assert away.value.code == "daemon.unreachable"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x",
        "http://",
        "http://[x",
        "http://x:99999",
        "http://x:y",
        "http://\N{SNOWMAN}",
        "http://a b",
        "http://x..y",
        f"http://{'x' * 64}.y",
    ],
)
@pytest.mark.parametrize("asked", [Client.pools, lambda client: list(client.follow())])
def test_a_url_that_is_none_is_refused(url, asked):
    """Whatever is wrong with a URL: the same sentence says that it cannot be used."""
    with pytest.raises(Refused) as refused:
        asked(Client(Where(url=url)))
    assert refused.value.code == "client.bad-url"


@pytest.mark.parametrize("token", ["two\nlines", "ü"])
def test_a_token_file_must_hold_one_plain_line(tmp_path, token):
    """A token that would break the header is refused before anything is sent."""
    file = tmp_path / "token"
    file.write_text(token)
    with pytest.raises(Problem) as refused:
        Client(Where(url="http://127.0.0.1:1", token_file=str(file))).pools()
    assert refused.value.code == "client.no-token"
    assert token not in refused.value.message


@pytest.mark.parametrize("name", ["../x", "a b", "a\r\nX: y", "", "ä?#"])
def test_names_cannot_change_the_request(tmp_path, name):
    """Whatever a name holds stays one escaped part of the path."""
    seen = []
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()

        def serve() -> None:
            connection, _peer = listening.accept()
            with connection:
                seen.append(connection.recv(65536))
                connection.sendall(b"HTTP/1.0 500 x\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(Permanent):
            Client(Where(socket=str(tmp_path / "s"))).generations(name)
        thread.join(10)
    first, *headers = seen[0].decode().split("\r\n")
    assert first.split(" ")[0] == "GET"
    assert len(first.split(" ")) == 3
    assert first.split(" ")[1].count("/") == 4
    assert [line.partition(":")[0] for line in headers if line] == ["Host", "Accept"]
