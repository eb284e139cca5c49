"""Looking over everything a fleet stands on: the daemon's own machine, and every host by its agent.

Flows in: a configuration and links to hosts. Flows out: findings, by host; a host that cannot be
reached is a finding, not a failure. It repairs nothing and leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from poold.agent.messages import Examine, Finding
from poold.agent.space import lacking, read_reserve
from poold.config import Config, DaemonConfig
from poold.errors import Problem
from poold.hosts.base import HostLink
from poold.model.fleet import ActionId, Host, HostName

DAEMON = "daemon"  # the findings of the daemon's own machine stand under this name

_LITTLE_DISK_BYTES = 500_000_000
_REACH_SECONDS = 10.0
_EXAMINE_SECONDS = 120.0  # CRIU is tried: a dump and a restore


async def examine_hosts(
    links: Mapping[HostName, HostLink],
    *,
    reach_seconds: float = _REACH_SECONDS,
    examine_seconds: float = _EXAMINE_SECONDS,
    now: Callable[[], float] = time.time,
) -> dict[str, tuple[Finding, ...]]:
    """Let every host be examined, all at once; the links are open."""
    links = dict(links)  # a reload may change them meanwhile

    async def one(link: HostLink) -> tuple[Finding, ...]:
        try:
            await link.wait_up(reach_seconds)
            answer = await link.call(
                Examine(now=now()),
                action=ActionId(f"examine-{uuid.uuid4().hex}"),
                deadline_seconds=examine_seconds,
            )
        except Problem as problem:
            return (_unreachable(problem),)
        return (Finding("reach", "ok", "the agent answers"), *answer.findings)

    found = await asyncio.gather(*map(one, links.values()))
    return {str(name): findings for name, findings in zip(links, found, strict=True)}


def examine_daemon(config: Config, *, uid: int | None = None) -> tuple[Finding, ...]:
    """Look at what the daemon needs on its own machine, as the user who asks (`uid`)."""
    return tuple(_daemon_findings(config, os.geteuid() if uid is None else uid))


def _daemon_findings(config: Config, uid: int) -> Iterator[Finding]:
    hosts, pools = len(config.hosts), len(config.pools)
    yield Finding("config", "ok", f"valid: hosts {hosts}, pools {pools}")
    yield from _state_folder(config.daemon)
    yield from _socket(Path(config.daemon.socket))
    if config.daemon.listen is not None:
        yield _secret("token", config.daemon.token_file or "", "changing calls over TCP")
    for host in config.hosts.values():
        yield from _way_to(host, uid)


def _state_folder(daemon: DaemonConfig) -> Iterator[Finding]:
    folder = Path(daemon.state_dir)
    existing = _nearest(folder)
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        yield Finding(
            "state",
            "error",
            f"{existing} is no folder that can be written to",
            "wishes and generations are recorded there",
            "create it for the daemon's user, or change daemon.state_dir",
        )
        return
    yield Finding("state", "ok", f"{folder} can be written to")
    reserve = read_reserve(daemon.disk_reserve)
    lack = lacking(existing, 0, reserve)
    free = shutil.disk_usage(existing).free
    text = lack or f"{free / 1e9:.1f} GB free under {existing}"
    if lack or free < _LITTLE_DISK_BYTES:
        yield Finding(
            "disk", "warning", text, "a wish that cannot be recorded is refused", "make room there"
        )
    else:
        yield Finding("disk", "ok", text)


def _socket(path: Path) -> Iterator[Finding]:
    why = "the command line talks to the daemon through it"
    folder = _nearest(path.parent)
    if path.exists() and not path.is_socket():
        yield Finding("socket", "error", f"{path} is another file", why, "remove it")
    elif not os.access(folder, os.W_OK | os.X_OK):
        way_out = "run the daemon by its systemd unit, which makes it, or change daemon.socket"
        yield Finding("socket", "error", f"{folder} cannot be written to", why, way_out)
    else:
        yield Finding("socket", "ok", f"{path} can be served")


def _way_to(host: Host, uid: int) -> Iterator[Finding]:
    if host.kind == "local":
        if uid != 0:
            yield Finding(
                f"host {host.name}",
                "error",
                "not root, and the host is local",
                "checkpoints need root where the containers run",
                "run the daemon as root, or reach the host by SSH",
            )
        return
    yield _secret(f"key of {host.name}", host.key_file, f"logging in to {host.address}")
    known = Path(host.known_hosts_file)
    if host.known_hosts_file and os.access(known, os.R_OK):
        yield Finding(f"known_hosts of {host.name}", "ok", f"{known} can be read")
    else:
        yield Finding(
            f"known_hosts of {host.name}",
            "error",
            f"{host.known_hosts_file or 'no file'} cannot be read",
            "a host whose key is not pinned is not trusted",
            f"ssh-keyscan -p {host.port} {host.address}, compare the key, and keep it there",
        )


def _secret(check: str, file: str, purpose: str) -> Finding:
    """Look whether a secret can be read, by its owner only; its content is not looked at."""
    why = f"it is needed for {purpose}"
    try:
        with Path(file).open("rb") as opened:
            mode = stat.S_IMODE(os.fstat(opened.fileno()).st_mode)
    except OSError as error:
        what = f"{file or 'no file'}: {(error.strerror or str(error)).lower()}"
        return Finding(check, "error", what, why, "name a file that the daemon's user can read")
    if mode & 0o077:
        what = f"{file} has mode {mode:04o}: others can read it"
        return Finding(check, "warning", what, why, f"chmod 600 {file}")
    return Finding(check, "ok", f"{file} can be read, by its owner only")


def _unreachable(problem: Problem) -> Finding:
    return Finding(
        "reach",
        "error",
        problem.message,
        "nothing can be started or seen on this host",
        problem.hint,
    )


def _nearest(path: Path) -> Path:
    """Return the path, or its closest ancestor that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
