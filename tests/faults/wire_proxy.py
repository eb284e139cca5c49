"""A TCP proxy that can be slow, mute or cut: real connections, told on standard input how to be.

    python tests/faults/wire_proxy.py LISTEN_ADDRESS HOST PORT

Prints its port, then "ok" for each order: "open"; "drip N", so many bytes a second each way;
"mute", nothing of what the host says passes; "cut", every connection is reset.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

_CHUNK_BYTES = 65536


class Proxy:
    """What the proxy is doing to whatever passes."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._writers: set[asyncio.StreamWriter] = set()
        self._changed = asyncio.Event()
        self._mode, self._bytes_per_second = "open", 0.0

    def obey(self, order: str) -> None:
        """Do as told from now on, with what is under way too."""
        mode, _, number = order.partition(" ")
        if mode == "cut":
            for writer in self._writers:
                writer.transport.abort()
            return
        self._mode, self._bytes_per_second = mode, float(number or 0)
        self._changed.set()
        self._changed = asyncio.Event()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        self._writers.add(writer)
        with contextlib.suppress(OSError):
            there, back = await asyncio.open_connection(*self._target)
            self._writers.add(back)
            ways = [
                asyncio.create_task(self._pump(reader, back, said_by_host=False)),
                asyncio.create_task(self._pump(there, writer, said_by_host=True)),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            back.transport.abort()
            self._writers.discard(back)
        writer.transport.abort()
        self._writers.discard(writer)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, said_by_host: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(_CHUNK_BYTES):
                while chunk:
                    size = await self._let_pass(len(chunk), said_by_host)
                    writer.write(chunk[:size])
                    await writer.drain()
                    chunk = chunk[size:]

    async def _let_pass(self, size: int, said_by_host: bool) -> int:
        """Wait until something may pass and return how much."""
        while self._mode == "mute" and said_by_host:
            await self._changed.wait()
        if self._mode != "drip":
            return size
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), 1 / self._bytes_per_second)
        return 1


class ProxyProcess:
    """The proxy in a process of its own; `prefix` begins its command, to enter a namespace."""

    def __init__(self, run_argv: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            run_argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    @staticmethod
    def argv(listen: str, host: str, port: int) -> list[str]:
        """Return the command."""
        return [sys.executable, str(Path(__file__)), listen, host, str(port)]

    def tell(self, order: str) -> None:
        """Give an order and return when it is obeyed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{order}\n")
        assert self._process.stdout.readline() == "ok\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


async def main(listen: str, host: str, port: str) -> None:
    """Serve until standard input ends."""
    proxy = Proxy(host, int(port))
    server = await asyncio.start_server(proxy.carry, listen, 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(orders), sys.stdin
    )
    while order := (await orders.readline()).decode().strip():
        proxy.obey(order)
        print("ok", flush=True)
    proxy.obey("cut")
    server.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
