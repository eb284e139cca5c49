"""The command lines that HAProxy is sent: built of words that were looked at, and of nothing else.

Pure. Its command line chains on ";" and line breaks and knows no quotes, so a name with a blank in
it would be another command. What does not fit is refused here, before anything is sent.
https://docs.haproxy.org/2.6/management.html#9.3
"""

from __future__ import annotations

from ipaddress import ip_address

from poold.errors import Refused
from poold.model.haproxy_words import HIGHEST_WEIGHT, is_haproxy_name, why_no_options

SHOW_INFO = "show info"
SHOW_PROCESSES = "show proc"  # of a master


def endpoint(address: str, port: int) -> str:
    """Return an address as the server line has it. Names are refused: nothing resolves them."""
    try:
        ip = ip_address(address)
    except ValueError:
        raise Refused(
            "balancer.bad-address",
            f"cannot put {address!r:.100} behind HAProxy: it is no IP address",
            hint="set publish_address of the host to one that HAProxy reaches",
        ) from None
    if not 1 <= port <= 65535 or "%" in address:
        raise Refused("balancer.bad-address", f"cannot put {address!r:.100} port {port} there")
    return f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"


def add(backend: str, server: str, address: str, port: int, *, weight: int, options: str) -> str:
    """Make a server; it is in maintenance and its checks are off until it is told otherwise."""
    if why_not := why_no_options(options):
        raise Refused(
            "balancer.bad-options",
            f"cannot add {server!r:.100} with such options: the line {why_not}",
        )
    words = " ".join(options.split())
    line = f"add server {_place(backend, server)} {endpoint(address, port)} {words}"
    return f"{line.rstrip()} weight {_weight(weight)}"


def move(backend: str, server: str, address: str, port: int) -> str:
    """Have a slot lead elsewhere."""
    endpoint(address, port)
    return f"set server {_place(backend, server)} addr {ip_address(address)} port {port}"


def checks(backend: str, server: str) -> str:
    """Switch the health checks on that a server has in its line."""
    return f"enable health {_place(backend, server)}"


def ready(backend: str, server: str) -> str:
    """Let traffic in."""
    return f"set server {_place(backend, server)} state ready"


def drain(backend: str, server: str) -> str:
    """Let nothing new in but what is bound to it by a cookie or a table."""
    return f"set server {_place(backend, server)} state drain"


def maintenance(backend: str, server: str) -> str:
    """Let nothing in."""
    return f"set server {_place(backend, server)} state maint"


def weigh(backend: str, server: str, weight: int) -> str:
    """Set a server's share."""
    return f"set server {_place(backend, server)} weight {_weight(weight)}"


def cut(backend: str, server: str) -> str:
    """End what is under way on a server."""
    return f"shutdown sessions server {_place(backend, server)}"


def delete(backend: str, server: str) -> str:
    """Remove a server; refused while it has connections, idle ones included."""
    return f"del server {_place(backend, server)}"


def show_states(backend: str) -> str:
    """Ask for the state of a backend's servers; with "" of all backends."""
    return f"show servers state {_name(backend, 'backend')}" if backend else "show servers state"


def show_stats(backend: str) -> str:
    """Ask for the figures of a backend and its servers (2 + 4)."""
    return f"show stat {_name(backend, 'backend')} 6 -1"


def show_connections(backend: str) -> str:
    """Ask for the connections of a backend's servers, idle ones included."""
    return f"show servers conn {_name(backend, 'backend')}"


def _place(backend: str, server: str) -> str:
    return f"{_name(backend, 'backend')}/{_name(server, 'server')}"


def _name(text: str, what: str) -> str:
    if not is_haproxy_name(text):
        raise Refused(
            "balancer.bad-name",
            f"cannot name a {what} {text!r:.100} to HAProxy: letters, digits and _.:- make a name",
        )
    return text


def _weight(weight: int) -> int:
    if not 0 <= weight <= HIGHEST_WEIGHT:
        raise Refused(
            "balancer.bad-weight", f"cannot give the weight {weight}: {HIGHEST_WEIGHT} at most"
        )
    return weight
