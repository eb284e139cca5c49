"""How the daemon reaches its hosts' agents: in process, or over SSH."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from poold.hosts.base import HostLink, run_dir_of
from poold.model.fleet import Host

__all__ = ["HostLink", "link_to"]


def link_to(host: Host, *, engine: str = "oci", run_dir: str | None = None) -> HostLink:
    """Return the link to a host, not yet open; `run_dir` is the agent's run folder there."""
    if host.kind == "ssh":
        from poold.hosts.ssh import SshHost

        return SshHost(host, engine=engine, run_dir=run_dir)
    from poold.agent.__main__ import real_handler
    from poold.agent.runner import Handler
    from poold.agent.space import read_reserve
    from poold.hosts.local import LocalHost

    def make_handler(root: Path, run: Path, running: Callable[[], tuple[str, ...]]) -> Handler:
        handler: Handler = real_handler(root, run, engine, running, read_reserve(host.disk_reserve))
        return handler

    return LocalHost(host, make_handler, run=Path(run_dir or run_dir_of(host)))
