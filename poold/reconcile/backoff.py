"""When what failed is tried again: in memory, so that a restarted daemon tries at once.

In: failures and successes by key (a subject of `actions`, mostly). Out: retries for the snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from poold.errors import Problem
from poold.model.fleet import PoolName
from poold.reconcile.snapshot import Retry

BASE_SECONDS = 1.0
CAP_SECONDS = 60.0
FORGET_SECONDS = 3600.0


class Backoff:
    """Counts failures per pool and key; `clock` as the plan's `now`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._retries: dict[PoolName, dict[str, Retry]] = {}

    def failed(
        self,
        pool: PoolName,
        key: str,
        problem: Problem,
        *,
        definite: bool,
        base_seconds: float = BASE_SECONDS,
        cap_seconds: float = CAP_SECONDS,
    ) -> Retry:
        """Note a failure; the wait doubles with each and is never shorter than the problem says."""
        retries = self._retries.setdefault(pool, {})
        failures = retries[key].failures + 1 if key in retries else 1
        delay = min(cap_seconds, base_seconds * 2.0 ** min(failures - 1, 20))
        now = self._clock()
        retries[key] = Retry(
            at=now + max(delay, min(problem.retry_after_seconds or 0.0, cap_seconds)),
            failed_at=now,
            failures=failures,
            definite=definite,
            problem=problem.to_json(),
        )
        return retries[key]

    def failures(self, pool: PoolName, key: str) -> int:
        """Return how often it failed in a row."""
        retry = self._retries.get(pool, {}).get(key)
        return retry.failures if retry else 0

    def worked(self, pool: PoolName, key: str) -> None:
        """Forget the failures of something that worked."""
        self._retries.get(pool, {}).pop(key, None)

    def of(self, pool: PoolName) -> Mapping[str, Retry]:
        """Return what a pool's plan has to mind."""
        oldest = self._clock() - FORGET_SECONDS
        retries = {k: r for k, r in self._retries.get(pool, {}).items() if r.at > oldest}
        self._retries[pool] = retries
        return dict(retries)
