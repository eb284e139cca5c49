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
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol, TypeVar

from poold.agent.bench_messages import Measure, Measured, Way as WayName
from poold.agent.messages import Placement, Progress
from poold.bench.figures import Run
from poold.bench.http import answers
from poold.client import Client
from poold.errors import Permanent, Temporary, problem_from_json
from poold.hosts.base import HostLink
from poold.model.fleet import ActionId, Change, Digest, Host, Pool, Replica, Spare

_MEASURE_SECONDS = 900.0
_CHANGE_SECONDS = 600.0
_POLL_SECONDS = 20.0
_SPARES_SECONDS, _LOOK_SECONDS = 60.0, 0.05
_FAST = ("restore", "spare")
_BY_RUNTIME = {"claim", "slot"}  # phases of a restore that no podman took part in
Say = Callable[[str], None]
T = TypeVar("T")


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
    """Poold's own way: a wish for one more replica, as any caller makes it.

    Where the pool has spares they are claimed first, out of the way: what is measured is restored.
    """

    bench: Bench
    path: str = "poold"

    async def once(self, burst: int) -> Run:
        """See Way. The run is named by what brought the replicas up.

        "spare" where all were claimed, "mixed" where some were; otherwise the engine that restored:
        "oci", or "podman" if it was any. A pool with spares has them ready before it begins.
        """
        loop = asyncio.get_running_loop()
        spares = await asyncio.to_thread(self._spares)
        beside = len(spares) if self.path != "spare" else 0
        names = await asyncio.to_thread(self._names, burst + beside)
        with ThreadPoolExecutor(len(names)) as threads:

            async def together(
                work: Callable[..., T], *arguments: Sequence[Any]
            ) -> list[T | BaseException]:
                each = zip(*arguments, strict=True)
                futures = (loop.run_in_executor(threads, work, *these) for these in each)
                return await asyncio.gather(*futures, return_exceptions=True)

            aside = await together(self._claimed, names[burst:])
            began = time.monotonic()
            ends = await together(self._measured, names[:burst], self._asked(spares, burst))
            removed = await together(self._removed, names)
            await asyncio.to_thread(self._spares)  # whoever is measured next has the cores
        done = [end for end in ends if not isinstance(end, BaseException)]
        for end in (*aside, *ends, *removed):
            if isinstance(end, BaseException):
                raise end
        done.sort(key=lambda one: one[0])
        return Run(
            path=_path([replica for _, replica in done]),
            burst=burst,
            seconds=done[-1][0] - began,
            phases=dict(done[len(done) // 2][1].phases),
        )

    def _names(self, count: int) -> Sequence[str]:
        pool = self.bench.pool
        have = {replica.name for replica in self.bench.client.replicas(pool.name)}
        if count > pool.max - len(have):
            raise Temporary(
                "bench.too-full",
                f"cannot restore {count} more replicas of {pool.name}: it may have"
                f" {pool.max - len(have)} more",
                hint=f"raise the pool's max, scale {pool.name} down, or choose smaller bursts",
            )
        numbers = (n for n in range(1, pool.max + 1))
        return [name for n in numbers if (name := pool.replica(n)) not in have][:count]

    def _spares(self) -> list[Spare]:
        """Wait until the pool has its spares, or will not get them; return those of the host."""
        pool, deadline = self.bench.pool, time.monotonic() + _SPARES_SECONDS
        here: list[Spare] = []
        while pool.spares and time.monotonic() < deadline:
            spares = [each for each in self.bench.client.spares(pool.name) if each.state == "ready"]
            here = [spare for spare in spares if spare.host == self.bench.host.name]
            if len(here if pool.spares_per == "host" else spares) >= pool.spares:
                break
            time.sleep(_LOOK_SECONDS)
        return sorted(here, key=lambda spare: (spare.started_at, spare.name))

    def _asked(self, spares: Sequence[Spare], burst: int) -> Sequence[str]:  # noqa: ARG002
        """Return the addresses to ask from the beginning on; "": whichever it turns out to be."""
        return [""] * burst

    def _claimed(self, name: str) -> None:
        self._ended(self._wish(name))

    def _wish(self, name: str) -> Change:
        pool, host = self.bench.pool, self.bench.host
        return self.bench.client.restore(pool.name, name=name, host=host.name, reason="bench")

    def _measured(self, name: str, address: str) -> tuple[float, Replica]:
        """Wish, wait, ask; return the moment of the answer and the replica."""
        pool, moment = self.bench.pool, 0.0
        change = self._wish(name)
        if address:
            answers(address, pool.application)
            moment = time.monotonic()
        self._ended(change)
        replica = self._replica(name)
        if replica.address != address:
            answers(replica.address or "", pool.application)
            moment = time.monotonic()
        return moment, replica

    def _replica(self, name: str) -> Replica:
        found = self.bench.client.replicas(self.bench.pool.name)
        replica = next((one for one in found if one.name == name), None)
        if replica is None or replica.address is None or replica.method not in _FAST:
            how = "it is gone" if replica is None else replica.reason or f"it is {replica.method}"
            raise Permanent(
                "bench.not-restored", f"cannot count {name} as restored: {how}",
                hint=f"poold explain {self.bench.pool.name}",
            )  # fmt: skip
        return replica

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


class BySpare(ByPoold):
    """The same wish where spares wait for it, as many as are wished at once.

    `poold ps` shows at which addresses they will be published, so the first answer there is waited
    for from the moment on at which the wish is accepted: a connection to what is frozen waits in
    the kernel. Where a hook gives a replica its identity, only what comes after it counts, and it
    is asked as any other.
    """

    def _asked(self, spares: Sequence[Spare], burst: int) -> Sequence[str]:
        if self.bench.pool.application.after_restore is not None:
            return [""] * burst
        oldest_first = [spare.address for spare in spares]
        return [*oldest_first, *[""] * burst][:burst]


def _path(replicas: list[Replica]) -> str:
    """Name what brought replicas up."""
    claimed = sum(replica.method == "spare" for replica in replicas)
    if claimed:
        return "spare" if claimed == len(replicas) else "mixed"
    by_runtime = all(_BY_RUNTIME & replica.phases.keys() for replica in replicas)
    return "oci" if by_runtime else "podman"
