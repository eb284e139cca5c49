"""Telling systemd how the daemon is: ready, status, stopping, alive (sd_notify(3)).

Flows in: NOTIFY_SOCKET and WATCHDOG_USEC of the environment, later one sentence at a time; flows
out: datagrams. Without the socket nothing happens. It never raises, because a daemon must not fail
for want of somebody to tell; and it does not know what being alive means: the loop says so.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import MutableMapping
from typing import Final

LOG = logging.getLogger(__name__)

# The service manager reads at once; a full queue means that it is in trouble itself. The daemon's
# loop may wait for it so long and no longer.
_SEND_TIMEOUT_SECONDS: Final = 0.5
_VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Notifier:
    """Speaks to one notification socket; `address` is a path, or "@name" for an abstract one."""

    def __init__(
        self, address: str | None, *, watchdog_interval_seconds: float | None = None
    ) -> None:
        self._address = _socket_address(address)
        self._is_silent = False
        self.watchdog_interval_seconds = watchdog_interval_seconds if self._address else None
        """How often to call `watchdog`: half of what systemd allows; None: nobody waits for it."""

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str] = os.environ) -> Notifier:
        """Build it from what systemd left in the environment, and take that out of it.

        Children must not inherit the socket: podman hands NOTIFY_SOCKET on to the container it
        starts, and an application that says READY=1 or MAINPID= there would speak for the daemon.
        """
        address, limit, pid = (environ.pop(name, None) for name in _VARIABLES)
        meant_for_us = pid is None or pid == str(os.getpid())
        interval = None
        if limit and limit.isascii() and limit.isdigit() and int(limit) > 0 and meant_for_us:
            interval = int(limit) / 1_000_000 / 2
        return cls(address, watchdog_interval_seconds=interval)

    def ready(self, status: str = "") -> bool:
        """Report that start-up, or a reload, is complete; optionally with a first status."""
        return self._send("READY=1", *([_status(status)] if status else []))

    def status(self, text: str) -> bool:
        """Set the line that `systemctl status` shows."""
        return self._send(_status(text))

    def reloading(self) -> bool:
        """Report that a reload began; `ready` ends it."""
        now_usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        return self._send("RELOADING=1", f"MONOTONIC_USEC={now_usec}")

    def stopping(self) -> bool:
        """Report that the daemon is on its way out."""
        return self._send("STOPPING=1")

    def watchdog(self) -> bool:
        """Report a sign of life. To be called by what has to be alive, not by a timer."""
        return self.watchdog_interval_seconds is not None and self._send("WATCHDOG=1")

    def _send(self, *assignments: str) -> bool:
        """Send one datagram; returns whether the service manager has it."""
        if self._address is None:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as speaker:
                speaker.settimeout(_SEND_TIMEOUT_SECONDS)
                speaker.sendto("\n".join(assignments).encode("utf-8", "replace"), self._address)
        except OSError as error:
            if not self._is_silent:  # once, not with every sign of life
                LOG.warning("cannot notify systemd: %s", error, extra={"action": "notify_failed"})
            self._is_silent = True
            return False
        self._is_silent = False
        return True


def _socket_address(address: str | None) -> str | None:
    """Return the address for connect(2): an abstract one begins with a zero byte there."""
    if not address:
        return None
    if address.startswith("@"):
        return "\0" + address[1:]
    if address.startswith("/"):
        return address
    LOG.warning("cannot notify systemd at %r", address, extra={"action": "notify_failed"})
    return None


def _status(text: str) -> str:
    """Return the assignment on one line: a second line would be an assignment of its own."""
    return "STATUS=" + " ".join(text.split())
