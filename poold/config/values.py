"""The configuration as a value: what the daemon needs itself, the hosts and the pools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from poold.model.balancing import AnyBalancer, BalancerName
from poold.model.fleet import Host, HostName, Pool, PoolName

LONGEST_SOCKET_PATH_BYTES = 107  # sun_path of unix(7), without the final zero

LogLevel = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonConfig:
    """What the daemon needs for itself.

    The three deadlines bound one action on a host: `action` a start, restore, move or removal,
    `build` a whole checkpoint, `transfer` the sending of one generation or image to one host.
    """

    state_dir: str = "/var/lib/poold"
    disk_reserve: str = "64m"  # of state_dir's disk: a wish is refused when less is free
    socket: str = "/run/poold/poold.sock"
    socket_mode: str = "0660"  # octal
    listen: str | None = None  # "host:port" of the API over TCP
    token_file: str | None = None  # whose content callers over TCP must know
    fleet: str = "poold"  # label of our containers; daemons that share hosts need different ones
    seal_key_file: str | None = None  # None: seal.key in state_dir
    log_level: LogLevel = "info"
    reconcile_seconds: float = 10.0  # between two full listings of a host
    action_deadline_seconds: float = 300.0
    build_deadline_seconds: float = 1800.0
    transfer_deadline_seconds: float = 3600.0

    @property
    def socket_permissions(self) -> int:
        """The mode of the unix socket as a number."""
        return int(self.socket_mode, 8)

    @property
    def seal_key_path(self) -> str:
        """Where the key is that seals generations."""
        return self.seal_key_file or f"{self.state_dir}/seal.key"

    @property
    def listen_address(self) -> tuple[str, int] | None:
        """Host and port of the API over TCP, brackets of an IPv6 address removed."""
        if self.listen is None:
            return None
        host, _, port = self.listen.rpartition(":")
        return host.removeprefix("[").removesuffix("]"), int(port)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything the operator wrote, defaults filled in."""

    daemon: DaemonConfig = field(default_factory=DaemonConfig)
    hosts: Mapping[HostName, Host]
    balancers: Mapping[BalancerName, AnyBalancer] = field(default_factory=dict)
    pools: Mapping[PoolName, Pool]
