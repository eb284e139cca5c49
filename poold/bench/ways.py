"""The ways to bring an application up, each taken once at a time.

Flows in: a pool, a host of it, links and a client. Flows out: a `Run`. What a way brought up is
removed before it returns. By hand (cold start, the article's commands) the agent times it on the
host; poold's own way is timed here, from the call to its API to the first answer of the last
replica at its published address.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median
from typing import Protocol

from poold.agent.bench_messages import Measure, Measured, Way as WayName
from poold.agent.messages import Placement, Progress
from poold.bench.figures import Run
from poold.bench.http import answers
from poold.client import Client
from poold.errors import Permanent, Temporary, problem_from_json
from poold.hosts.base import HostLink
from poold.model.fleet import ActionId, Change, Digest, Host, Pool, Replica

_MEASURE_SECONDS = 900.0
_CHANGE_SECONDS = 600.0
_POLL_SECONDS = 20.0
_SPARES_SECONDS, _LOOK_SECONDS = 60.0, 0.05
_FAST = ("restore", "spare")
_BY_RUNTIME = {"claim", "slot"}  # phases of a restore that no podman took part in
Say = Callable[[str], None]


class Way(Protocol):
    """One way; `path` is its name in the figures."""

    path: str

    async def once(self, burst: int) -> Run:
        """Bring `burst` replicas up at once and remove them."""


@dataclass(kw_only=True)
class Bench:
    """What every way needs to know; `fleet` is the label that the daemon's containers carry."""

    pool: Pool
    host: Host
    fleet: str
    digest: Digest
    link: HostLink
    client: Client
    say: Say

    async def ask(self, way: WayName, burst: int = 1) -> Measured:
        """Let the host's agent go one way."""
        request = Measure(
            way=way,
            placement=Placement(
                fleet=self.fleet,
                pool=self.pool.name,
                name=self.pool.name,
                publish_address=self.host.published_at,
                publish_ports=self.host.publish_ports,
            ),
            application=self.pool.application,
            digest=self.digest,
            burst=burst,
        )
        return await self.link.call(
            request,
            action=ActionId(uuid.uuid4().hex),
            deadline_seconds=_MEASURE_SECONDS,
            progress=self._told,
        )

    def _told(self, progress: Progress) -> None:
        self.say(progress.text)


@dataclass(kw_only=True)
class ByHand:
    """A way that the host's agent goes with podman's commands."""

    path: str
    bench: Bench
    way: WayName

    async def once(self, burst: int) -> Run:
        """See Way."""
        measured = await self.bench.ask(self.way, burst)
        if not measured.took:
            raise Permanent("bench.no-answer", f"cannot use what {self.bench.host.name} measured")
        took = sorted(measured.took, key=lambda one: one.seconds)
        return Run(
            path=self.path,
            burst=burst,
            seconds=took[-1].seconds,
            phases=dict(took[len(took) // 2].phases),
            resident_bytes=int(median(one.resident_bytes for one in took)),
            archive_bytes=measured.archive_bytes,
        )


@dataclass(kw_only=True)
class ByPoold:
    """Poold's own way: a wish for one more replica, as any caller makes it."""

    bench: Bench
    path: str = "poold"

    async def once(self, burst: int) -> Run:
        """See Way. The run is named by what brought the replicas up.

        "spare" where all were claimed, "mixed" where some were; otherwise the engine that restored:
        "oci", or "podman" if it was any. A pool with spares has them ready before it begins.
        """
        loop = asyncio.get_running_loop()
        client, pool = self.bench.client, self.bench.pool
        before = await asyncio.to_thread(client.replicas, pool.name)
        free = pool.max - len(before)
        if burst > free:
            raise Temporary(
                "bench.too-full",
                f"cannot restore {burst} more replicas of {pool.name}: it may have {free} more",
                hint=f"raise the pool's max, scale {pool.name} down, or choose smaller bursts",
            )
        numbers = (n for n in range(1, pool.max + 1))
        have = {replica.name for replica in before}
        names = [name for n in numbers if (name := pool.replica(n)) not in have][:burst]
        await asyncio.to_thread(self._await_spares)
        with ThreadPoolExecutor(burst) as threads:
            began = time.monotonic()
            ends = await asyncio.gather(
                *(loop.run_in_executor(threads, self._restored, name) for name in names),
                return_exceptions=True,
            )
            removed = await asyncio.gather(
                *(loop.run_in_executor(threads, self._removed, name) for name in names),
                return_exceptions=True,
            )
        done = [end for end in ends if not isinstance(end, BaseException)]
        for end in (*ends, *removed):
            if isinstance(end, BaseException):
                raise end
        done.sort(key=lambda one: one[0])
        return Run(
            path=_path([replica for _, replica in done]),
            burst=burst,
            seconds=done[-1][0] - began,
            phases=dict(done[len(done) // 2][1].phases),
        )

    def _await_spares(self) -> None:
        """Wait until the host has the spares that the pool wishes for, or will not get them."""
        pool, deadline = self.bench.pool, time.monotonic() + _SPARES_SECONDS
        while pool.spares and time.monotonic() < deadline:
            spares = self.bench.client.spares(pool.name)
            here = [spare for spare in spares if spare.host == self.bench.host.name]
            if sum(spare.state == "ready" for spare in here) >= pool.spares:
                return
            time.sleep(_LOOK_SECONDS)

    def _restored(self, name: str) -> tuple[float, Replica]:
        """Wish, wait, ask; return the moment of the answer and the replica."""
        client, pool = self.bench.client, self.bench.pool
        change = client.restore(pool.name, name=name, host=self.bench.host.name, reason="bench")
        self._ended(change)
        replica = next((one for one in client.replicas(pool.name) if one.name == name), None)
        if replica is None or replica.address is None or replica.method not in _FAST:
            how = "it is gone" if replica is None else replica.reason or f"it is {replica.method}"
            raise Permanent(
                "bench.not-restored", f"cannot count {name} as restored: {how}",
                hint=f"poold explain {pool.name}",
            )  # fmt: skip
        answers(replica.address, pool.application)
        return time.monotonic(), replica

    def _removed(self, name: str) -> None:
        self._ended(self.bench.client.remove(name, reason="bench"))

    def _ended(self, change: Change) -> None:
        deadline = time.monotonic() + _CHANGE_SECONDS
        while change.state == "pending" and time.monotonic() < deadline:
            change = self.bench.client.change(
                change.id, wait_seconds=_POLL_SECONDS, after_seq=change.seq
            )
        if change.state == "failed":
            raise problem_from_json(change.problem or {})
        if change.state == "pending":
            raise Temporary(
                "bench.not-settled",
                f"cannot wait longer for change {change.id}: {change.progress}",
                hint=f"it goes on: poold changes {change.id} --wait",
            )


def _path(replicas: list[Replica]) -> str:
    """Name what brought replicas up."""
    claimed = sum(replica.method == "spare" for replica in replicas)
    if claimed:
        return "spare" if claimed == len(replicas) else "mixed"
    by_runtime = all(_BY_RUNTIME & replica.phases.keys() for replica in replicas)
    return "oci" if by_runtime else "podman"
