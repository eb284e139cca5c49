"""`python -m poold.api SOCKET [PACE_SECONDS [TCP_PORT]]`: the API over a fleet in memory.

For tests of programs that ask poold, and for trying the command line without hosts. It serves until
SIGTERM. POOLD_MEMORY_TOKEN is the token for TCP; POOLD_MEMORY_FLEET makes it misbehave:
with "fail" changes fail, with "hang" they never end, with "broken" the fleet cannot be asked, with
"unreachable" no host can, with "colours" replicas print control characters.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from poold.api.memory import MemoryFleet
from poold.api.memory_app import app_over
from poold.api.serve import serve_tcp, serve_unix


async def _run(socket: Path, pace_seconds: float, tcp_port: int | None) -> None:
    fleet = MemoryFleet(
        pace_seconds=pace_seconds, misbehaviour=os.environ.get("POOLD_MEMORY_FLEET", "")
    )
    app = app_over(fleet, token=os.environ.get("POOLD_MEMORY_TOKEN"))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    listeners = [await serve_unix(app, socket, 0o600)]
    if tcp_port is not None:
        listeners.append(await serve_tcp(app, "127.0.0.1", tcp_port))
    print("serving", *listeners[-1].addresses, flush=True)  # noqa: T201
    await stop.wait()
    for listener in listeners:
        await listener.close()


def _main(socket: str, pace_seconds: str = "0.02", tcp_port: str | None = None) -> None:
    asyncio.run(_run(Path(socket), float(pace_seconds), int(tcp_port) if tcp_port else None))


if __name__ == "__main__":
    _main(*sys.argv[1:])
