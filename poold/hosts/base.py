"""What the daemon may do with a host, near or far.

Flows in: requests and bulk data. Flows out: answers, progress, and how the link is. It does not
know what the requests mean, and decides nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Protocol, TypeVar

from poold.agent.messages import Event, Progress, Request
from poold.model.fleet import ActionId, Host, HostName, HostStatus

R = TypeVar("R")
OnProgress = Callable[[Progress], None]
OnEvent = Callable[[Event], None]


_AGENT_DIR, _RUN_DIR = "/var/lib/poold-agent", "/run/poold-agent"


def run_dir_of(host: Host) -> str:
    """Return the agent's run folder: on tmpfs, but inside an agent folder of the host's own."""
    return _RUN_DIR if host.agent_dir == _AGENT_DIR else f"{host.agent_dir}/run"


class HostLink(Protocol):
    """One host's agent. Safe for concurrent use; every call ends within its deadline."""

    name: HostName

    @property
    def status(self) -> HostStatus:
        """How the link is now, without asking the host."""

    async def open(self) -> None:
        """Start reaching for the host, with backoff, until `close`; returns at once."""

    async def close(self) -> None:
        """End the link. Actions under way on the host go on there and are recorded there.

        In process there is no there: they are cancelled, bounded, and recorded as interrupted.
        """

    def listen(self, heard: OnEvent) -> None:
        """Have `heard` called, in the event loop, with what the agent notices by itself.

        Hints, which get lost with a connection: whoever needs the truth lists the host. A later
        call replaces the listener.
        """

    async def wait_up(self, timeout_seconds: float) -> None:
        """Wait until the agent answers; raises Temporary("host.unreachable") with the reason.

        What needs a hand (a changed host key, a refused client key, no python3) is raised as it is,
        Permanent, as soon as it is known; the link keeps trying all the same.
        """

    async def call(
        self,
        request: Request[R],
        *,
        action: ActionId,
        deadline_seconds: float,
        progress: OnProgress | None = None,
    ) -> R:
        """Ask for one action and wait for its outcome.

        Survives a dropped connection within the deadline: the same action id is asked again and
        joins the action or returns its recorded outcome. Raises Temporary("host.unreachable") when
        the outcome is not known, Temporary("host.rebooted") when the host booted in between,
        Temporary("action.interrupted") when the agent died in it, or the agent's own Problem.
        Cancelling stops waiting, not the action. Past the deadline the agent has some seconds
        (`poold.agent.runner.CLEAN_UP_SECONDS`) to undo the action before its outcome is told.
        A host that could not be asked at all raises what `wait_up` raises.
        """

    def read_blob(self, path: str, offset: int = 0) -> AsyncIterator[bytes]:
        """Read a file of the agent's folder from `offset`, on a channel of its own."""

    async def write_blob(
        self, path: str, *, size: int, sha256: str, offset: int, chunks: AsyncIterator[bytes]
    ) -> None:
        """Append to `path`.part from `offset`; when `size` is reached verify, fsync and rename.

        Raises Permanent("blob.damaged") when the digest differs (the part is deleted),
        Temporary("host.disk-full") when it does not fit (the part stays, resumable).
        """
