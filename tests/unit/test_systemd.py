"""What systemd is told, over real datagram sockets."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from poold.systemd import Notifier


class Manager:
    """The receiving end."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(5)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)

    def heard(self) -> str:
        return self.socket.recv(4096).decode()

    def has_news(self) -> bool:
        return bool(select.select([self.socket], [], [], 0)[0])


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    path = str(tmp_path / "notify")
    manager = Manager(path if request.param == "path" else f"@poold-test{path}")
    yield manager
    manager.socket.close()


def test_says_each_thing_as_systemd_reads_it(manager: Manager) -> None:
    """Every message arrives as one datagram, on a path and on an abstract socket."""
    notifier = Notifier.from_environment(
        {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "15000000"}
    )
    assert notifier.ready()
    assert manager.heard() == "READY=1"
    assert notifier.ready("hello 3/3")
    assert manager.heard() == "READY=1\nSTATUS=hello 3/3"
    assert notifier.status("hello 2/3")
    assert manager.heard() == "STATUS=hello 2/3"
    assert notifier.watchdog()
    assert manager.heard() == "WATCHDOG=1"
    assert notifier.stopping()
    assert manager.heard() == "STOPPING=1"
    assert notifier.reloading()
    first, second = manager.heard().split("\n")
    assert first == "RELOADING=1"
    assert second.removeprefix("MONOTONIC_USEC=").isdigit()


def test_a_status_is_one_line(manager: Manager) -> None:
    """Text cannot smuggle in an assignment of its own."""
    Notifier(manager.address).status("cannot do:\nMAINPID=1")
    assert manager.heard() == "STATUS=cannot do: MAINPID=1"


def test_does_nothing_without_a_socket() -> None:
    """Started by hand there is nobody to tell, and no watchdog."""
    notifier = Notifier.from_environment({"WATCHDOG_USEC": "1000000"})
    assert notifier.watchdog_interval_seconds is None
    calls = (notifier.ready, notifier.stopping, notifier.reloading, notifier.watchdog)
    assert not any(call() for call in calls)
    assert not notifier.status("x")


@pytest.mark.parametrize(
    ("variables", "interval"),
    [
        ({"WATCHDOG_USEC": "15000000"}, 7.5),
        ({"WATCHDOG_USEC": "15000000", "WATCHDOG_PID": str(os.getpid())}, 7.5),
        ({"WATCHDOG_USEC": "15000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_feeds_twice_as_often_as_asked(
    manager: Manager, variables: dict[str, str], interval: float | None
) -> None:
    """The interval is half of systemd's, and there is none where the watchdog is another's."""
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": manager.address, **variables})
    assert notifier.watchdog_interval_seconds == interval
    assert notifier.watchdog() == (interval is not None)
    assert manager.has_news() == (interval is not None)


def test_children_inherit_nothing(manager: Manager) -> None:
    """What systemd left for the daemon is taken out of the environment, the rest stays."""
    environ = {
        "NOTIFY_SOCKET": manager.address,
        "WATCHDOG_USEC": "1",
        "WATCHDOG_PID": "1",
        "PATH": "/bin",
    }
    Notifier.from_environment(environ)
    assert environ == {"PATH": "/bin"}


@pytest.mark.parametrize(
    "address", ["/nowhere/at/all", "@poold-nobody", "relative", "/" + "x" * 200, "vsock:2:1"]
)
def test_never_raises(address: str, caplog: pytest.LogCaptureFixture) -> None:
    """A socket that is not there, or is no address at all, costs one warning and nothing else."""
    notifier = Notifier(address, watchdog_interval_seconds=1)
    assert not notifier.ready()
    assert not notifier.watchdog()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert caplog.records[0].getMessage().startswith("cannot notify systemd")


def test_speaks_again_when_the_manager_is_back(tmp_path: Path) -> None:
    """A manager that was away (daemon-reexec) is told again as soon as it listens."""
    address = str(tmp_path / "notify")
    notifier = Notifier(address)
    assert not notifier.status("lost")
    manager = Manager(address)
    try:
        assert notifier.status("heard")
        assert manager.heard() == "STATUS=heard"
    finally:
        manager.socket.close()


def test_a_manager_that_does_not_read_blocks_nobody_for_long(manager: Manager) -> None:
    """When the queue is full the message is dropped, within a bounded wait."""
    notifier = Notifier(manager.address)
    for _ in range(10_000):
        if not notifier.status("x" * 1000):
            return
    pytest.fail("the queue never filled up")
