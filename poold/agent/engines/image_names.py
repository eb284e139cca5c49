"""What names of images mean, cheaply enough to be asked at each listing.

Flows in: names, the file in which containers/storage keeps them, and a way to ask the engine. Flows
out: content ids. The file is replaced as a whole whenever an image is built, pulled, loaded, tagged
or removed, so one `stat` tells that nothing changed. It tells nothing of short names, of lists of
manifests and of additional stores: of these the engine is asked, which takes a process each, at a
change and once a minute. It does not know who uses an image.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Optional

ASK_AGAIN_SECONDS = 60.0
_Sign = Optional[tuple[int, int, int]]


class ImageNames:
    """Remembers what was read and asked. `ask` returns an image's content id, "": absent."""

    def __init__(
        self,
        ask: Callable[[str], Awaitable[str]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._sign: _Sign = None
        self._written: dict[str, str] = {}
        self._asked: dict[str, tuple[float, str]] = {}

    async def ids(self, names: tuple[str, ...], file: Path) -> dict[str, str]:
        """Return the content id of each; "" where a name means nothing."""
        loop = asyncio.get_running_loop()
        sign = await loop.run_in_executor(None, _sign, file)  # before it is read, never after
        if sign is None or sign != self._sign:
            self._written = await loop.run_in_executor(None, _read, file)
            if sign != self._sign:
                self._asked.clear()
            self._sign = sign
        return {
            name: self._written.get(full(name)) or await self._by_asking(name) for name in names
        }

    async def _by_asking(self, name: str) -> str:
        at, found = self._asked.get(name, (0.0, ""))
        now = self._clock()
        if name not in self._asked or now - at >= ASK_AGAIN_SECONDS:
            found = await self._ask(name)
            self._asked[name] = now, found
        return found


def full(name: str) -> str:
    """Return a name as it is kept, with its tag; "" for one that has to be looked up."""
    first, slash, _ = name.partition("/")
    if not slash or "@" in name or not (first == "localhost" or re.search("[.:]", first)):
        return ""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _sign(file: Path) -> _Sign:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _read(file: Path) -> dict[str, str]:
    """Return ids by name; a list of manifests has no layer, and stands for one of its images."""
    try:
        entries = json.loads(file.read_bytes())
        return {
            str(name): str(entry["id"])
            for entry in entries
            if entry.get("layer")
            for name in entry.get("names") or ()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
