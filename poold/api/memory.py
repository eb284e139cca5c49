"""A fleet in memory behind the API's ports: for tests of clients, and for trying the CLI.

Flows in: wishes. Flows out: changes that end as told (`settle`, `fail`) or by themselves after
`pace_seconds`. It starts no container and keeps nothing. `python -m poold.api` serves one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Literal

from poold.agent.messages import Finding
from poold.api.memory_logs import MemoryAlerts, MemoryCalls, MemoryEvents
from poold.api.memory_values import HELLO, made_generation, made_replica
from poold.errors import Permanent, Problem, Refused, Temporary, problem_from_json
from poold.model.balancing import BalancerStatus
from poold.model.events import Because, Explanation
from poold.model.fleet import (
    Change,
    ChangeId,
    ChangeKind,
    Generation,
    HostName,
    HostStatus,
    Pool,
    PoolName,
    PoolStatus,
    Quarantine,
    Replica,
    ReplicaName,
)


@dataclass
class MemoryConfig:
    """The configured pools."""

    pools: dict[PoolName, Pool]


@dataclass
class MemoryFleet:
    """Control, store and world in one. `pace_seconds` None: changes wait for `settle` or `fail`."""

    configured: Iterable[Pool] = (HELLO,)
    pace_seconds: float | None = None
    misbehaviour: str = ""
    noted: str = ""
    balancer: BalancerStatus | None = None
    away: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)
    marks: dict[str, Literal["cordoned", "fenced"]] = field(default_factory=dict)
    quarantine: list[Quarantine] = field(default_factory=list)
    facts: dict[str, dict[str, str]] = field(default_factory=dict)  # of hosts that differ
    _replicas: dict[str, Replica] = field(default_factory=dict)
    _changes: list[Change] = field(default_factory=list)
    image_note: str = ""
    _generations: list[Generation] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.config = MemoryConfig({pool.name: pool for pool in self.configured})
        self._desired = {pool.name: pool.replicas for pool in self.configured}
        self.events = MemoryEvents()
        self.calls = MemoryCalls(self._pool_of)
        self.alerts = MemoryAlerts()

    # -- control ----------------------------------------------------------------------------------

    def scale(
        self,
        pool: str,
        *,
        replicas: int | None = None,
        delta: int | None = None,
        actor: str,
        reason: str = "",
    ) -> Change:
        """Wish for a number of replicas; within the pool's bounds."""
        known = self._pool(pool)
        wished = self._desired[known.name] + delta if delta is not None else replicas or 0
        if not known.min <= wished <= known.max:
            raise Refused(
                "scale.out-of-bounds",
                f"cannot scale {pool} to {wished}: it may have {known.min} to {known.max}",
                hint="change min and max of the pool in the configuration",
            )
        done = wished == self._desired[known.name] == len(self._of(pool))
        self._desired[known.name] = wished
        return self._accept(
            pool, "scale", {"replicas": wished}, actor, reason, state="settled" if done else None
        )

    def restore(
        self,
        pool: str,
        *,
        name: str | None = None,
        host: str | None = None,
        actor: str,
        reason: str = "",
    ) -> Change:
        """Wish for one more replica."""
        known = self._pool(pool)
        if name in self._replicas:
            raise Refused(
                "replica.taken",
                f"cannot restore {name}: a replica of that name is there",
                hint="choose another name, or leave it out",
            )
        self._host(host)
        self._desired[known.name] += 1
        return self._accept(pool, "restore", {"name": name, "host": host}, actor, reason)

    def remove(self, replica: str, *, actor: str, reason: str = "") -> Change:
        """Wish for one replica less."""
        known = self._replica(replica)
        self._desired[known.pool] -= 1
        return self._accept(known.pool, "remove", {"replica": replica}, actor, reason)

    def move(self, replica: str, *, to: str, actor: str, reason: str = "") -> Change:
        """Wish for a replica to go on elsewhere."""
        known = self._replica(replica)
        self._host(to)
        if known.host == to:
            raise Refused("move.same-host", f"cannot move {replica} to {to}: it runs there")
        return self._accept(known.pool, "move", {"replica": replica, "to": to}, actor, reason)

    def checkpoint(self, pool: str, *, actor: str, reason: str = "") -> Change:
        """Wish for a generation."""
        return self._accept(self._pool(pool).name, "checkpoint", {}, actor, reason)

    def import_archive(
        self, pool: str, *, file: str, host: str | None = None, actor: str, reason: str = ""
    ) -> Change:
        """Wish for a generation made of an archive."""
        wish: dict[str, object] = {"file": file, "host": host or self._pool(pool).builder}
        return self._accept(self._pool(pool).name, "import", wish, actor, reason)

    def count(self, pool: str) -> int:
        """Return how many are wished."""
        return self._desired[self._pool(pool).name]

    # -- store ------------------------------------------------------------------------------------

    def transaction(self) -> AbstractContextManager[None]:
        """Do nothing: nothing is kept."""
        return nullcontext()

    def _pool_of(self, replica: str) -> str | None:
        known = self._replicas.get(replica)
        return known.pool if known else None

    def change(self, id: ChangeId, /) -> Change | None:  # noqa: A002
        """Return one change."""
        return self._changes[id - 1] if 0 < id <= len(self._changes) else None

    def changes(self, *, pool: str | None = None, limit: int = 50) -> tuple[Change, ...]:
        """Return changes, the newest first."""
        found = [change for change in reversed(self._changes) if pool in (None, change.pool)]
        return tuple(found[:limit])

    async def wait_change(
        self,
        id: ChangeId,  # noqa: A002
        /,
        *,
        after_seq: int,
        timeout_seconds: float,
    ) -> Change:
        """Return the change once it has news, or when time is up."""
        try:
            async with asyncio.timeout(timeout_seconds):
                while self._changes[id - 1].seq <= after_seq:
                    await self._news.wait()
        except TimeoutError:
            pass
        return self._changes[id - 1]

    def generations(self, pool: str, /) -> tuple[Generation, ...]:
        """Return a pool's generations, the newest first."""
        return tuple(found for found in reversed(self._generations) if found.pool == pool)

    # -- world ------------------------------------------------------------------------------------

    def replicas(self, pool: str | None = None) -> tuple[Replica, ...]:
        """Return replicas by name."""
        return tuple(self._of(pool))

    def foreign_on(self, _: HostName) -> frozenset[str]:
        """Nobody else has containers there."""
        return frozenset()

    def weighed(self, pool: str | None = None) -> tuple[Replica, ...]:
        """Return the same: each says what it has."""
        return self.replicas(pool)

    def hosts(self) -> tuple[HostStatus, ...]:
        """Return the hosts of all pools, up unless they are away."""
        names = sorted({host for pool in self.config.pools.values() for host in pool.hosts})
        return tuple(
            HostStatus(
                name,
                "unknown" if name in self.away else "up",
                boot_id="boot",
                seen_at=time.time(),
                facts={
                    "podman": "5.8.6",
                    "criu": "4.2.1",
                    "kernel": "6.18",
                    **self.facts.get(name, {}),
                },
                disk_free_bytes=40 << 30,
                disk_reserve_bytes=1 << 30,
                memory_free_bytes=8 << 30,
                mark=self.marks.get(name, ""),
                closed=f"{name} is {self.marks[name]} by test" if name in self.marks else "",
                quarantine=tuple(each for each in self.quarantine if each.host == name),
            )
            for name in names
        )

    def pools(self) -> tuple[PoolStatus, ...]:
        """Return how each pool is."""
        return tuple(self._status(pool) for pool in self.config.pools.values())

    def sentence(self) -> str:
        """Say how the fleet is."""
        if self.misbehaviour == "broken":
            raise RuntimeError("a secret that no caller may see")
        return "; ".join(status.sentence for status in self.pools())

    def note(self) -> str:
        """Return what a test said of the daemon itself."""
        return self.noted

    # -- what a test tells it ---------------------------------------------------------------------

    def tell(self, id: ChangeId, progress: str) -> None:  # noqa: A002
        """Say what is happening now."""
        self._update(id, progress=progress)

    def settle(self, id: ChangeId) -> None:  # noqa: A002
        """Do what was wished."""
        change = self._changes[id - 1]
        self._apply(change)
        self._update(
            id,
            state="settled",
            progress=self._status(self.config.pools[change.pool]).sentence,
            phases={"restore": 0.21, "probe": 0.04},
            settled_at=time.time(),
        )

    def fail(self, id: ChangeId, problem: Problem) -> None:  # noqa: A002
        """End the change with a reason."""
        self._update(id, state="failed", problem=problem.to_json(), settled_at=time.time())

    def explain(self, pool: str) -> Explanation:
        """Say how a pool is, and hardly why."""
        status = self._status(self._pool(pool))
        because = tuple(
            Because("replica", one.name, one.state, f"{one.name} is {one.state} on {one.host}")
            for one in self._of(pool)
        )
        because += tuple(
            Because("change", str(one.id), one.state, problem.message, evidence=problem.detail)
            for one in self._changes
            if one.pool == pool and one.problem
            for problem in (problem_from_json(one.problem),)
        )
        waits = tuple(
            f"change {one.id}: {one.progress or 'waiting for its turn'}"
            for one in self._changes
            if one.pool == pool and one.state == "pending"
        )
        return Explanation(
            pool=pool,
            at=time.time(),
            sentence=status.sentence,
            revision=self.calls.revision(pool),
            waits_for=waits,
            because=because,
            events=self.events.newest(pool=pool, limit=5),
        )

    async def examine(self) -> dict[str, tuple[Finding, ...]]:
        """Find a warning on each host."""
        warning = Finding("skew", "warning", "clock is 3 s behind", "ages are wrong", "run NTP")
        return {host.name: (Finding("podman", "ok", "5.8.6"), warning) for host in self.hosts()}

    async def logs(self, replica: str, tail: int) -> tuple[str, ...]:
        """Invent output."""
        if self.misbehaviour == "unreachable":
            raise Temporary("host.unreachable", f"cannot reach the host of {replica}")
        if self.misbehaviour == "colours":
            return (f"\x1b[31m{replica}\tred\x1b[0m",)
        return tuple(f"{replica} line {number}" for number in range(1, 4))[-tail:]

    def wished(
        self, kind: ChangeKind, pool: str, wish: dict[str, object], actor: str, reason: str
    ) -> Change:
        """Accept a change of a pool that is there."""
        return self._accept(self._pool(pool).name, kind, wish, actor, reason)

    def settled(self, kind: ChangeKind, wish: dict[str, object], actor: str, reason: str) -> Change:
        """Accept a change of no pool, settled at once."""
        return self._accept("", kind, wish, actor, reason, state="settled")

    # -- inside -----------------------------------------------------------------------------------

    def _accept(
        self,
        pool: str,
        kind: ChangeKind,
        wish: dict[str, object],
        actor: str,
        reason: str,
        *,
        state: str | None = None,
    ) -> Change:
        change = Change(
            id=ChangeId(len(self._changes) + 1),
            pool=PoolName(pool),
            kind=kind,
            wish={key: value for key, value in wish.items() if value is not None},
            actor=actor,
            created_at=time.time(),
            reason=reason,
        )
        if state == "settled":
            change = replace(change, state="settled", settled_at=change.created_at)
        self._changes.append(change)
        self._tell_of(change, "accepted")
        if change.state == "pending":
            self.calls.revisions[pool] = self.calls.revision(pool) + 1
        else:
            self._tell_of(change, change.state)
        if self.pace_seconds is not None and change.state == "pending":
            self._play(change.id, self.pace_seconds)
        return change

    def _play(self, id: ChangeId, pace_seconds: float) -> None:  # noqa: A002
        later = asyncio.get_running_loop().call_later
        later(pace_seconds, self.tell, id, "restoring")
        later(2 * pace_seconds, self.tell, id, "probing")
        if self.misbehaviour == "fail":
            why = Permanent(
                "criu.live-connection",
                "cannot restore hello1: the checkpoint holds a live connection",
                hint="make the application close it in before_checkpoint",
                detail="Error (criu/sk-inet.c:1): Connected TCP socket",
            )
            later(3 * pace_seconds, self.fail, id, why)
        elif self.misbehaviour != "hang":
            later(3 * pace_seconds, self.settle, id)

    def _update(self, id: ChangeId, **fields: object) -> None:  # noqa: A002
        known = self._changes[id - 1]
        changed = replace(known, seq=known.seq + 1, **fields)  # type: ignore[arg-type]
        self._changes[id - 1] = changed
        if changed.state != "pending":
            self._tell_of(changed, changed.state)
        self._news.set()
        self._news = asyncio.Event()

    def _tell_of(self, change: Change, what: str) -> None:
        text = f"{change.kind} of {change.pool} is {what} as change {change.id}"
        self.events.add(f"change.{what}", text, pool=change.pool, change=change.id)

    def _apply(self, change: Change) -> None:
        pool = self.config.pools[change.pool]
        replica = ReplicaName(str(change.wish.get("replica", "")))
        if change.kind in ("checkpoint", "import"):
            self._generations.append(made_generation(pool, len(self._generations) + 1))
        elif change.kind in ("roll", "rollback"):
            number = change.wish.get("to") or len(self._generations)
            self._replicas = {
                name: replace(one, generation=number) if one.pool == pool.name else one
                for name, one in self._replicas.items()
            }
        elif change.kind == "move":
            moved = replace(self._replicas[replica], method="move", host=change.wish["to"])
            self._replicas[replica] = moved
        elif change.kind == "remove":
            self._replicas.pop(replica, None)
        else:
            self._fill(pool, change.wish.get("name"), change.wish.get("host"))

    def _fill(self, pool: Pool, name: object = None, host: object = None) -> None:
        names = [str(name)] if name else []
        names += [pool.replica(number) for number in range(1, pool.max + 1)]
        for free in names:
            present = len(self._of(pool.name))
            if present >= self._desired[pool.name]:
                break
            where = HostName(str(host or pool.hosts[present % len(pool.hosts)]))
            self._replicas.setdefault(free, made_replica(pool, free, where))
        for extra in self._of(pool.name)[self._desired[pool.name] :]:
            del self._replicas[extra.name]

    def _of(self, pool: str | None) -> list[Replica]:
        found = [replica for replica in self._replicas.values() if pool in (None, replica.pool)]
        return sorted(found, key=lambda replica: replica.name)

    def _status(self, pool: Pool) -> PoolStatus:
        desired, ready = self._desired[pool.name], len(self._of(pool.name))
        generations = self.generations(pool.name)
        number = generations[0].number if generations else None
        sentence = f"{pool.name} {ready}/{desired}"
        return PoolStatus(
            *(pool.name, desired, ready, number, sentence),
            image_note=self.image_note,
            balancer=self.balancer,
        )

    def _pool(self, name: str) -> Pool:
        pool = self.config.pools.get(PoolName(name))
        if pool is None:
            raise Refused("pool.unknown", f"cannot find pool {name}", hint="poold status")
        return pool

    def _replica(self, name: str) -> Replica:
        if name not in self._replicas:
            raise Refused("replica.unknown", f"cannot find replica {name}", hint="poold ps")
        return self._replicas[name]

    def _host(self, name: str | None) -> None:
        if name is not None and name not in {host.name for host in self.hosts()}:
            raise Refused("host.unknown", f"cannot find host {name}", hint="poold hosts")
