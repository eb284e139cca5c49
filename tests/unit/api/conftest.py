"""The API over a fleet in memory, served on a real unix socket, and a plain HTTP client for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from poold.api.memory import MemoryFleet
from poold.api.memory_app import app_over
from poold.api.serve import serve_unix


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes
    json: Any


@dataclass(frozen=True)
class Caller:
    session: aiohttp.ClientSession

    async def __call__(self, method: str, path: str, **options: Any) -> Reply:
        async with self.session.request(method, f"http://poold{path}", **options) as response:
            body = await response.read()
            is_json = "json" in response.content_type
            return Reply(
                response.status,
                dict(response.headers),
                body,
                await response.json(content_type=None) if is_json else None,
            )


@pytest.fixture
def fleet() -> MemoryFleet:
    return MemoryFleet()


@pytest.fixture
async def call(fleet: MemoryFleet, tmp_path: Path) -> AsyncIterator[Caller]:
    path = tmp_path / "s"
    listener = await serve_unix(app_over(fleet), path, 0o600)
    connector = aiohttp.UnixConnector(str(path))
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Caller(session)
    await listener.close()
