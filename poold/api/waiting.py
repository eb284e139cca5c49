"""Waiting for news on behalf of a caller, but not beyond the daemon's stop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def unless_stopping(
    news: Coroutine[Any, Any, T], stopping: asyncio.Event, *, seconds: float | None = None
) -> T | None:
    """Return the news; None where the stop comes first or the time is up. Leaves no task behind."""
    waiting = asyncio.ensure_future(news)
    stop = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({waiting, stop}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return waiting.result() if waiting.done() else None
    finally:
        for task in (waiting, stop):
            task.cancel()
        await asyncio.gather(waiting, stop, return_exceptions=True)
