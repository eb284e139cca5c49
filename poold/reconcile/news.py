"""What of the loop's doings is worth an event: the one place that words them.

In: outcomes as they are folded, snapshots, the hosts' states. Out: events in the store, within the
transaction of whoever calls. It decides nothing, and nothing here is needed to go on.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from poold.agent.messages import Sealed, Started
from poold.errors import Problem
from poold.model.fleet import Generation, HostName, HostStatus, PoolName, Quarantine, ReplicaName
from poold.reconcile import images
from poold.reconcile.actions import COLD, BringUp, TurnRoll, replica_subject
from poold.reconcile.snapshot import Snapshot
from poold.store import Assignment, Intent, Move
from poold.store.events import Events

_LONGEST_DETAIL = 4000  # the lines that a failure left; events are kept by the thousand

LOG = logging.getLogger(__name__)


class News:
    """Words events. It remembers who ran when last looked at, to notice who is lost."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._running: dict[PoolName, set[ReplicaName]] = {}
        self._hosts_up: dict[HostName, str] = {}
        self._images: dict[PoolName, str] = {}

    # -- outcomes ---------------------------------------------------------------------------------

    def came_up(self, intent: Intent, started: Started, generation: int | None) -> None:
        """Record a replica that is ready."""
        self._know(intent.pool).add(ReplicaName(started.name))
        source = f"restored from generation {generation}" if generation else "started cold"
        if started.method == "spare":
            source = f"by claiming a spare of generation {generation}"
        self._events.add(
            "replica.ready",
            f"{started.name} is ready on {intent.host} after {started.seconds:.2f} s, {source}",
            pool=intent.pool,
            replica=started.name,
            host=intent.host,
            data={
                "method": started.method,
                "engine": started.engine,
                "generation": generation,
                "address": started.address,
                "seconds": started.seconds,
                "phases": started.phases,
            },
        )

    def start_failed(self, intent: Intent, name: str, rung: str, problem: Problem) -> None:
        """Record a rung of the ladder that did not bring a replica up."""
        what = "starting it cold" if rung == COLD else "restoring it"
        self._events.add(
            "replica.start-failed",
            f"{name} did not come up on {intent.host}: {what} failed: {problem.message}",
            pool=intent.pool,
            replica=name,
            host=intent.host,
            data={"rung": rung, **_problem(problem)},
        )

    def removed(self, intent: Intent, name: str) -> None:
        """Record a container of ours that was taken down."""
        self._know(intent.pool).discard(ReplicaName(name))
        self._events.add(
            "replica.removed",
            f"{name} is removed from {intent.host}",
            pool=intent.pool,
            replica=name,
            host=intent.host,
        )

    def moved(self, move: Move) -> None:
        """Record a replica that answered on its new host."""
        self._events.add(
            "replica.moved",
            f"{move.name} moved from {move.source} to {move.target}",
            pool=move.pool,
            replica=move.name,
            host=move.target,
            change=move.change,
            data={"from": move.source, "to": move.target},
        )

    def adopted(self, assignment: Assignment) -> None:
        """Record a replica that was found running."""
        self._events.add(
            "replica.adopted",
            f"{assignment.name} was found running on {assignment.host}",
            pool=assignment.pool,
            replica=assignment.name,
            host=assignment.host,
        )

    def fell_back(self, pool: PoolName, action: BringUp) -> None:
        """Record a step down the ladder."""
        where = "a cold start" if action.digest is None else f"generation {action.generation}"
        self._events.add(
            "fallback",
            f"{action.name} falls back to {where} on {action.host}: {action.reason}",
            pool=pool,
            replica=action.name,
            host=action.host,
            data={"rung": action.rung, "generation": action.generation},
        )

    def proven(self, intent: Intent, number: int, sealed: Sealed) -> None:
        """Record a new generation."""
        self._events.add(
            "generation.proven",
            f"generation {number} of {intent.pool} is proven on {intent.host}",
            pool=intent.pool,
            host=intent.host,
            data={
                "generation": number,
                "digest": sealed.digest,
                "bytes": sealed.manifest.archive_bytes,
                "phases": sealed.manifest.phases,
            },
        )

    def build_failed(self, intent: Intent, problem: Problem) -> None:
        """Record a generation that could not be made."""
        self._events.add(
            "generation.failed",
            f"a generation of {intent.pool} could not be made on {intent.host}: {problem.message}",
            pool=intent.pool,
            host=intent.host,
            data=_problem(problem),
        )

    def taken_back(self, generation: Generation, host: HostName) -> None:
        """Record a generation that the store had lost and a host still had, truly sealed."""
        self._events.add(
            "generation.adopted",
            f"generation {generation.number} of {generation.pool} was found on {host}",
            pool=generation.pool,
            host=host,
            data={"generation": generation.number, "digest": generation.digest},
        )

    def disowned(self, pool: PoolName, digest: str, host: HostName, why: str) -> None:
        """Record a checkpoint that is removed because nobody vouches for it."""
        self._events.add(
            "generation.disowned",
            f"a checkpoint of {pool} that nobody knows of is removed from {host}: {why}",
            pool=pool,
            host=host,
            data={"digest": digest},
        )

    def retired(self, pool: PoolName, number: int) -> None:
        """Record a generation that went out of service."""
        self._events.add(
            "generation.retired",
            f"generation {number} of {pool} is retired",
            pool=pool,
            data={"generation": number},
        )

    def quarantined(self, entry: Quarantine, seconds: float) -> None:
        """Record a generation that a host does not try again for a while."""
        self._events.add(
            "generation.quarantined",
            f"generation {entry.generation} of {entry.pool} is not tried on {entry.host} for"
            f" {seconds / 60:.0f} min: {entry.message}",
            pool=entry.pool,
            host=entry.host,
            data={
                "generation": entry.generation,
                "digest": entry.digest,
                "until": entry.until,
                "failures": entry.failures,
                "problem": entry.problem,
            },
        )

    def pardoned(self, pool: PoolName, generation: int, host: HostName, reason: str) -> None:
        """Record a generation that is tried on a host again."""
        self._events.add(
            "generation.pardoned",
            f"generation {generation} of {pool} may be tried on {host} again: {reason}",
            pool=pool,
            host=host,
            data={"generation": generation},
        )

    # -- rolls ------------------------------------------------------------------------------------

    def rolled(self, book: TurnRoll) -> None:
        """Record that a roll found its target, paused or ended; its replicas tell the rest."""
        kinds = {"aimed": "roll.begun", "paused": "roll.paused", "finished": "roll.finished"}
        if book.turn not in kinds:
            return
        roll, text = book.roll, book.text
        if book.turn == "paused":
            text = f"the roll of {roll.pool} is paused: {text}"
        self._events.add(
            kinds[book.turn],
            text,
            pool=roll.pool,
            change=roll.change,
            data={"generation": roll.generation, "reason": roll.reason},
        )

    def released(self, pool: PoolName, number: int) -> None:
        """Record that the configuration decides again which generation is current."""
        self._events.add(
            "pool.released",
            f"{pool} is not held at generation {number} any more: its configuration changed",
            pool=pool,
            data={"generation": number},
        )

    # -- looking ----------------------------------------------------------------------------------

    def hosts(self, statuses: Iterable[HostStatus]) -> None:
        """Record the hosts that came or went since the last look.

        A store that cannot be written does not keep hosts from being watched.
        """
        try:
            self._compare(statuses)
        except Problem as problem:
            LOG.warning("%s", problem, extra={"action": "event_lost"})

    def _compare(self, statuses: Iterable[HostStatus]) -> None:
        for host in statuses:
            before = self._hosts_up.get(host.name)
            if host.state == "up" and before != host.boot_id:
                again = " after a reboot" if before else ""
                self._events.add("host.up", f"the host {host.name} is up{again}", host=host.name)
                self._hosts_up[host.name] = host.boot_id
            elif host.state != "up" and before is not None:
                why = f": {host.reason}" if host.reason else ""
                self._events.add(
                    "host.lost", f"the host {host.name} is not reached{why}", host=host.name
                )
                del self._hosts_up[host.name]

    def seen(self, snapshot: Snapshot) -> None:
        """Record what ran and is found not to, though it is wished, and images that changed."""
        self._compare_images(snapshot)
        assigned = snapshot.assigned()
        running = self._running.get(snapshot.name)
        if running is None:  # a new life: what came up in the last one counts
            running = {name for name, one in assigned.items() if one.started is not None}
            self._running[snapshot.name] = running
        for name, why in list(_lost(snapshot, running)):
            running.discard(name)
            host = assigned[name].host
            self._events.add(
                "replica.lost",
                f"{name} is lost on {host}: {why}",
                pool=snapshot.name,
                replica=name,
                host=host,
                data={"state": why},
            )
        running |= {name for name, one in assigned.items() if _runs(snapshot, one)}
        running &= assigned.keys()

    def _compare_images(self, snapshot: Snapshot) -> None:
        another = images.renamed(snapshot)
        before = self._images.get(snapshot.name, "")
        if another is not None and another.image_id != before:
            self._images[snapshot.name] = another.image_id
            self._events.add(
                "image.changed",
                another.sentence,
                pool=snapshot.name,
                host=another.builder,
                data={"image_id": another.image_id, "generation": another.generation.number},
            )

    def _know(self, pool: PoolName) -> set[ReplicaName]:
        return self._running.get(pool, set())


def _lost(
    snapshot: Snapshot, running: Collection[ReplicaName]
) -> Iterator[tuple[ReplicaName, str]]:
    wished = snapshot.wished()
    moving = {move.name for move in snapshot.moves}
    for name, assignment in snapshot.assigned().items():
        view = snapshot.hosts.get(assignment.host)
        if (
            name not in running
            or name not in wished
            or name in moving
            or replica_subject(name) in snapshot.busy
            or view is None
            or not view.up
            or name in view.unsure
        ):
            continue
        fact = view.ours(name)
        if fact is None:
            yield name, "its container is gone"
        elif fact.role != "captured" and not (fact.running and fact.ready):
            yield name, "it is not ready any more" if fact.running else f"it is {fact.status}"


def _runs(snapshot: Snapshot, assignment: Assignment) -> bool:
    view = snapshot.hosts.get(assignment.host)
    fact = view.ours(assignment.name) if view is not None and view.up else None
    return fact is not None and fact.running and fact.ready


def _problem(problem: Problem) -> Mapping[str, Any]:
    told = problem.to_json()
    detail = problem.detail[:_LONGEST_DETAIL]
    return {"problem": {**told, "detail": detail} if detail else told}
