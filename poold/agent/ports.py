"""Which ports of the host a replica is published on.

Flows in: the range that replicas may take ("20000-20999"), the ports that records name. Flows out:
free ports, reserved until released. A port can still be lost to a stranger between the trial and
podman's own bind: then the caller asks for the next one.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from poold.errors import Refused, Temporary


@dataclass(frozen=True)
class PortRange:
    """The first and the last port that may be taken."""

    first: int
    last: int

    @classmethod
    def parse(cls, text: str) -> PortRange:
        """Read "20000-20999" or "20000"."""
        first, dash, last = text.partition("-")
        try:
            found = cls(int(first), int(last if dash else first))
        except ValueError as error:
            raise _bad(text) from error
        if not 0 < found.first <= found.last < 65536:
            raise _bad(text)
        return found

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.last + 1))


class Ports:
    """Hands out free ports; what it handed out is not handed out again until released."""

    def __init__(self) -> None:
        self._reserved: set[int] = set()

    @contextlib.contextmanager
    def reserve(
        self, among: PortRange, count: int, *, address: str, taken: frozenset[int]
    ) -> Iterator[tuple[int, ...]]:
        """Find `count` ports that nobody listens on, and keep them until the block ends.

        Temporary("host.ports-exhausted") when the range has too few.
        """
        found: list[int] = []
        for port in among:
            if len(found) == count:
                break
            if port not in taken and port not in self._reserved and is_free(address, port):
                found.append(port)
        if len(found) < count:
            raise Temporary(
                "host.ports-exhausted",
                f"cannot publish a replica: no free port left in {among.first}-{among.last}",
                hint="widen publish_ports of this host, or see what else listens there: ss -ltnp",
                retry_after_seconds=5.0,
            )
        self._reserved.update(found)
        try:
            yield tuple(found)
        finally:
            self._reserved.difference_update(found)


def is_free(address: str, port: int) -> bool:
    """Whether a listener could be bound there now; "" means all addresses."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        # As podman's own listener: a port in TIME_WAIT is free, one listened on is not.
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((address, port))
            trial.listen(1)
        except OSError:
            return False
    return True


def bind_address(publish_address: str) -> str:
    """Return the address to publish on: that one if this host has it, else "" for all.

    Clients may reach the host under an address that is not its own, behind a translating router.
    """
    try:
        address = ipaddress.ip_address(publish_address)
    except ValueError:
        return ""  # a host name: what it resolves to elsewhere is not known here
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        try:
            trial.bind((publish_address, 0))
        except OSError:
            return ""
    return publish_address


def _bad(text: str) -> Refused:
    return Refused(
        "placement.bad-ports", f"cannot read the port range {text!r}", hint='write "20000-20999"'
    )
