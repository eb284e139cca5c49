"""The lab's own network: a bridge in a network namespace, one link per host.

Nothing of it is in the machine's network. The namespace is held by a bind mount in the lab's
folder, the links go with the namespaces of the hosts.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from poold.errors import Problem
from poold.lab.commands import run

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

BRIDGE_ADDRESS = "10.77.0.1"
_PREFIX = "10.77.0."
_FIRST = 11


def address_of(index: int) -> str:
    """Return the address of the host with this index, counted from zero."""
    return f"{_PREFIX}{_FIRST + index}"


def exists(namespace: Path) -> bool:
    """Tell whether the namespace is there; its file alone is not enough."""
    return os.path.ismount(namespace)


def create(namespace: Path) -> None:
    """Make the namespace and its bridge; one that is there already stays as it is."""
    if exists(namespace):
        return
    namespace.touch()
    what = "make the lab's network namespace"
    run("unshare", f"--net={namespace}", "--", "true", what=what)
    try:
        # The bridge's own hardware address is fixed: else it changes with the links that come
        # and go, and every host's neighbour table is wrong for a while.
        _ip(
            namespace,
            "link set lo up",
            "link add br0 address 02:77:00:00:00:01 type bridge",
            f"addr add {BRIDGE_ADDRESS}/24 dev br0",
            "link set br0 up",
        )
    except BaseException:
        remove(namespace)
        raise


def remove(namespace: Path) -> None:
    """Forget the namespace; it is gone when no process uses it."""
    while exists(namespace):
        run("umount", namespace, what="remove the lab's network namespace")
    namespace.unlink(missing_ok=True)


def attach(namespace: Path, *, name: str, address: str, process: int, cut: bool) -> None:
    """Connect the network namespace of a process to the bridge as the host of that name."""
    # The kernel takes its time to remove the link of a host that was killed just now.
    with suppress(Problem):
        _ip(namespace, f"link del host-{name}")
    number = int(address.rpartition(".")[2])
    hardware = f"02:77:00:00:00:{number:02x}"
    _ip(
        namespace,
        f"link add host-{name} type veth peer name eth0 address {hardware} netns {process}",
        f"link set host-{name} master br0 {'down' if cut else 'up'}",
    )
    inside = (
        "link set lo up",
        f"addr add {address}/24 dev eth0",
        "link set eth0 up",
        f"route add default via {BRIDGE_ADDRESS}",
    )
    argv = ("nsenter", f"--net=/proc/{process}/ns/net", "--", "ip", "-batch", "-")
    run(*argv, what=f"give host {name} its address", text_in="\n".join(inside))


def set_link(namespace: Path, name: str, *, up: bool) -> None:
    """Plug a running host's cable in, or pull it."""
    _ip(namespace, f"link set host-{name} {'up' if up else 'down'}")


def _ip(namespace: Path, *lines: str) -> None:
    argv = ("nsenter", f"--net={namespace}", "--", "ip", "-batch", "-")
    run(*argv, what="set up the lab's network", text_in=_batch(lines))


def _batch(lines: Iterable[str]) -> str:
    return "\n".join(lines) + "\n"
