"""Which sockets disturb a checkpoint, from tables as the kernel writes them."""

from __future__ import annotations

import os
import socket

import pytest

from poold.agent import quiesce

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"


def row(state: str, inode: int, local: str = "0300580A:1F90", remote: str = "0B004E0A:C8B6") -> str:
    return (
        f"   0: {local} {remote} {state} 00000000:00000000 00:00000000 00000000     0        0"
        f" {inode} 1 00000000442becab 100 0 0 10 0\n"
    )


@pytest.mark.parametrize(
    ("state", "inode", "disturbs"),
    [
        ("0A", 62342, False),  # listening
        ("01", 62343, True),  # established
        ("01", 0, True),  # established, not accepted: CRIU's "in-flight connection"
        ("03", 0, True),  # a handshake under way becomes one
        ("06", 0, False),  # TIME_WAIT belongs to no process
        ("04", 0, False),  # so does an orphan
        ("07", 62344, True),  # a closed probe's leftover: no replica could restore it
        ("07", 0, False),
        ("08", 62345, True),
    ],
)
def test_each_state_disturbs_or_not(state: str, inode: int, disturbs: bool) -> None:
    """What a process holds disturbs unless it listens; what only the kernel holds does not."""
    (found,) = quiesce.parse(HEAD + row(state, inode))
    assert found.disturbs is disturbs


def test_a_connection_is_told_in_the_operators_words() -> None:
    """Addresses are turned from the kernel's byte order into what people read."""
    (found,) = quiesce.parse(HEAD + row("01", 7))
    assert found.words == "10.88.0.3:8080 with 10.78.0.11:51382 (ESTABLISHED)"


def test_version_6_addresses_are_read_too() -> None:
    """Mapped version 4 addresses, as Java's sockets have them, are shown as version 4."""
    mapped = "0000000000000000FFFF00000300580A:1F90"
    loopback = "00000000000000000000000001000000:0016"
    (found,) = quiesce.parse(HEAD + row("01", 7, mapped, loopback))
    assert found.words == "10.88.0.3:8080 with [::1]:22 (ESTABLISHED)"


def test_a_real_connection_of_this_machine_is_seen() -> None:
    """The tables of a living process are found and understood."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not any(f":{port} " in words for words in quiesce.disturbing(os.getpid()))
        with socket.create_connection(("127.0.0.1", port)):
            assert any(f":{port} " in words for words in quiesce.disturbing(os.getpid()))
