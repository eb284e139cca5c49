"""The configuration that a lab writes for poold: its hosts, and a pool for each image it has."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from poold.lab.host import Host

_STANDALONE = "/opt/wildfly/standalone"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pool:
    name: str
    image: str
    scan_paths: tuple[str, ...] = ()
    tmpfs: tuple[str, ...] = ()
    deadline_seconds: int = 90


# The same application twice: what WildFly writes is kept with the changes of the root file system,
# or it is on tmpfs and travels within the checkpoint, as in the article.
_POOLS = (
    _Pool(name="hello", image="wildfly", scan_paths=(_STANDALONE,)),
    _Pool(
        name="hello-tmpfs",
        image="wildfly",
        scan_paths=(_STANDALONE,),
        tmpfs=(
            "/tmp",  # noqa: S108
            *(f"{_STANDALONE}/{name}" for name in ("configuration", "data", "log", "tmp")),
        ),
    ),
    _Pool(name="tomcat", image="tomcat", deadline_seconds=60),
    _Pool(name="counter", image="counter", deadline_seconds=30),
)


def configuration(
    *, state: Path, hosts: Sequence[Host], builder: str, images: dict[str, str]
) -> str:
    """Return poold's configuration; `images` maps the lab's image names to references."""
    parts = [
        "# Written by `poold lab up` for this lab; another `up` writes it anew.\n",
        _daemon(state),
        *(_host(host, state) for host in hosts),
    ]
    names = [host.name for host in hosts]
    parts += [
        _pool(pool, image=images[pool.image], hosts=names, builder=builder)
        for pool in _POOLS
        if pool.image in images
    ]
    return "\n".join(parts)


def _daemon(state: Path) -> str:
    return f"""[daemon]
state_dir = {_quoted(state / "poold")}
socket = {_quoted(state / "poold.sock")}
"""


def _host(host: Host, state: Path) -> str:
    return f"""[hosts.{host.name}]
kind = "ssh"
address = {_quoted(host.address)}
user = "root"
key_file = {_quoted(state / "id_ed25519")}
known_hosts_file = {_quoted(state / "known_hosts")}
publish_ports = "20000-20999"
"""


def _pool(pool: _Pool, *, image: str, hosts: list[str], builder: str) -> str:
    tmpfs = f"tmpfs = {_quoted(pool.tmpfs)}\n" if pool.tmpfs else ""
    return f"""[pools.{pool.name}]
image = {_quoted(image)}
name = "{pool.name}{{n}}"
env = {{ }}
{tmpfs}port = 8080
replicas = 0
min = 0
max = 8
hosts = {_quoted(hosts)}
builder = {_quoted(builder)}
keep_generations = 2

[pools.{pool.name}.readiness]
kind = "http"
path = "/hello/ready"
interval_ms = 5
deadline_seconds = {pool.deadline_seconds}

[[pools.{pool.name}.warmup]]
path = "/hello/"
repeat = 2

[pools.{pool.name}.checkpoint]
scan_paths = {_quoted(pool.scan_paths)}
quiesce_deadline_seconds = 30
"""


def _quoted(value: object) -> str:
    """Write a string or a list of strings as TOML, which takes JSON's form of both."""
    return json.dumps(value, default=str, ensure_ascii=False)
