"""Doing one step of a move.

In: a move as the store has it. Out: the next step, durably, or its end. What a step needs of hosts
is asked for under the move's own ids; nothing else sends requests for its replica meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from poold.agent.failpoints import failpoint
from poold.agent.messages import (
    Capture,
    FindImage,
    ImageFacts,
    Placement,
    Progress,
    Remove,
    Request,
    Restore,
    Resume,
    Started,
)
from poold.checkpoints.distribute import send_checkpoint, send_image
from poold.errors import Permanent, Problem, Temporary
from poold.model.fleet import Digest, Host, HostName, Phases, Pool, PoolName
from poold.reconcile.actions import replica_subject
from poold.reconcile.ask import READING, Asker, new_action, passing
from poold.reconcile.backoff import Backoff
from poold.reconcile.move import (
    Again,
    Ended,
    action_of,
    after_failure,
    after_fence,
    after_success,
)
from poold.reconcile.news import News
from poold.reconcile.recorder import Outcome, Recorder
from poold.reconcile.sending import in_time, progress_text, within_reach
from poold.reconcile.world import World
from poold.store import Assignment, Garbage, Move, Store, Wish

LOG = logging.getLogger(__name__)
R = TypeVar("R")

CONNECT_SECONDS = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trip:
    """What a move needs to know of its pool and hosts."""

    pool: Pool
    fleet: str
    hosts: Mapping[HostName, Host]
    transfer_deadline_seconds: float

    def placement(self, move: Move, host: HostName) -> Placement:
        """Return the replica's placement on one of the two hosts."""
        return Placement(
            fleet=self.fleet,
            pool=self.pool.name,
            name=move.name,
            publish_address=self.hosts[host].published_at,
            publish_ports=self.hosts[host].publish_ports,
        )


class Mover:
    """Advances moves. `clock`: seconds since the epoch."""

    def __init__(
        self,
        *,
        store: Store,
        world: World,
        asker: Asker,
        backoff: Backoff,
        recorder: Recorder,
        news: News,
        clock: Callable[[], float],
        receiving: Mapping[HostName, asyncio.Lock],
        ended: Callable[[PoolName, str], None],
    ) -> None:
        """Call `ended` with pool and subject in the moment a move ended.

        So who waited for it finds the replica shown as it is now.
        """
        self._ended = ended
        self._store = store
        self._world = world
        self._asker = asker
        self._backoff = backoff
        self._recorder = recorder
        self._news = news
        self._clock = clock
        self._receiving = receiving

    async def advance(self, move: Move, trip: Trip) -> None:
        """Do the move's step and write down what follows. Idempotent: a step is had once."""
        fenced = after_fence(move, self._store.hosts.fenced())
        if fenced is not None:
            self._follow(fenced, None)
            self._show_end(fenced)
            return
        begun = time.monotonic()
        try:
            answer, phases = await self._do(move, trip)
        except Problem as problem:
            LOG.warning("%s", problem, extra=_extra(move, "failed"))
            self._unsure(move)
            following = after_failure(move, problem, passing=passing(problem))
            self._follow(following, None)
            if isinstance(following, Again) or move.step == "thaw":
                self._backoff.failed(
                    move.pool, replica_subject(move.name), problem, definite=not passing(problem)
                )
            self._show_end(following)
            return
        phases = phases or {move.step: time.monotonic() - begun}
        if move.step in ("forget", "undo", "thaw"):
            phases = {}
        self._backoff.worked(move.pool, replica_subject(move.name))
        following = after_success(move, answer, phases, self._clock())
        self._follow(following, answer)
        self._see(move, answer)
        self._show_end(following)

    def _show_end(self, following: Move | Again | Ended) -> None:
        if isinstance(following, Ended):
            self._ended(following.move.pool, replica_subject(following.move.name))

    async def _do(self, move: Move, trip: Trip) -> tuple[Any, Phases]:
        self._tell(move, f"moving {move.name} from {move.source} to {move.target}: {move.step}")
        application = trip.pool.application
        match move.step:
            case "image":
                return None, await self._send_image(move, trip)
            case "capture":
                request = Capture(
                    fleet=trip.fleet,
                    pool=move.pool,
                    name=move.name,
                    application=application,
                )
                return await self._ask(move, move.source, request), {}
            case "send":
                return None, await self._send_capture(move, trip)
            case "restore":
                restore = Restore(
                    placement=trip.placement(move, move.target),
                    application=application,
                    digest=_digest(move),
                    method="move",
                )
                return await self._ask(move, move.target, restore), {}
            case "forget":
                return await self._remove(move, trip, move.source, move.container_id), {}
            case "undo":
                return await self._remove(move, trip, move.target, ""), {}
            case "thaw":
                resume = Resume(
                    placement=trip.placement(move, move.source), application=application
                )
                return await self._ask(move, move.source, resume), {}

    async def _ask(self, move: Move, host: HostName, request: Request[R]) -> R:
        return await self._asker.ask(
            host,
            request,
            action=action_of(move, request.verb),
            boot_id="",  # a repeated step finds out itself what a reboot left
            progress=lambda news: self._tell_progress(move, news),
        )

    async def _remove(self, move: Move, trip: Trip, host: HostName, container_id: str) -> Any:
        request = Remove(
            fleet=trip.fleet,
            name=move.name,
            container_id=container_id,
            stop_timeout_seconds=trip.pool.application.stop_timeout_seconds,
        )
        if move.step != "forget":
            return await self._ask(move, host, request)
        # The replica runs on the target: an unreachable source is the plan's to clean up later.
        return await self._asker.link(host).call(
            request,
            action=action_of(move, request.verb),
            deadline_seconds=self._asker.deadline(request),
        )

    # -- sending ----------------------------------------------------------------------------------

    async def _send_image(self, move: Move, trip: Trip) -> Phases:
        source, target = self._asker.link(move.source), self._asker.link(move.target)
        for link in (source, target):
            if link.status.state == "connecting":  # the daemon has just been started
                await link.wait_up(CONNECT_SECONDS)
            if link.status.state != "up":
                raise Temporary(
                    "host.unreachable",
                    f"cannot move {move.name}: {link.name} cannot be reached",
                    hint="poold hosts shows why",
                )
        image = trip.pool.application.image
        image_id = self._made_of(move)
        if not image_id:  # it started cold, of an image that nobody wrote down
            here: ImageFacts = await self._asker.read(source.name, FindImage(image=image))
            image_id = here.image_id
        what = f"sending the image of {move.name} to {target.name}"
        async with self._receiving[target.name], in_time(trip.transfer_deadline_seconds, what):
            sent = await send_image(
                self._call(move),
                source,
                target,
                image=image,
                image_id=image_id,
                action=action_of(move, "copy"),
                progress=lambda news: self._tell_progress(move, news),
            )
        self._recorder.transferred("image", target.name, sent.image_bytes)
        return sent.phases

    def _made_of(self, move: Move) -> str:
        """Return the id of the image that a replica is of: its generation's; "": not known."""
        found = self._store.assignment(move.name)
        number = found.generation if found else None
        known = (g for g in self._store.generations(move.pool) if g.number == number)
        return next((g.manifest.image_id for g in known), "")

    async def _send_capture(self, move: Move, trip: Trip) -> Phases:
        """Send a frozen replica's memory: it does not wait for what others send there."""
        source, target = self._asker.link(move.source), self._asker.link(move.target)
        if move.sealed is None:
            raise Permanent("move.no-capture", f"cannot move {move.name}: its capture is lost")
        sending = send_checkpoint(
            self._call(move),
            source,
            target,
            digest=move.sealed.digest,
            manifest=move.sealed.manifest,
            action=action_of(move, "copy"),
            engine=trip.pool.application.engine,
            progress=lambda news: self._tell_progress(move, news),
        )
        what = f"sending the memory of {move.name} to {target.name}"
        async with in_time(trip.transfer_deadline_seconds, what):
            sent = await within_reach(target, sending)
        self._recorder.transferred("capture", target.name, sent.archive_bytes)
        return sent.phases

    def _call(self, move: Move) -> Any:
        """Return a way to ask that gives up with the link: nothing asked here starts anything."""

        async def call(host: HostName, request: Request[R]) -> R:
            reads = request.verb in READING
            return await self._asker.link(host).call(
                request,
                action=new_action(request.verb) if reads else action_of(move, request.verb),
                deadline_seconds=self._asker.deadline(request),
                progress=None if reads else lambda news: self._tell_progress(move, news),
            )

        return call

    # -- what follows -----------------------------------------------------------------------------

    def _follow(self, following: Move | Again | Ended, answer: Any) -> None:
        step = following.step if isinstance(following, Move) else type(following).__name__
        failpoint("move.before_step", step)
        self._write_down(following, answer)
        failpoint("move.step", step)

    def _write_down(self, following: Move | Again | Ended, answer: Any) -> None:
        match following:
            case Ended():
                self._end(following)
            case Again(move):
                self._store.put_move(move)
            case Move(step="forget"):
                self._flip(following, answer)
            case _:
                self._store.put_move(following)

    def _flip(self, move: Move, started: Started) -> None:
        """From here on the replica is the target's: one transaction, before anything else."""
        with self._store.transaction():
            before = self._store.assignment(move.name)
            assignment = before or Assignment(
                name=move.name, pool=move.pool, host=move.target, since=self._clock()
            )
            self._store.put_assignment(
                replace(
                    assignment,
                    host=move.target,
                    since=self._clock(),
                    failed_rungs=(),
                    reason="",
                    started=started,
                )
            )
            wish = next((w for w in self._store.wishes(move.pool) if w.name == move.name), None)
            if wish is not None and wish.host is not None:
                self._store.put_wish(Wish(name=move.name, pool=move.pool, host=move.target))
            self._store.put_move(move)
            self._news.moved(move)
            failpoint("move.before_flip")
        LOG.info("%s runs on %s", move.name, move.target, extra=_extra(move, "moved"))

    def _end(self, ended: Ended) -> None:
        move = ended.move
        text = f"{move.name} runs on {move.target}"
        if ended.problem is not None:
            text = str(ended.problem.get("message"))
        with self._store.transaction():
            if move.sealed is not None:
                for host in (move.source, move.target):
                    self._store.put_garbage(
                        Garbage(digest=move.sealed.digest, host=host, pool=move.pool)
                    )
            self._store.drop_move(move.name)
            self._store.end_change(
                move.change,
                "failed" if ended.problem else "settled",
                progress=text,
                problem=ended.problem,
                phases=ended.phases,
            )
            failpoint("move.before_end")
        outcome: Outcome = "failure" if ended.problem else "success"
        self._recorder.change_ended(move.pool, "move", outcome)
        if "downtime" in ended.phases:
            self._recorder.replica_moved(
                move.pool, outcome=outcome, downtime_seconds=ended.phases["downtime"]
            )

    def _see(self, move: Move, answer: Any) -> None:
        """Fold what a step that was done means for the hosts."""
        match move.step:
            case "capture":
                self._world.frozen(move.source, move.name)
            case "send":
                self._world.staged(move.target, move.pool, _digest(move), 0)
            case "restore":
                self._world.started(move.target, move.pool, answer, _digest(move))
            case "thaw":
                self._world.started(move.source, move.pool, answer, "")
            case "forget":
                self._world.gone(move.source, move.name, move.container_id)
            case "undo":
                self._world.gone(move.target, move.name)

    def _unsure(self, move: Move) -> None:
        at_target = move.step in ("restore", "undo")
        if move.step not in ("image", "send"):
            self._world.unsure(move.target if at_target else move.source, move.name)

    def _tell(self, move: Move, text: str) -> None:
        self._store.tell(move.change, text)

    def _tell_progress(self, move: Move, news: Progress) -> None:
        self._tell(move, f"moving {move.name} to {move.target}: {progress_text(news)}")


def _digest(move: Move) -> Digest:
    return move.sealed.digest if move.sealed else Digest("")


def _extra(move: Move, action: str) -> dict[str, object]:
    return {"action": action, "pool": move.pool, "replica": move.name, "step": move.step}
