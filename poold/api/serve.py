"""Listening: a unix socket guarded by its file's mode, and TCP where it is configured.

Flows in: an application and an address. Flows out: something to close. A socket that another
daemon listens on is never taken away.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from aiohttp import web

from poold.api.app import PORTS
from poold.config.values import LONGEST_SOCKET_PATH_BYTES
from poold.errors import Permanent

_SHUTDOWN_SECONDS = 5.0  # for requests under way; long polls end at once


class Listener:
    """A socket that the API is served on. Closing is idempotent; requests under way get 5 s."""

    def __init__(self, app: web.Application, runner: web.AppRunner, unlink: Path | None) -> None:
        self._app = app
        self._runner = runner
        self._unlink = unlink
        self._inode = unlink.stat().st_ino if unlink else 0

    @property
    def addresses(self) -> list[object]:
        """Where it listens; with port 0 this is how the real port is learned."""
        return list(self._runner.addresses)

    async def close(self) -> None:
        """Stop listening, let requests end, remove the socket file if it is still this one's."""
        self._app[PORTS].stopping.set()
        if self._unlink is not None:
            with contextlib.suppress(FileNotFoundError):
                if self._unlink.stat().st_ino == self._inode:
                    self._unlink.unlink()
            self._unlink = None
        await self._runner.cleanup()


async def serve_unix(app: web.Application, path: Path | str, mode: int = 0o660) -> Listener:
    """Serve on a unix socket; at no moment is it there with a wider mode than `mode`."""
    path = Path(path)
    listening = _bind_unix(path, mode)
    return await _serve(app, listening, path)


async def serve_tcp(app: web.Application, host: str, port: int) -> Listener:
    """Serve on TCP; `host` is an address of this machine."""
    try:
        listening = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
    except OSError as error:
        raise Permanent(
            "api.cannot-listen",
            f"cannot listen on {host}:{port}: {error.strerror}",
            hint="another program has the port, or the address is not this machine's",
        ) from error
    return await _serve(app, listening, None)


async def _serve(app: web.Application, listening: socket.socket, unlink: Path | None) -> Listener:
    listening.setblocking(False)
    runner = web.AppRunner(
        app,
        handler_cancellation=True,
        access_log=None,
        shutdown_timeout=_SHUTDOWN_SECONDS,
    )
    try:
        await runner.setup()
        await web.SockSite(runner, listening).start()
        return Listener(app, runner, unlink)
    except BaseException:
        await runner.cleanup()
        listening.close()
        raise


def _bind_unix(path: Path, mode: int) -> socket.socket:
    """Bind beside the path, set the mode, then rename: the path has the right mode from birth."""
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH_BYTES:
        raise Permanent(
            "api.socket-path-too-long",
            f"cannot listen on {path}: longer than {LONGEST_SOCKET_PATH_BYTES} bytes",
            hint="choose a shorter path for the socket, such as /run/poold/poold.sock",
        )
    _refuse_if_answered(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    temporary = path.with_name(f".{os.getpid()}")
    try:
        temporary.unlink(missing_ok=True)
        listening.bind(str(temporary))
        temporary.chmod(mode)
        listening.listen(128)
        temporary.rename(path)
    except OSError as error:
        listening.close()
        raise Permanent(
            "api.cannot-listen",
            f"cannot listen on {path}: {error.strerror or error}",
            hint=f"{path.parent} must exist and be writable for the daemon",
        ) from error
    return listening


def _refuse_if_answered(path: Path) -> None:
    """Let a stale socket be replaced, but neither another file nor a socket that answers."""
    if not path.exists():
        return
    if not path.is_socket():
        raise Permanent(
            "api.cannot-listen",
            f"cannot listen on {path}: another file is there",
            hint="remove it, or choose another path for the socket",
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except OSError:
            pass  # somebody is there, or it cannot be told: leave it
    raise Permanent(
        "api.already-served",
        f"cannot listen on {path}: another daemon answers there",
        hint="systemctl status poold; stop that one first",
    )
