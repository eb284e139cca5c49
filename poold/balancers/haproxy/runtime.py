"""One command, one answer: HAProxy's command line, in its one-shot mode.

In: a line. Out: the whole answer, or a Problem. A connection per command, as scripts do it: the
end of the answer is the end of the connection, and nothing of an answer that came too late can be
taken for that of the next question. How the connection is made is somebody else's (`Dial`): a path,
an address, or a stream through a host's SSH connection.
https://docs.haproxy.org/2.6/management.html#9.3
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from poold.errors import Permanent, Problem, Refused, Temporary
from poold.model.balancing import BalancerName

LONGEST_ANSWER_BYTES: Final = 8 << 20
_MANY_BYTES: Final = 64 << 10
_FIRST_WORKER: Final = "@1 "  # of a master: the one that serves now, not one that leaves


class Reader(Protocol):
    """The half of a stream that is read: asyncio's, asyncssh's."""

    async def read(self, n: int = -1, /) -> bytes:
        """Return some bytes, none at the end."""


class Writer(Protocol):
    """The half that is written."""

    def write(self, data: bytes, /) -> object:
        """Send bytes."""

    def write_eof(self) -> object:
        """Say that no more will come."""

    def close(self) -> object:
        """Hang up."""

    async def wait_closed(self) -> object:
        """Wait until that is done."""


Dial = Callable[[], Awaitable[tuple[Reader, Writer]]]


def dial(socket: str) -> Dial:
    """Return the way to a socket of this machine, or to one that listens on TCP."""
    if socket.startswith("/"):
        return lambda: asyncio.open_unix_connection(socket)
    address, _, port = socket.rpartition(":")
    host = address.removeprefix("[").removesuffix("]")
    return lambda: asyncio.open_connection(host, int(port))


class Runtime:
    """HAProxy's command line, reached by `dial`. Commands may run at the same time."""

    def __init__(
        self, name: BalancerName, dial: Dial, *, timeout_seconds: float, master: bool = False
    ) -> None:
        self.name = name
        self._dial = dial
        self._timeout_seconds = timeout_seconds
        self.has_master = master

    async def ask(self, line: str, *, master: bool = False) -> str:
        """Send one command, `master`: to the master itself, and return what is answered.

        Ends within the time-out.

        Raises Temporary("balancer.unreachable"), also when it hangs up without a word, Temporary
        ("balancer.timeout"), Permanent("balancer.denied"). Whether the command was done is not
        known then. Cancelled, the connection is closed.
        """
        if any(mark in line for mark in ";\\\n\r\0") or not (line.isascii() and line.isprintable()):
            raise Refused("balancer.bad-command", f"cannot send HAProxy the line {line!r:.200}")
        try:
            async with asyncio.timeout(self._timeout_seconds):
                prefix = _FIRST_WORKER if self.has_master and not master else ""
                answer = await self._exchange(f"{prefix}{line}\n".encode())
        except TimeoutError:
            raise Temporary(
                "balancer.timeout",
                f"cannot ask {self.name}: no answer to {line!r:.80} in {self._timeout_seconds:g} s",
                retry_after_seconds=1,
            ) from None
        except PermissionError as error:
            raise Permanent(
                "balancer.denied",
                f"cannot ask {self.name}: its socket may not be opened",
                hint="let poold's user write to it: `user`, `group` and `mode` of stats socket",
            ) from error
        except OSError as error:
            raise self._unreachable(error.strerror or str(error)) from error
        if not answer:
            raise self._unreachable("it hung up without an answer")
        return answer.decode("utf-8", "replace")

    async def _exchange(self, line: bytes) -> bytes:
        reader, writer = await self._dial()
        try:
            writer.write(line)
            # The master answers only when nothing more can come.
            writer.write_eof()
            answer = bytearray()
            while some := await reader.read(_MANY_BYTES):
                answer += some
                if len(answer) > LONGEST_ANSWER_BYTES:
                    raise Temporary(
                        "balancer.rubbish",
                        f"cannot use what {self.name} answers: it does not end",
                        retry_after_seconds=1,
                    )
            return bytes(answer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _unreachable(self, why: str) -> Problem:
        return Temporary(
            "balancer.unreachable",
            f"cannot ask {self.name}: {why}",
            hint="does HAProxy run, with this stats socket?",
            retry_after_seconds=1,
        )
