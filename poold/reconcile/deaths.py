"""Replicas that die: how long each lived, and how long the next life has to wait.

Pure, time is handed in; in memory like every wait, so that a restarted daemon tries at once (who
restarts it wants to see what happens now, and it costs one try). In: each snapshot, before it is
planned. Out: the deaths that were not seen before, and waits for the plan. A listing is what it
goes by: an event was only the reason to list.

A replica that dies soon after it became ready is brought up again at once the first time, then
after 1, 2, 4 … 60 s. A life that was long enough starts the count anew; so does a change of the
application, and a name that was given up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from poold.agent.messages import ContainerFact
from poold.errors import Temporary
from poold.model.fleet import HostName, PoolName, ReplicaName
from poold.reconcile.actions import Remote, TakeDown, crash_key, replica_subject
from poold.reconcile.snapshot import Retry, Snapshot
from poold.store import Assignment

EARLY_SECONDS = 10.0  # a life shorter than that counts
STEADY_SECONDS = 60.0  # and one as long as that starts the count anew
BASE_SECONDS, CAP_SECONDS = 1.0, 60.0
_WORDS = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """A replica that was ready and is not any more; `early` deaths in a row, this one included."""

    name: ReplicaName
    host: HostName
    container_id: str
    lived_seconds: float
    early: int
    status: str
    last_words: str

    def __str__(self) -> str:
        again = f", the last of {self.early} early deaths" if self.early > 1 else ""
        words = f"; last words: {self.last_words}" if self.last_words else ""
        lived = f"{self.lived_seconds:.1f} s"
        return f"{self.name} on {self.host} died after {lived} ({self.status}){again}{words}"


@dataclass(slots=True)
class _Life:
    container_id: str
    since: float
    over: bool = False
    early: int = 0
    retry: Retry | None = None


@dataclass(slots=True)
class _Pool:
    fingerprint: str = ""
    looked: bool = False
    lives: dict[ReplicaName, _Life] = field(default_factory=dict)


class Deaths:
    """What is known of the lives of all pools' replicas."""

    def __init__(self) -> None:
        self._pools: dict[PoolName, _Pool] = {}

    def look(self, snapshot: Snapshot, now: float) -> tuple[Death, ...]:
        """Return who died since the last look; each death is told once."""
        known = self._pools.setdefault(snapshot.name, _Pool())
        fingerprint = snapshot.pool.application.fingerprint() if snapshot.pool else ""
        wished = snapshot.wished()
        lives = known.lives if fingerprint == known.fingerprint else {}
        known.lives = {name: life for name, life in lives.items() if name in wished}
        known.fingerprint = fingerprint
        deaths = tuple(self._deaths(known, snapshot, now))
        known.looked = True
        return deaths

    def begun(self, pool: PoolName, action: Remote) -> None:
        """Note a container that is about to be ended on purpose: its end is no death."""
        for life in self._pools.setdefault(pool, _Pool()).lives.values():
            if isinstance(action, TakeDown) and life.container_id == action.container_id:
                life.over = True

    def waits(self, pool: PoolName) -> Mapping[str, Retry]:
        """Return for which replicas the plan has to wait, and until when."""
        known = self._pools.get(pool, _Pool())
        return {
            crash_key(name): life.retry
            for name, life in known.lives.items()
            if life.retry is not None
        }

    def with_waits(self, snapshot: Snapshot) -> Snapshot:
        """Return the snapshot with what its plan has to wait for."""
        return replace(snapshot, retries={**snapshot.retries, **self.waits(snapshot.name)})

    def _deaths(self, known: _Pool, snapshot: Snapshot, now: float) -> Iterator[Death]:
        wished, moving = snapshot.wished(), {move.name for move in snapshot.moves}
        for assignment in snapshot.assignments:
            wish, started = wished.get(assignment.name), assignment.started
            if wish is None or started is None or wish.host not in (None, assignment.host):
                continue
            if _is_replaced(snapshot, assignment.name, started.container_id):
                continue  # the roll ends it: also one that a daemon before this one began to end
            life = _life(known, assignment, now)
            is_sure = assignment.name not in moving and _is_sure(snapshot, assignment)
            if life.over or not is_sure:
                continue
            fact = snapshot.hosts[assignment.host].ours(assignment.name)
            if _lives(fact, started.container_id):
                if now - life.since >= STEADY_SECONDS:
                    life.early, life.retry = 0, None
            elif fact is None or fact.role != "captured":
                yield _over(life, assignment, fact, now)


def _life(known: _Pool, assignment: Assignment, now: float) -> _Life:
    """Return the life that an assignment tells of, begun now unless the daemon was not there then.

    The beginning of those is by the host's clock: that is only used when there is no better.
    """
    assert assignment.started is not None  # noqa: S101 - looked at by the caller
    before = known.lives.get(assignment.name)
    if before is not None and before.container_id == assignment.started.container_id:
        return before
    since = now if known.looked else min(now, assignment.started.started_at or now)
    life = _Life(assignment.started.container_id, since)
    if before is not None:
        life.early, life.retry = before.early, before.retry
    known.lives[assignment.name] = life
    return life


def _is_replaced(snapshot: Snapshot, name: ReplicaName, container_id: str) -> bool:
    return snapshot.roll is not None and snapshot.roll.replacing.get(name) == container_id


def _is_sure(snapshot: Snapshot, assignment: Assignment) -> bool:
    """Whether what the host has of a replica can be believed, and nothing is done to it."""
    host = snapshot.hosts.get(assignment.host)
    busy = replica_subject(assignment.name) in snapshot.busy
    return host is not None and host.up and assignment.name not in host.unsure and not busy


def _lives(fact: ContainerFact | None, container_id: str) -> bool:
    return fact is not None and fact.container_id == container_id and fact.running and fact.ready


def _over(life: _Life, assignment: Assignment, fact: ContainerFact | None, now: float) -> Death:
    life.over = True
    lived = now - life.since
    is_it = fact is not None and fact.container_id == life.container_id
    words = _clean(fact.last_words) if fact is not None and is_it else ""
    if lived < EARLY_SECONDS:
        life.early += 1
        life.retry = _retry(life.early, words, now)
    elif lived >= STEADY_SECONDS:
        life.early, life.retry = 0, None
    return Death(
        name=assignment.name,
        host=assignment.host,
        container_id=life.container_id,
        lived_seconds=lived,
        early=life.early if lived < EARLY_SECONDS else 0,
        status=fact.status if fact is not None and is_it else "its container is gone",
        last_words=words,
    )


def _retry(early: int, words: str, now: float) -> Retry | None:
    if early < 2:
        return None
    delay = min(CAP_SECONDS, BASE_SECONDS * 2.0 ** min(early - 2, 20))
    text = (
        f"died {early} times within {EARLY_SECONDS:g} s of becoming ready; next try in {delay:g} s"
    )
    problem = Temporary(
        "replica.dies-at-once", f"{text}; last words: {words}" if words else text
    ).to_json()
    return Retry(at=now + delay, failed_at=now, failures=early, definite=False, problem=problem)


def _clean(words: str) -> str:
    """Keep what can be shown in one line."""
    text = "".join(mark if mark.isprintable() else " " for mark in words).strip()
    return text if len(text) <= _WORDS else text[: _WORDS - 1] + "…"
