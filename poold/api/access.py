"""Who asks, and whether he may.

On a unix socket the file's mode is the guard and the kernel says who is at the other end. On TCP
everything but the open routes needs the token. The token is never logged nor answered.
"""

from __future__ import annotations

import hmac
import socket
import struct

from aiohttp import web

from poold.api.ports import Ports
from poold.api.routes import Route
from poold.errors import Refused

_UCRED = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid


def actor(request: web.Request, route: Route, ports: Ports) -> str:
    """Return who asks ("uid:0", "token", "anyone" on an open route), or refuse."""
    if peer := _unix_peer(request):
        return f"uid:{peer[1]}"
    if route.open:
        return "anyone"
    _check_token(request.headers.get("Authorization", ""), ports.token())
    return "token"


def origin(request: web.Request) -> str:
    """Return from where somebody asks: "unix pid:4711" or "tcp 192.0.2.7"."""
    if peer := _unix_peer(request):
        return f"unix pid:{peer[0]}"
    return f"tcp {request.remote or 'unknown'}"


def _unix_peer(request: web.Request) -> tuple[int, int] | None:
    """Return process and user at the other end of a unix socket, None on any other."""
    transport = request.transport
    peer: socket.socket | None = transport.get_extra_info("socket") if transport else None
    if peer is None or peer.family != socket.AF_UNIX:
        return None
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    process, user, _group = _UCRED.unpack(credentials)
    return process, user


def _check_token(authorization: str, token: str | None) -> None:
    if not token:
        raise Refused(
            "access.unauthorized",
            "cannot answer this over TCP: the daemon has no token",
            hint="name a token file in the configuration, or use the unix socket",
        )
    scheme, _, offered = authorization.partition(" ")
    right = hmac.compare_digest(offered.strip().encode(errors="replace"), token.encode())
    if scheme.lower() != "bearer" or not right:
        raise Refused(
            "access.unauthorized",
            "cannot answer this without the right token",
            hint="send `Authorization: Bearer <token>` (poold --token-file FILE)",
        )
