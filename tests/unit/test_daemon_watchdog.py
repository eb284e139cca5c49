"""The watchdog is fed by a loop that lives, not by a process that is merely there."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from poold import daemon
from poold.errors import Permanent
from poold.systemd import Notifier

INTERVAL_SECONDS = 0.02


class Beating:
    """Stands for the loop: it was seen alive `ago` seconds before now."""

    def __init__(self, ago: float) -> None:
        self.ago = ago

    def beat(self) -> float:
        return time.monotonic() - self.ago


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    """Listen where the service manager would."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        yield listening


async def test_a_loop_that_stands_still_is_not_fed_for(
    systemd: socket.socket, tmp_path: Path
) -> None:
    """No sign of life is passed on while the loop gives none, and again as soon as it does."""
    loop = Beating(ago=daemon.STUCK_SECONDS + 1)
    notifier = Notifier(str(tmp_path / "notify"), watchdog_interval_seconds=INTERVAL_SECONDS)
    feeding = asyncio.ensure_future(daemon.feed_watchdog(loop, notifier))
    try:
        await asyncio.sleep(10 * INTERVAL_SECONDS)  # ten chances to feed
        with pytest.raises(BlockingIOError):
            systemd.recv(64)
        loop.ago = 0.0
        said = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(systemd, 64), 10)
        assert said == b"WATCHDOG=1"
    finally:
        feeding.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await feeding


def test_a_stuck_loop_is_noticed_before_systemd_would_give_up() -> None:
    """The unit's watchdog time leaves room: stuck is said earlier than it runs out."""
    unit = (Path(__file__).parents[2] / "systemd/poold.service").read_text(encoding="utf-8")
    (allowed,) = [line for line in unit.splitlines() if line.startswith("WatchdogSec=")]
    assert float(allowed.removeprefix("WatchdogSec=").removesuffix("s")) > daemon.STUCK_SECONDS


async def test_what_ended_the_daemon_is_said_and_not_the_group_it_was_in() -> None:
    """A worker's failure comes out of the loop in groups; the operator reads the failure."""

    async def loop() -> None:
        async with asyncio.TaskGroup() as group, asyncio.TaskGroup() as inner:
            group.create_task(asyncio.sleep(3600))
            inner.create_task(fails())

    async def fails() -> None:
        raise Permanent("store.failed", "cannot use the state: no such table: rolls")

    with pytest.raises(Permanent, match=r"the task loop ended .*no such table: rolls") as died:
        await daemon._supervise(asyncio.Event(), {"loop": loop})
    assert died.value.code == "daemon.task-died"
