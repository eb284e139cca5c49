"""Sending a request to a host so that its outcome is never lost and never had twice.

In: a request and the id it was written down under. Out: its answer or its Problem. Where a dropped
connection or a dead daemon left the outcome open, the same id is asked again.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from poold.agent.messages import Request
from poold.errors import Problem, Temporary
from poold.hosts.base import HostLink, OnProgress
from poold.model.fleet import ActionId, HostName

R = TypeVar("R")

READ_SECONDS = 30.0  # of a question that changes nothing
ASK_AGAIN_SECONDS = 1.0  # a link that is down says so at once; this bounds how often it is asked
UP_SECONDS = 60.0
UNDO_ATTEMPTS = 2  # an action past its deadline is being undone: its record is waited for

READING = frozenset({"observe", "logs", "stat-blob", "find-image", "examine"})
TRANSFERRING = frozenset({"stage", "export-image", "import-image"})

HOST_PROBLEMS = ("host.", "agent.", "blob.", "action.interrupted", "store.", "daemon.")


class Deadlines(Protocol):
    """The three deadlines of the configuration."""

    @property
    def action_deadline_seconds(self) -> float:
        """Of a start, restore, move or removal."""

    @property
    def build_deadline_seconds(self) -> float:
        """Of a whole checkpoint."""

    @property
    def transfer_deadline_seconds(self) -> float:
        """Of sending or unpacking one generation or image."""


class Asker:
    """Reaches hosts by name."""

    def __init__(
        self,
        links: Mapping[HostName, HostLink],
        deadlines: Callable[[], Deadlines],
        *,
        again_seconds: float = ASK_AGAIN_SECONDS,
        fenced: Callable[[HostName], bool] = lambda _: False,
    ) -> None:
        self._links = links
        self._deadlines = deadlines
        self._again_seconds = again_seconds
        self._fenced = fenced

    def link(self, host: HostName) -> HostLink:
        """Return a host's link; raises Temporary("host.unknown") when it left the configuration."""
        link = self._links.get(host)
        if link is None:
            raise Temporary("host.unknown", f"cannot reach {host}: it is not configured")
        return link

    def boot_id(self, host: HostName) -> str:
        """Return the boot that an action sent now is meant for."""
        return self.link(host).status.boot_id

    async def read(self, host: HostName, request: Request[R]) -> R:
        """Ask a question that changes nothing, under an id of its own."""
        return await self.link(host).call(
            request, action=new_action(request.verb), deadline_seconds=READ_SECONDS
        )

    async def ask(
        self,
        host: HostName,
        request: Request[R],
        *,
        action: ActionId,
        boot_id: str,
        progress: OnProgress | None = None,
    ) -> R:
        """Return the outcome of a recorded action, however long the host cannot be reached.

        Raises Temporary("host.rebooted") when the host booted since: its journal is gone, and
        only a listing can tell what is left; Temporary("host.fenced") when the host was declared
        dead: when it comes back nothing but removing is done there.
        """
        undoing = 0
        while True:
            link = self.link(host)
            if self._fenced(host) and request.verb != "remove":
                raise Temporary("host.fenced", f"cannot use host {host}: it is fenced")
            if await _is_up(link):
                if boot_id and link.status.boot_id and link.status.boot_id != boot_id:
                    raise _rebooted(link, action)
                try:
                    return await link.call(
                        request,
                        action=action,
                        deadline_seconds=self.deadline(request),
                        progress=progress,
                    )
                except Problem as problem:
                    if problem.code == "action.deadline" and undoing < UNDO_ATTEMPTS:
                        undoing += 1
                    elif not _is_open(problem, link):
                        raise
            await asyncio.sleep(self._again_seconds)

    def deadline(self, request: Request[Any]) -> float:
        """Return the seconds that a request may take."""
        deadlines = self._deadlines()
        if request.verb in READING:
            return READ_SECONDS
        if request.verb in TRANSFERRING:
            return deadlines.transfer_deadline_seconds
        if request.verb in ("build", "import"):
            return deadlines.build_deadline_seconds
        return deadlines.action_deadline_seconds


async def _is_up(link: HostLink) -> bool:
    """Wait for a host. Whatever keeps it away, a changed key included, leaves outcomes open."""
    try:
        await link.wait_up(UP_SECONDS)
    except Problem:
        return False
    return True


def _is_open(problem: Problem, link: HostLink) -> bool:
    """Whether a failure leaves open what became of the action."""
    lost = problem.code.startswith("host.") and link.status.state != "up"
    return problem.code == "host.unreachable" or (lost and problem.code != "host.rebooted")


def _rebooted(link: HostLink, action: ActionId) -> Temporary:
    return Temporary(
        "host.rebooted",
        f"cannot tell what became of action {action}: {link.name} rebooted since",
    )


def new_action(verb: str) -> ActionId:
    """Return an id that no action had before."""
    return ActionId(f"{verb}-{uuid.uuid4().hex}")


def passing(problem: Problem) -> bool:
    """Whether a failure says something of the host's moment, and nothing of what was tried."""
    return isinstance(problem, Temporary) and problem.code.startswith(HOST_PROBLEMS)


def blocking(problem: Problem) -> bool:
    """Whether a checkpoint is not made or sent until somebody does something: say so now.

    A disk seldom gets emptier by itself, and each try starts the application anew.
    """
    return not passing(problem) or problem.code == "host.disk-full"
