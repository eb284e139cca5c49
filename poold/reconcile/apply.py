"""How a planned action is done: written down, sent, folded.

In: an action of the plan, or an intent that an earlier life of the daemon left open. Out: nothing
but what was folded into store and world; a Problem never leaves, the next plan sees its traces.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from poold.agent.failpoints import failpoint
from poold.agent.messages import (
    Build,
    Discard,
    FindImage,
    ImageFacts,
    Import,
    Placement,
    PrepareSpare,
    Progress,
    Remove,
    Request,
    Restore,
    Resume,
    Start,
)
from poold.checkpoints.distribute import send_checkpoint, send_image
from poold.config import Config
from poold.errors import Problem
from poold.model.fleet import ChangeId, HostName, Pool, PoolName, ReplicaName
from poold.reconcile.actions import (
    AdvanceMove,
    BringUp,
    DropGeneration,
    MakeGeneration,
    MakeSpare,
    Remote,
    SendGeneration,
    SendImage,
    TakeArchive,
    TakeDown,
    Thaw,
)
from poold.reconcile.ask import READING, Asker, blocking, new_action
from poold.reconcile.backoff import Backoff
from poold.reconcile.fold import Fold
from poold.reconcile.mover import Mover, Trip
from poold.reconcile.news import News
from poold.reconcile.recorder import Recorder, Step
from poold.reconcile.sending import in_time, progress_text
from poold.reconcile.shown import describe
from poold.reconcile.world import World
from poold.store import Assignment, Intent, Store

LOG = logging.getLogger(__name__)
R = TypeVar("R")

PER_HOST = 8  # actions under way on one host
SUBJECTS = {
    "build": "building a generation",
    "generation": "sending a generation",
    "image": "sending the image",
    "spare": "preparing a spare",
}
DAMAGED = frozenset({"generation.damaged", "blob.damaged", "generation.not-received"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Apply:
    """The hands of the loop."""

    store: Store
    world: World
    asker: Asker
    fold: Fold
    mover: Mover
    backoff: Backoff
    recorder: Recorder
    news: News
    config: Callable[[], Config]
    clock: Callable[[], float]
    slots: defaultdict[HostName, asyncio.Semaphore]
    receiving: defaultdict[HostName, asyncio.Lock]

    def reserve(self, pool: Pool, action: Remote) -> Intent | None:
        """Write down what must be known before anything is sent: who may run a name.

        What is asked for at once is written down with it, and returned: it is on the disk sooner.
        """
        if not isinstance(action, BringUp):
            return None
        before = self.store.assignment(action.name)
        falls_back = bool(action.failed_rungs or action.reason)
        intent = self._to_restore(pool, action)
        with self.store.transaction():
            self.store.put_assignment(
                Assignment(
                    name=action.name,
                    pool=pool.name,
                    host=action.host,
                    since=before.since if before else self.clock(),
                    rung=action.rung,
                    failed_rungs=action.failed_rungs,
                    reason=action.reason,
                )
            )
            if intent is not None:
                self.store.put_intent(intent)
            if falls_back:
                self.news.fell_back(pool.name, action)
        failpoint("assignment.written")
        if intent is not None:
            failpoint("intent.written", intent.request.verb)
        if falls_back:
            step: Step = "cold" if action.digest is None else "previous-generation"
            self.recorder.fell_back(pool.name, step)
        return intent

    async def run(self, pool: Pool, action: Remote, reserved: Intent | None) -> None:
        """Do one action to its end. Cancelled, its open intent is finished by the next cycle."""
        match action:
            case TakeDown():
                await self.take_down(
                    pool.name, action, stop_timeout_seconds=pool.application.stop_timeout_seconds
                )
            case BringUp():
                await self._bring_up(pool, action, reserved)
            case Thaw():
                request: Request[Any] = Resume(
                    placement=self._placement(pool, action.host, action.name),
                    application=pool.application,
                )
                await self.finish(self._intend(pool.name, action.host, action.subject, request))
            case MakeSpare():
                request = PrepareSpare(
                    placement=self._placement(pool, action.host, pool.name),
                    application=pool.application,
                    digest=action.digest,
                )
                await self.finish(self._intend(pool.name, action.host, action.subject, request))
            case MakeGeneration():
                await self._provide_image(pool, action.builder, action.subject, action.image_id)
                request = Build(
                    placement=self._placement(pool, action.builder, pool.name),
                    application=pool.application,
                    image_id=action.image_id,
                )
                await self.finish(self._intend(pool.name, action.builder, action.subject, request))
            case TakeArchive():
                await self._provide_image(pool, action.host, action.subject, "")
                request = Import(
                    placement=self._placement(pool, action.host, pool.name),
                    application=pool.application,
                    file=action.file,
                )
                await self.finish(self._intend(pool.name, action.host, action.subject, request))
            case SendImage():
                await self._send_image_ahead(pool, action)
            case SendGeneration():
                await self._send(pool, action)
            case DropGeneration():
                request = Discard(digest=action.digest)
                await self.finish(self._intend(pool.name, action.host, action.subject, request))
            case AdvanceMove():
                await self._advance(pool, action)

    async def take_down(
        self, pool: PoolName, action: TakeDown, *, stop_timeout_seconds: int
    ) -> None:
        """Remove a container, also of a pool that left the configuration."""
        request = Remove(
            fleet=self.config().daemon.fleet,
            name=action.name,
            container_id=action.container_id,
            stop_timeout_seconds=stop_timeout_seconds,
        )
        await self.finish(self._intend(pool, action.host, action.subject, request))

    async def finish(self, intent: Intent) -> None:
        """Ask for a recorded action's outcome and fold it; the failure is folded, not raised.

        Raises only what kept it from being folded, a full disk for example: it stays open.
        """
        try:
            await self._outcome(intent)
        except Problem:
            if any(open_.action == intent.action for open_ in self.store.intents(intent.pool)):
                raise

    # -- one recorded action ----------------------------------------------------------------------

    def _placement(self, pool: Pool, host: HostName, name: str) -> Placement:
        config = self.config()
        where = config.hosts[host]
        return Placement(
            fleet=config.daemon.fleet,
            pool=pool.name,
            name=name,
            publish_address=where.published_at,
            publish_ports=where.publish_ports,
        )

    def _intend(
        self, pool: PoolName, host: HostName, subject: str, request: Request[Any]
    ) -> Intent:
        intent = self._intent(pool, host, subject, request)
        self.store.put_intent(intent)
        failpoint("intent.written", request.verb)
        return intent

    def _intent(
        self, pool: PoolName, host: HostName, subject: str, request: Request[Any]
    ) -> Intent:
        failpoint("intent.before", request.verb)
        return Intent(
            action=new_action(request.verb),
            pool=pool,
            host=host,
            subject=subject,
            request=request,
            boot_id=self.asker.boot_id(host),
            created_at=self.clock(),
        )

    def _to_restore(self, pool: Pool, action: BringUp) -> Intent | None:
        if action.digest is None:
            return None
        request = Restore(
            placement=self._placement(pool, action.host, action.name),
            application=pool.application,
            digest=action.digest,
            spare=action.spare,
        )
        return self._intent(pool.name, action.host, action.subject, request)

    async def _outcome(self, intent: Intent) -> Any:
        """Return the answer, folded; raises the Problem, folded too."""
        try:
            async with self.slots[intent.host]:
                answer = await self.asker.ask(
                    intent.host,
                    intent.request,
                    action=intent.action,
                    boot_id=intent.boot_id,
                    progress=lambda news: self._tell(intent.pool, intent.subject, news),
                )
        except Problem as problem:
            self.fold.failed(intent, problem)
            raise
        failpoint("outcome.received", intent.request.verb)
        self.fold.answered(intent, answer)
        failpoint("outcome.folded", intent.request.verb)
        return answer

    def _recorded(self, pool: Pool, subject: str) -> Any:
        """Return a way to ask: questions as they are, actions through an intent."""

        async def ask(host: HostName, request: Request[R]) -> R:
            if request.verb in READING:
                return await self.asker.read(host, request)
            answer: R = await self._outcome(self._intend(pool.name, host, subject, request))
            return answer

        return ask

    def _tell(self, pool: PoolName, subject: str, news: Progress) -> None:
        kind, _, name = subject.partition(":")
        what = SUBJECTS.get(kind, name) if not name.startswith("import-") else "importing"
        for change in self._waiting(pool):
            self.store.tell(change, f"{what}: {progress_text(news)}")

    def _waiting(self, pool: PoolName) -> list[ChangeId]:
        moving = {move.change for move in self.store.moves(pool)}
        return [c.id for c in self.store.pending_changes(pool) if c.id not in moving]

    # -- longer ones ------------------------------------------------------------------------------

    async def _bring_up(self, pool: Pool, action: BringUp, reserved: Intent | None) -> None:
        LOG.debug("%s", describe(action), extra={"action": "bring_up", "pool": pool.name})
        if reserved is None:
            image_id = action.image_id
            await self._provide_image(pool, action.host, action.subject, image_id, action.name)
            placement = self._placement(pool, action.host, action.name)
            request = Start(placement=placement, application=pool.application, image_id=image_id)
            reserved = self._intend(pool.name, action.host, action.subject, request)
        await self.finish(reserved)

    async def _provide_image(
        self, pool: Pool, host: HostName, subject: str, image_id: str, replica: str = ""
    ) -> None:
        """Give the host the builder's image; where that fails the host's engine may pull it.

        With an id it gets that image or none, and what is asked of it then says which is missing.
        """
        if host == pool.builder:
            return
        try:
            await self._send_image(pool, subject, pool.builder, host, image_id)
        except Problem as problem:
            extra = {"action": "send_failed", "pool": pool.name, "replica": replica}
            LOG.warning("%s", problem, extra=extra)

    async def _send_image(
        self, pool: Pool, subject: str, source: HostName, target: HostName, image_id: str
    ) -> None:
        image = pool.application.image
        found: ImageFacts = await self.asker.read(target, FindImage(image=image, image_id=image_id))
        if found.image_id:
            return
        async with self.receiving[target], self._in_time(f"sending the image to {target}"):
            sent = await send_image(
                self._recorded(pool, subject),
                self.asker.link(source),
                self.asker.link(target),
                image=image,
                image_id=image_id,
                action=new_action("copy"),
                progress=lambda news: self._tell(pool.name, subject, news),
            )
        self.recorder.transferred("image", target, sent.image_bytes)

    async def _send_image_ahead(self, pool: Pool, action: SendImage) -> None:
        try:
            await self._send_image(pool, action.subject, action.source, action.target, "")
        except Problem as problem:
            self.backoff.failed(pool.name, action.subject, problem, definite=False)
            LOG.info("%s", problem, extra={"action": "send_failed", "pool": pool.name})
        else:
            self.backoff.worked(pool.name, action.subject)
            self.world.imaged(action.target, action.image)

    def _in_time(self, what: str) -> AbstractAsyncContextManager[None]:
        return in_time(self.config().daemon.transfer_deadline_seconds, what)

    async def _send(self, pool: Pool, action: SendGeneration) -> None:
        generation = next(
            (g for g in self.store.generations(pool.name) if g.digest == action.digest), None
        )
        if generation is None:
            return
        manifest = generation.manifest
        try:
            if action.target != pool.builder:
                source = action.source if action.source != action.target else pool.builder
                await self._send_image(
                    pool, action.subject, source, action.target, manifest.image_id
                )
            async with self.receiving[action.target], self._in_time(describe(action)):
                sent = await send_checkpoint(
                    self._recorded(pool, action.subject),
                    self.asker.link(action.source),
                    self.asker.link(action.target),
                    digest=action.digest,
                    manifest=manifest,
                    action=new_action("copy"),
                    engine=pool.application.engine,
                    progress=lambda news: self._tell(pool.name, action.subject, news),
                )
        except Problem as problem:
            definite = blocking(problem) and problem.code not in DAMAGED
            self.backoff.failed(pool.name, action.subject, problem, definite=definite)
            LOG.warning("%s", problem, extra={"action": "send_failed", "pool": pool.name})
        else:
            self.backoff.worked(pool.name, action.subject)
            self.recorder.transferred("generation", action.target, sent.archive_bytes)

    def _as_made(self, pool: Pool, name: ReplicaName) -> Pool:
        """Return the pool with the application that a replica is of, which may be an older one."""
        assignment = self.store.assignment(name)
        number = assignment.generation if assignment else None
        known = next((g for g in self.store.generations(pool.name) if g.number == number), None)
        if known is None or known.manifest.fingerprint == pool.application.fingerprint():
            return pool
        made_of = self.store.rolls.application(pool.name, known.digest)
        return replace(pool, application=made_of) if made_of else pool

    async def _advance(self, pool: Pool, action: AdvanceMove) -> None:
        config = self.config()
        for move in self.store.moves(pool.name):
            if move.name == action.name:
                trip = Trip(
                    pool=self._as_made(pool, action.name),
                    fleet=config.daemon.fleet,
                    hosts=config.hosts,
                    transfer_deadline_seconds=config.daemon.transfer_deadline_seconds,
                )
                await self.mover.advance(move, trip)
