"""What all sending between hosts has in common: its end in time, and how far it is in words.

In: something that sends. Out: its result, or a Problem that says why it was given up. It does not
know what is sent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TypeVar

from poold.agent.messages import Progress
from poold.errors import Permanent, Temporary
from poold.hosts.base import HostLink

R = TypeVar("R")

LOST_SECONDS = 5.0  # a frozen replica waits so long for a target that went away
LOOK_SECONDS = 0.25  # between looks at a link's status, which has no event


@asynccontextmanager
async def in_time(seconds: float, what: str) -> AsyncIterator[None]:
    """Give up what takes longer; raises Permanent("transfer.deadline")."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as late:
        raise Permanent(
            "transfer.deadline",
            f"cannot finish {what} in time",
            hint="raise transfer_deadline_seconds, or look at the network between the hosts",
        ) from late


async def within_reach(link: HostLink, doing: Awaitable[R]) -> R:
    """Wait for something that needs a link, but not for a link that stays away."""
    task = asyncio.ensure_future(doing)
    lost_at: float | None = None
    try:
        while True:
            done, _ = await asyncio.wait({task}, timeout=LOOK_SECONDS)
            if done:
                return task.result()
            if link.status.state == "up":
                lost_at = None
                continue
            lost_at = lost_at or time.monotonic()
            if time.monotonic() - lost_at > LOST_SECONDS:
                raise Temporary(
                    "host.unreachable",
                    f"cannot send a replica's memory to {link.name}: it cannot be reached any more",
                    hint="poold hosts shows why; move it again when the host is back",
                )
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def progress_text(news: Progress) -> str:
    """Say how far an action is: "sending … 45 %"."""
    if news.done is None or not news.total:
        return news.text
    return f"{news.text} {100 * news.done // news.total} %"
