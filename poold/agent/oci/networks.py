"""The network of a box: a namespace, an address, published ports, made by podman's own netavark.

Flows in: the network that the container was connected to, ports to publish. Flows out: the same,
connected. Addresses are handed out here, as podman's book of addresses is podman's: what was on
podman's default network is connected to one of poold's own, made with podman, and others must keep
their `--ip-range` for podman, so that the rest is free to be handed out here.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import ipaddress
import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Optional

from poold.agent.engines.base import Published
from poold.agent.oci import bundles, kernel
from poold.agent.oci.boxes import Box, Places
from poold.agent.process import check, run
from poold.errors import Permanent, Temporary

DEFAULT, OWN = "podman", "poold"
_RUN = "/run/containers/networks"  # where podman's netavark remembers what it set up
_LOCK = Path("/run/lock/netavark.lock")  # podman's: netavark itself cannot stand a second one
_SECONDS = 30.0

log = logging.getLogger(__name__)


class Networks:
    """Connects boxes. `netavark` is the program's path, as podman tells it."""

    def __init__(self, podman: str, netavark: str) -> None:
        self._podman = podman
        self._netavark = netavark
        self._known: dict[str, dict[str, Any]] = {}
        self._one = asyncio.Lock()

    async def info(self, network: str) -> dict[str, Any]:
        """Return what netavark has to know of a network, by podman's name for it."""
        if network == DEFAULT:
            network = OWN
        if network not in self._known:
            self._known[network] = await self._ask(network)
        return self._known[network]

    def gateway(self, network: str) -> str:
        """Return the host's address in a network that was asked about; "" without one."""
        return str(self._known[network]["subnets"][0].get("gateway") or "")

    async def _ask(self, network: str) -> dict[str, Any]:
        inspect = [self._podman, "network", "inspect", network]
        found = await run(inspect, deadline_seconds=_SECONDS)
        if found.status != 0 and network == OWN:
            create = [self._podman, "network", "create", "--disable-dns", "--ignore", OWN]
            await check(create, deadline_seconds=_SECONDS)
            found = await check(inspect, deadline_seconds=_SECONDS)
        if found.status != 0:
            raise Permanent(
                "network.missing",
                f"cannot connect to the network {network}: it is not there",
                hint=f"create it on every host of the pool: podman network create {network}",
                detail=found.error_text,
            )
        info: dict[str, Any] = json.loads(found.stdout)[0]
        info.pop("containers", None)
        why_not = _why_not(network, info)
        if why_not:
            raise bundles.unsupported(f"its network {network} {why_not}")
        return info

    def candidates(self, info: dict[str, Any]) -> Iterator[str]:
        """Yield the addresses that may be handed out, the highest first: podman goes upwards."""
        (subnet,) = info["subnets"]
        net = ipaddress.ip_network(subnet["subnet"])
        lease = subnet.get("lease_range") or {}
        low, high = str(lease.get("start_ip", "")), str(lease.get("end_ip", ""))
        for number in range(int(net.broadcast_address) - 1, int(net.network_address), -1):
            address = ipaddress.ip_address(number)
            is_podmans = bool(low and high) and (
                int(ipaddress.ip_address(low)) <= number <= int(ipaddress.ip_address(high))
            )
            if not is_podmans and str(address) != subnet.get("gateway"):
                yield str(address)

    async def connect(self, box: Box, places: Places, info: dict[str, Any]) -> None:
        """Make the namespace and connect it; Temporary("engine.port-taken")."""
        places.namespace.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        kernel.share_folder(places.namespace.parent)
        places.namespace.touch(mode=0o444)
        await check(["unshare", f"--net={places.namespace}", "true"], deadline_seconds=_SECONDS)
        done = await self._run("setup", box, places, info)
        if done is not None:
            raise done

    async def disconnect(self, box: Box, places: Places) -> None:
        """Take the connection away, as far as it is there."""
        if places.namespace.exists():
            with contextlib.suppress(Permanent):
                if kernel.is_mounted(places.namespace):
                    info = await self.info(box.network)
                    problem = await self._run("teardown", box, places, info)
                    if problem is not None:  # also where a crash left nothing to take away
                        log.warning("%s", problem, extra={"action": "disconnect_failed"})
        kernel.remove_namespace(places.namespace)

    async def _run(
        self, verb: str, box: Box, places: Places, info: dict[str, Any]
    ) -> Optional[Permanent]:
        wish = _wish(box, info)
        argv = [self._netavark, "--config", _RUN, verb, str(places.namespace)]
        async with self._alone():
            done = await run(argv, stdin=json.dumps(wish).encode(), deadline_seconds=_SECONDS)
        if done.status == 0:
            return None
        return Permanent(
            "network.failed",
            f"cannot {verb} the network of {box.name or 'a slot'}: netavark failed",
            hint="try it with podman: podman run --rm --publish 8080 IMAGE true",
            detail=done.error_text,
        )

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Hold podman's lock: two netavarks at once break each other's rules."""
        loop = asyncio.get_running_loop()
        async with self._one:
            with await loop.run_in_executor(None, _locked):
                yield


def _locked() -> BinaryIO:
    """Return podman's lock, held until it is closed."""
    _LOCK.parent.mkdir(parents=True, exist_ok=True)
    Path(_RUN).mkdir(mode=0o700, parents=True, exist_ok=True)
    file = _LOCK.open("ab+")
    fcntl.lockf(file, fcntl.LOCK_EX)
    return file


def listen(published: Sequence[Published]) -> tuple[socket.socket, ...]:
    """Take the published ports, so that no other program can; Temporary("engine.port-taken").

    netavark's rules go before these sockets, which nobody ever reaches; conmon inherits them and
    keeps them as long as the container lives, as it does for podman.
    """
    taken: list[socket.socket] = []
    try:
        for port in published:
            family = socket.AF_INET6 if ":" in port.address else socket.AF_INET
            taken.append(socket.socket(family, socket.SOCK_STREAM))
            taken[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken[-1].bind((port.address, port.host_port))
            taken[-1].listen(1)
    except OSError as error:
        for each in taken:
            each.close()
        raise Temporary(
            "engine.port-taken",
            f"cannot publish port {port.host_port}: another program took it",
            detail=str(error),
        ) from error
    return tuple(taken)


def write_files(
    folder: Path, *, name: str, host_name: str, address: str, gateway: str, image: str
) -> None:
    """Write the files that name the container and its neighbours, its own name and address among.

    Like podman's: the host's own names, the host itself as host.containers.internal, name servers
    that can be reached from inside.
    """
    known = _lines(Path("/etc/hosts"))
    known += [f"{gateway}\thost.containers.internal host.docker.internal"] if gateway else []
    names = " ".join(dict.fromkeys(each for each in (name, host_name) if each))
    _write(folder / "hosts", [*known, f"{address}\t{names}"])
    _write(folder / "hostname", [name])
    _write(folder / "resolv.conf", _resolver())
    running = ['engine="poold"', f'name="{name}"', f'id="{folder.name}"', f'imageid="{image}"']
    _write(folder / "containerenv", [*running, "rootless=0"])


def _resolver() -> list[str]:
    for path in (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf")):
        lines = _lines(path)
        usable = [
            line
            for line in lines
            if not (line.startswith("nameserver") and line.split()[1:2] and _is_local(line))
        ]
        if any(line.startswith("nameserver") for line in usable) or len(usable) == len(lines):
            return usable
    return []


def _is_local(line: str) -> bool:
    try:
        return ipaddress.ip_address(line.split()[1].partition("%")[0]).is_loopback
    except ValueError:
        return False


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _write(path: Path, lines: Sequence[str]) -> None:
    """Write a file in place, as it may be mounted into a running container.

    Not by truncating it first: ext4 would then put it on the disk when it is closed, which took a
    claimed spare 4 ms a file. What is right already is left alone.
    """
    data = "".join(f"{line}\n" for line in lines).encode()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        if os.pread(descriptor, size + 1, 0) != data:
            os.pwrite(descriptor, data, 0)
            if len(data) < size:
                os.ftruncate(descriptor, len(data))
        if os.fstat(descriptor).st_mode & 0o777 != 0o644:
            os.fchmod(descriptor, 0o644)  # whatever the umask: programs in the container read it
    finally:
        os.close(descriptor)


def _wish(box: Box, info: dict[str, Any]) -> dict[str, Any]:
    return {
        "container_id": box.container_id,
        "container_name": box.container_id[:12],
        "port_mappings": [
            {
                "container_port": port.container_port,
                "host_port": port.host_port,
                "host_ip": port.address,
                "protocol": "tcp",
                "range": 1,
            }
            for port in box.published
        ],
        "networks": {
            info["name"]: {
                "static_ips": [box.address],
                "static_mac": hardware_address(box.address),
                "interface_name": "eth0",
            }
        },
        "network_info": {info["name"]: info},
    }


def hardware_address(address: str) -> str:
    """Return a locally administered address that is always the same for an IP address.

    An address is handed out again soon: to whom it once talked, its neighbours would send to the
    hardware address of the box that had it before, for seconds.
    """
    return ":".join(f"{byte:02x}" for byte in (0x0A, 0x58, *ipaddress.ip_address(address).packed))


def _why_not(network: str, info: dict[str, Any]) -> str:
    if info.get("driver") != "bridge":
        return f"is of the kind {info.get('driver')}"
    if len(info.get("subnets") or ()) != 1 or ":" in info["subnets"][0]["subnet"]:
        return "has other subnets than one of IPv4"
    if info.get("dns_enabled"):
        return "names its containers, which podman alone can do (--disable-dns switches it off)"
    if network != OWN and not info["subnets"][0].get("lease_range"):
        return (
            "leaves no addresses to poold (podman network create --ip-range keeps a part of its"
            " subnet for podman and leaves the rest)"
        )
    return ""
