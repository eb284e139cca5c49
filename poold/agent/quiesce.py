"""Which TCP sockets stand in the way of a checkpoint, read from a network namespace's tables.

Flows in: the text of /proc/PID/net/tcp and tcp6. Flows out: the sockets that are neither listening
nor already gone, in the operator's words. It knows nothing of containers.

CRIU refuses an established socket, and one in state CLOSE (a closed probe's leftover, up to a
second) is dumped as a connection that no replica can restore. What the kernel alone still holds
(TIME_WAIT, an orphan finishing its goodbye: inode 0) belongs to no process and is not dumped.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from pathlib import Path

_STATES = {
    1: "ESTABLISHED", 2: "SYN_SENT", 3: "SYN_RECV", 4: "FIN_WAIT1", 5: "FIN_WAIT2",
    6: "TIME_WAIT", 7: "CLOSE", 8: "CLOSE_WAIT", 9: "LAST_ACK", 10: "LISTEN", 11: "CLOSING",
    12: "NEW_SYN_RECV",
}  # fmt: skip
# A connection not yet accepted has inode 0 as well, but CRIU refuses it: "in-flight connection".
_HARMLESS_ORPHANS = ("FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE", "LAST_ACK", "CLOSING")


@dataclass(frozen=True)
class TcpSocket:
    """One row of the kernel's table."""

    local: str
    remote: str
    state: str
    inode: int

    @property
    def disturbs(self) -> bool:
        """Whether a checkpoint taken now would hold, or be refused for, this socket."""
        if self.state == "LISTEN":
            return False
        return not (self.inode == 0 and self.state in _HARMLESS_ORPHANS)

    @property
    def words(self) -> str:
        """Say who is connected with whom."""
        return f"{self.local} with {self.remote} ({self.state})"


def parse(table: str) -> tuple[TcpSocket, ...]:
    """Read one table; the first line is its heading."""
    rows = (line.split() for line in table.splitlines()[1:])
    return tuple(
        TcpSocket(
            _endpoint(row[1]), _endpoint(row[2]), _STATES.get(int(row[3], 16), row[3]), int(row[9])
        )
        for row in rows
        if len(row) > 9
    )


def disturbing(pid: int) -> tuple[str, ...]:
    """Name the disturbing sockets of the process's network namespace; OSError when it is gone."""
    sockets = [
        found
        for table in ("tcp", "tcp6")
        for found in parse(Path(f"/proc/{pid}/net/{table}").read_text())
    ]
    return tuple(found.words for found in sockets if found.disturbs)


def _endpoint(text: str) -> str:
    """Turn the kernel's hex words (each in the host's byte order) into an address and port."""
    address, _, port = text.partition(":")
    words = [int(address[index : index + 8], 16) for index in range(0, len(address), 8)]
    packed = b"".join(struct.pack("=I", word) for word in words)
    if len(packed) == 4:
        return f"{socket.inet_ntop(socket.AF_INET, packed)}:{int(port, 16)}"
    shown = socket.inet_ntop(socket.AF_INET6, packed)
    if shown.startswith("::ffff:"):
        return f"{shown[7:]}:{int(port, 16)}"
    return f"[{shown}]:{int(port, 16)}"
