"""The daemon's memory: one SQLite file, one writer.

In: accepted wishes, assignments, intents, outcomes, each durable when the call (or the enclosing
`transaction`) returns. Out: the same, as values. It decides nothing and waits for nobody but the
readers of changes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from poold.agent.codec import encode
from poold.agent.messages import Sealed
from poold.agent.space import NOTHING, Reserve, lacking
from poold.errors import Temporary
from poold.model.application import Application
from poold.model.fleet import (
    ActionId,
    Change,
    ChangeId,
    ChangeKind,
    ChangeState,
    Digest,
    Generation,
    HostName,
    Phases,
    PoolName,
    ReplicaName,
)
from poold.store import rows
from poold.store.alerts import Alerts
from poold.store.calls import Calls
from poold.store.changes import Changes
from poold.store.database import Database
from poold.store.events import Events
from poold.store.hosts import HostMarks
from poold.store.quarantine import Quarantines
from poold.store.records import Assignment, Garbage, Intent, Move, Wish
from poold.store.rolls import Rolls, dump_application

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenPool:
    """A pool that this store knows, and how far its first look at the hosts has come."""

    name: PoolName
    seen_at: float
    first_wish_at: float | None
    served: str = ""  # fingerprint of the application whose generation became current last
    served_image: str = ""  # and the bare id of its image, "" where an older poold wrote it
    introduced: frozenset[HostName]


class Store:
    """Opened by one daemon at a time: raises Refused("store.locked") for the second.

    `clock` counts seconds since the epoch. Use it from one thread.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        clock: Callable[[], float] = time.time,
        reserve: Reserve = NOTHING,
    ) -> None:
        """`reserve` stays free of the disk for what was accepted: without it no wish is."""
        self._database = Database(state_dir)
        self._state_dir, self.reserve = state_dir, reserve
        self._clock = clock
        try:
            self._changes = Changes(self._database, clock)
            self.events = Events(self._database, clock)
        except BaseException:
            self._database.close()
            raise
        self.hosts = HostMarks(self._database, clock)
        self.calls = Calls(self._database, clock)
        self.quarantine = Quarantines(self._database)
        self.alerts = Alerts(self._database, clock)
        self.rolls = Rolls(self._database, clock)
        self._listeners: list[Callable[[PoolName], None]] = []

    def close(self) -> None:
        """Close the file and give the lock back."""
        self._database.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make everything inside durable at once, or nothing."""
        with self._database.transaction():
            yield

    def after_commit(self, doing: Callable[[], None]) -> None:
        """Do something once the outermost transaction is durable, and only then; now, without."""
        self._database.after_commit(doing)

    def listen(self, listener: Callable[[PoolName], None]) -> None:
        """Call `listener` with the pool's name after each accepted wish."""
        self._listeners.append(listener)

    def notify(self, pool: PoolName) -> None:
        """Tell the listeners that something was wished of a pool, once that is durable."""
        self.after_commit(partial(self._tell_listeners, pool))

    def _tell_listeners(self, pool: PoolName) -> None:
        for listener in self._listeners:
            listener(pool)

    def latest(self) -> float:
        """Return the latest time that was written of a change or a generation, 0.0 for none."""
        row = self._database.row("latest_time")
        return float(row["at"]) if row is not None else 0.0

    # -- changes ----------------------------------------------------------------------------------

    def change(self, change: ChangeId, /) -> Change | None:
        """Return one change, None where there is none of that number."""
        return self._changes.get(change)

    def changes(self, *, pool: str | None = None, limit: int = 50) -> tuple[Change, ...]:
        """Return the newest changes first."""
        return self._changes.newest(pool, limit)

    def pending_changes(self, pool: str | None = None) -> tuple[Change, ...]:
        """Return the changes that did not end, oldest first."""
        return self._changes.pending(pool)

    async def wait_change(
        self, change: ChangeId, /, *, after_seq: int, timeout_seconds: float
    ) -> Change:
        """Return the change once its seq is above `after_seq` or it ended, or at the timeout."""
        return await self._changes.wait(
            change, after_seq=after_seq, timeout_seconds=timeout_seconds
        )

    def accept(
        self,
        *,
        pool: str,
        kind: ChangeKind,
        wish: Mapping[str, object],
        actor: str,
        reason: str,
        done: bool = False,
        said: str = "nothing to do",
        relieves: bool = False,
    ) -> Change:
        """Record an accepted wish; `done` where there is nothing to do for it, which is `said`.

        Raises Temporary("store.disk-full") where the disk is down to its reserve, unless the wish
        `relieves`: one that takes away, guards or goes back is what an operator needs just then.
        """
        about = pool or wish.get("host") or wish.get("file")
        with self.transaction():
            if not relieves:
                self._require_room()
            change = self._changes.add(
                pool=pool,
                kind=kind,
                wish=wish,
                actor=actor,
                reason=reason,
                done=said if done else None,
            )
            self.events.add(
                "change.accepted",
                f"{kind} of {about} is accepted as change {change.id}, wished by {actor}"
                + (f": {reason}" if reason else ""),
                pool=pool,
                change=change.id,
                data={"kind": kind, "wish": wish, "actor": actor, "reason": reason},
            )
            if done:
                self._say_ended(change)
        return change

    def _require_room(self) -> None:
        lack = lacking(self._state_dir, 0, self.reserve)
        if lack:
            raise Temporary(
                "store.disk-full",
                f"cannot accept a wish: {lack}",
                hint="free some space there, or lower daemon.disk_reserve; nothing that was"
                " accepted is lost, and what takes away, fences or rolls back is accepted",
            )

    def _say_ended(self, change: Change) -> None:
        problem = {key: text for key, text in (change.problem or {}).items() if key != "detail"}
        self.events.add(
            f"change.{change.state}",
            f"change {change.id} is {change.state}: {change.progress}",
            pool=change.pool,
            change=change.id,
            data={"kind": change.kind, "phases": change.phases, "problem": problem or None},
        )

    def tell(self, change: ChangeId, progress: str) -> None:
        """Say what is happening for a change now; not durable."""
        self._changes.tell(change, progress)

    def end_change(
        self,
        change: ChangeId,
        state: ChangeState,
        *,
        progress: str,
        problem: Mapping[str, object] | None = None,
        phases: Phases | None = None,
    ) -> None:
        """Settle or fail a pending change."""
        with self.transaction():
            ended = self._changes.end(
                change, state, progress=progress, problem=problem, phases=phases
            )
            if ended:
                self._say_ended(self._changes.must(change))
            self.after_commit(partial(self._changes.ended, change))

    # -- pools and wishes -------------------------------------------------------------------------

    def see_pool(self, pool: PoolName) -> SeenPool:
        """Return what is known of a pool, remembering it when it is new."""
        if not (found := self._database.made("pool_get", tuple, name=pool)):
            self._database.run("pool_see", name=pool, seen_at=self._clock())
            found = self._database.made("pool_get", tuple, name=pool)
        hosts = self._database.made("introductions_list", rows.introduced, pool=pool)
        served, _, image_id = found[0]["served"].partition(" ")
        fields = {**found[0], "served": served, "served_image": image_id}
        return SeenPool(**fields, introduced=hosts)

    def known_pools(self) -> tuple[PoolName, ...]:
        """Return the pools that were ever seen, whether or not they are still configured."""
        return self._database.made("pool_names", rows.pool_names)

    def introduce(self, pool: PoolName, host: HostName) -> None:
        """Remember that a host's containers of a pool were looked through for adoption."""
        self._database.run("introduction_put", pool=pool, host=host, at=self._clock())

    def first_wished(self, pool: PoolName) -> None:
        """Remember that the configuration's `replicas` was applied."""
        self._database.run("pool_first_wish", name=pool, at=self._clock())

    def wishes(self, pool: str | None = None) -> tuple[Wish, ...]:
        """Return the wished replicas by name."""
        return self._database.made("wishes_list", rows.wishes, pool=pool)

    def put_wish(self, wish: Wish) -> bool:
        """Wish for a replica, or change its pin; False, and nothing, where another pool has it."""
        with self.transaction():
            self._database.run("wish_put", name=wish.name, pool=wish.pool, host=wish.host)
            row = self._database.row("wish_get", name=wish.name)
        return row is not None and row["pool"] == wish.pool

    def drop_wish(self, name: ReplicaName) -> None:
        """Wish for a replica no more."""
        self._database.run("wish_drop", name=name)

    # -- assignments ------------------------------------------------------------------------------

    def assignments(self, pool: str | None = None) -> tuple[Assignment, ...]:
        """Return who runs where, by name."""
        return self._database.made("assignments_list", rows.assignments, pool=pool)

    def load_without(self, pool: PoolName) -> Mapping[HostName, int]:
        """Return how many replicas of all the other pools each host has, or is to get by moves."""
        return self._database.made("assignments_of_others", rows.counts, pool=pool)

    def holder(self, name: ReplicaName, *, besides: PoolName) -> PoolName | None:
        """Return another pool that wishes for a name, or whose host did not let go of it yet."""
        row = self._database.row("name_holder", name=name, besides=besides)
        return PoolName(row["pool"]) if row else None

    def replica_names(self) -> tuple[ReplicaName, ...]:
        """Return every name that is wished or assigned."""
        return self._database.made("replica_names", rows.replica_names)

    def assignment(self, name: ReplicaName) -> Assignment | None:
        """Return the host that may run a name, and how it came up."""
        row = self._database.row("assignment_get", name=name)
        return rows.assignment(row) if row else None

    def put_assignment(self, assignment: Assignment) -> None:
        """Write or replace who may run a name.

        Raises Temporary("replica.name-taken") while another pool has it: nothing may start then.
        """
        with self.transaction():
            row = self._database.row("assignment_get", name=assignment.name)
            if row is not None and row["pool"] != assignment.pool:
                raise name_taken(assignment.name, assignment.pool, row["pool"], row["host"])
            self._database.run(
                "assignment_put",
                name=assignment.name,
                pool=assignment.pool,
                host=assignment.host,
                since=assignment.since,
                rung=assignment.rung,
                failed_rungs=json.dumps(assignment.failed_rungs),
                reason=assignment.reason,
                generation=assignment.generation,
                started=_dump(assignment.started),
            )

    def drop_assignment(self, name: ReplicaName, host: HostName) -> None:
        """Free a name, if it is still that host's; only after the host confirmed its absence."""
        self._database.run("assignment_drop", name=name, host=host)

    # -- intents ----------------------------------------------------------------------------------

    def intents(self, pool: str | None = None) -> tuple[Intent, ...]:
        """Return the requests whose outcome is not folded, oldest first."""
        return self._database.made("intents_list", rows.intents, pool=pool)

    def put_intent(self, intent: Intent) -> None:
        """Write a request down before it is sent."""
        self._database.run(
            "intent_put",
            action=intent.action,
            pool=intent.pool,
            host=intent.host,
            subject=intent.subject,
            verb=intent.request.verb,
            request=_dump(intent.request),
            boot_id=intent.boot_id,
            created_at=intent.created_at,
        )

    def drop_intent(self, action: ActionId) -> None:
        """Forget a request whose outcome is folded."""
        self._database.run("intent_drop", action=action)

    # -- generations ------------------------------------------------------------------------------

    def generations(self, pool: str, /) -> tuple[Generation, ...]:
        """Return a pool's generations that were not retired, the newest first."""
        return self._database.made("generations_list", rows.generations, pool=pool)

    def generation_number(self, pool: PoolName, digest: str) -> int | None:
        """Return the number of a generation, retired ones included."""
        row = self._database.row("generation_number", pool=pool, digest=digest)
        return int(row["number"]) if row else None

    def is_numbered(self, pool: PoolName, number: int) -> bool:
        """Whether some generation has that number, retired ones included."""
        return self._database.row("generation_numbered", pool=pool, number=number) is not None

    def add_generation(
        self,
        pool: PoolName,
        sealed: Sealed,
        builder: HostName,
        application: Application | None = None,
    ) -> int:
        """Give a proven generation its number; the same digest keeps the one it has."""
        with self.transaction():
            known = self.generation_number(pool, sealed.digest)
            if known is not None:
                return known
            row = self._database.row("generation_last", pool=pool)
            number = (int(row["number"]) if row else 0) + 1
            self._database.run(
                "generation_add",
                pool=pool,
                number=number,
                digest=sealed.digest,
                manifest=_dump(sealed.manifest),
                builder=builder,
                proven_at=self._clock(),
                application=dump_application(application),
            )
            return number

    def put_generation(self, generation: Generation, application: Application | None) -> None:
        """Write a generation down under the number that it had before the store was lost."""
        self._database.run(
            "generation_add",
            pool=generation.pool,
            number=generation.number,
            digest=generation.digest,
            manifest=_dump(generation.manifest),
            builder=generation.builder,
            proven_at=generation.proven_at,
            application=dump_application(application),
        )

    def retire_generation(
        self, pool: PoolName, number: int, digest: Digest, hosts: Iterable[HostName]
    ) -> None:
        """Take a generation out of service and have it removed from these hosts."""
        with self.transaction():
            self._database.run("generation_retire", pool=pool, number=number, at=self._clock())
            for host in hosts:
                self.put_garbage(Garbage(digest=digest, host=host, pool=pool))

    def garbage(self, pool: str) -> tuple[Garbage, ...]:
        """Return what is still to be removed from hosts."""
        return self._database.made("garbage_list", rows.garbage, pool=pool)

    def put_garbage(self, garbage: Garbage) -> None:
        """Have a generation or capture removed from a host."""
        self._database.run(
            "garbage_put", digest=garbage.digest, host=garbage.host, pool=garbage.pool
        )

    def drop_garbage(self, digest: Digest, host: HostName) -> None:
        """Forget what a host confirmed not to hold."""
        self._database.run("garbage_drop", digest=digest, host=host)

    # -- moves ------------------------------------------------------------------------------------

    def moves(self, pool: str | None = None) -> tuple[Move, ...]:
        """Return the moves under way, by name."""
        return self._database.made("moves_list", rows.moves, pool=pool)

    def put_move(self, move: Move) -> None:
        """Begin a move or write its next step down."""
        self._database.run(
            "move_put",
            name=move.name,
            pool=move.pool,
            change_id=move.change,
            source=move.source,
            target=move.target,
            step=move.step,
            action=move.action,
            attempt=move.attempt,
            container_id=move.container_id,
            sealed=_dump(move.sealed),
            frozen_at=move.frozen_at,
            problem=json.dumps(move.problem) if move.problem else None,
            phases=json.dumps(move.phases),
        )

    def drop_move(self, name: ReplicaName) -> None:
        """Forget a move that ended."""
        self._database.run("move_drop", name=name)


def name_taken(name: str, pool: str, holder: str, host: str = "") -> Temporary:
    """Return why a pool cannot use a name, and the way out."""
    where = f" on {host}" if host else ""
    return Temporary(
        "replica.name-taken",
        f"cannot use the name {name} for {pool}: the pool {holder} has it{where}",
        hint=way_to_free(holder),
    )


def way_to_free(pool: str) -> str:
    """Return the hint for a name that another pool has."""
    return f"put {pool} back into the configuration, scale it down, then rename it"


def _dump(value: Any) -> str | None:
    return None if value is None else json.dumps(encode(value))
