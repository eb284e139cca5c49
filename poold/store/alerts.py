"""Which alerts were acted on, so that one that is told for hours is acted on once.

In: what tells one alert from others. Out: whether it is new. What is not told of any more for a
week is forgotten.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Final

from poold.store.database import Database

KEPT_SECONDS: Final = 7 * 86400.0


class Alerts:
    """Part of the store. `clock` counts seconds since the epoch."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    def is_known(self, *identity: str) -> bool:
        """Return whether one was acted on; it is not forgotten as long as it is asked for."""
        key, now = _key(identity), self._clock()
        found = bool(self._database.rows("alert_get", key=key))
        if found:
            self._database.run("alert_put", key=key, told_at=now)
        return found

    def acted_on(self, *identity: str) -> None:
        """Remember one, and forget old ones."""
        now = self._clock()
        self._database.run("alert_put", key=_key(identity), told_at=now)
        self._database.run("alerts_prune", oldest=now - KEPT_SECONDS)


def _key(identity: tuple[str, ...]) -> str:
    return hashlib.sha256("\0".join(identity).encode("utf-8", "surrogatepass")).hexdigest()
