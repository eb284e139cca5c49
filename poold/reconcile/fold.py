"""What an outcome means: one transaction in the store, then the world, then the measurements.

In: an intent and its answer or Problem. Out: nothing is left open of it. The store comes first: if
it fails, the intent stays, is asked again, and answers the same.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from poold.agent.failpoints import failpoint
from poold.agent.messages import (
    Build,
    Discard,
    Import,
    PrepareSpare,
    Remove,
    Restore,
    Resume,
    Sealed,
    Stage,
    Start,
    Started,
)
from poold.agent.spares import spare_name
from poold.errors import Problem, Refused
from poold.model.fleet import ChangeState, Digest, Phases, PoolName
from poold.reconcile import importing
from poold.reconcile.actions import (
    COLD,
    avoid_key,
    build_subject,
    removal_key,
    restore_rung,
)
from poold.reconcile.ask import blocking, passing
from poold.reconcile.backoff import Backoff
from poold.reconcile.news import News
from poold.reconcile.quarantine import blames_generation, quarantined, what_it_is
from poold.reconcile.recorder import Outcome, Recorder
from poold.reconcile.world import World
from poold.store import Assignment, Intent, Store

LOG = logging.getLogger(__name__)

PASSING_ATTEMPTS = 5  # then even a passing trouble of the host steps down the ladder
AVOID_SECONDS = 300.0
BUILD_BASE_SECONDS, BUILD_CAP_SECONDS = 10.0, 600.0


class Fold:
    """Folds outcomes of intents. `clock`: seconds since the epoch, the plan's `now`."""

    def __init__(
        self,
        *,
        store: Store,
        world: World,
        backoff: Backoff,
        recorder: Recorder,
        news: News,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._world = world
        self._backoff = backoff
        self._recorder = recorder
        self._news = news
        self._clock = clock

    def answered(self, intent: Intent, answer: Any) -> None:
        """Fold a success."""
        request = intent.request
        match request:
            case Start() | Restore():
                self._came_up(intent, request, answer)
            case Resume():
                self._close(intent)
                self._world.started(intent.host, intent.pool, answer, "")
                self._backoff.worked(intent.pool, intent.subject)
            case Remove():
                with self._store.transaction():
                    self._close(intent)
                    if answer.changed:
                        self._news.removed(intent, request.name)
                self._world.gone(intent.host, request.name, request.container_id)
                self._backoff.worked(intent.pool, removal_key(request.name))
                LOG.info("removed %s", request.name, extra=_extra("removed", intent))
            case PrepareSpare():
                self._close(intent)
                self._world.started(intent.host, intent.pool, answer, request.digest, role="spare")
                self._backoff.worked(intent.pool, intent.subject)
            case Build() | Import():
                self._built(intent, request, answer)
            case Discard():
                with self._store.transaction():
                    self._close(intent)
                    self._store.drop_garbage(request.digest, intent.host)
                    failpoint("fold.before_commit", request.verb)
                self._world.dropped(intent.host, request.digest)
                self._backoff.worked(intent.pool, intent.subject)
            case Stage():
                self._close(intent)
                self._world.staged(intent.host, intent.pool, request.digest, 0)
                self._backoff.worked(intent.pool, intent.subject)
            case _:
                self._close(intent)
        self._recorder.action_ended(intent.host, request.verb, "success")

    def failed(self, intent: Intent, problem: Problem) -> None:
        """Fold a failure; what it left on the host is for the next listing to tell."""
        request = intent.request
        match request:
            case Start() | Restore():
                self._did_not_come_up(intent, request, problem)
            case Resume():
                self._close(intent)
                self._world.unsure(intent.host, request.placement.name)
                self._note(intent, intent.subject, problem)
            case Remove():
                self._close(intent)
                self._world.unsure(intent.host, request.name)
                self._note(intent, removal_key(request.name), problem)
            case PrepareSpare():
                with self._store.transaction():
                    self._close(intent)
                    if blames_generation(problem):
                        self._quarantine(intent, request.digest, problem)
                self._world.unsure(intent.host, spare_name(intent.action))
                self._backoff.failed(
                    intent.pool,
                    intent.subject,
                    problem,
                    definite=not passing(problem),
                    base_seconds=1.0 if passing(problem) else BUILD_BASE_SECONDS,
                    cap_seconds=BUILD_CAP_SECONDS,
                )
            case Build() | Import():
                with self._store.transaction():
                    self._close(intent)
                    self._news.build_failed(intent, problem)
                    if isinstance(request, Import) and blocking(problem):
                        self._end_import(intent, "failed", problem.message, problem)
                self._recorder.checkpoint_built(
                    intent.pool,
                    outcome="failure",
                    seconds=max(0.0, self._clock() - intent.created_at),
                    phases={},
                )
                self._backoff.failed(
                    intent.pool,
                    intent.subject,
                    problem,
                    definite=blocking(problem),
                    base_seconds=1.0 if passing(problem) else BUILD_BASE_SECONDS,
                    cap_seconds=BUILD_CAP_SECONDS,
                )
            case Discard():
                self._close(intent)
                self._note(intent, intent.subject, problem)
            case _:  # a step of something longer, which minds the failure itself
                self._close(intent)
        self._recorder.action_ended(intent.host, request.verb, "failure")
        LOG.warning("%s", problem, extra={**_extra("failed", intent), "code": problem.code})

    def _close(self, intent: Intent) -> None:
        self._store.drop_intent(intent.action)

    def _note(self, intent: Intent, key: str, problem: Problem) -> None:
        self._backoff.failed(intent.pool, key, problem, definite=not passing(problem))

    # -- replicas ---------------------------------------------------------------------------------

    def _came_up(self, intent: Intent, request: Start | Restore, started: Started) -> None:
        digest = request.digest if isinstance(request, Restore) else Digest("")
        with self._store.transaction():
            self._close(intent)
            before = self._mine(intent, started.name)
            if before is not None:
                number = self._store.generation_number(intent.pool, digest) if digest else None
                self._store.put_assignment(
                    replace(before, started=started, failed_rungs=(), generation=number)
                )
                self._news.came_up(intent, started, number)
            if digest:
                self._pardon(intent, digest)
            failpoint("fold.before_commit", request.verb)
        self._world.started(intent.host, intent.pool, started, digest)
        if isinstance(request, Restore) and request.spare and not started.spare:
            self._world.unsure(intent.host, request.spare)
            if started.method != "spare":
                self._recorder.fell_back(intent.pool, "restore")
        self._backoff.worked(intent.pool, intent.subject)
        self._backoff.worked(intent.pool, avoid_key(started.name, intent.host))
        self._recorder.replica_started(
            intent.pool,
            method="restore" if started.method == "move" else started.method,
            outcome="success",
            seconds=started.seconds,
            phases=started.phases,
        )
        LOG.info(
            "%s is ready on %s after %.3f s (%s)",
            started.name, intent.host, started.seconds, started.method,
            extra=_extra("replica_ready", intent),
        )  # fmt: skip

    def _did_not_come_up(self, intent: Intent, request: Start | Restore, problem: Problem) -> None:
        name = request.placement.name
        rung = restore_rung(request.digest) if isinstance(request, Restore) else COLD
        before = self._mine(intent, name)
        count = self._backoff.failures(intent.pool, intent.subject)
        definite = not passing(problem) or count + 1 >= PASSING_ATTEMPTS
        lost = {rung} if definite else set()
        if isinstance(problem, Refused):  # the name or the request is at fault, not the rung
            known = self._store.generations(intent.pool)
            lost |= {COLD, *(restore_rung(generation.digest) for generation in known)}
        with self._store.transaction():
            self._close(intent)
            if before is not None:
                self._store.put_assignment(
                    replace(
                        before,
                        started=None,
                        generation=None,
                        failed_rungs=tuple(sorted({*before.failed_rungs, *lost})),
                        reason=self._why(intent.pool, before, request, problem, definite),
                    )
                )
                self._news.start_failed(intent, name, rung, problem)
            if isinstance(request, Restore) and blames_generation(problem):
                self._quarantine(intent, request.digest, problem)
            failpoint("fold.before_commit", f"{request.verb}-failed")
        self._world.unsure(intent.host, name)
        if isinstance(request, Restore) and request.spare:
            self._world.unsure(intent.host, request.spare)
        self._backoff.failed(intent.pool, intent.subject, problem, definite=definite)
        if COLD in lost:
            self._backoff.failed(
                intent.pool, avoid_key(name, intent.host), problem, definite=True,
                base_seconds=AVOID_SECONDS, cap_seconds=AVOID_SECONDS,
            )  # fmt: skip
        self._recorder.replica_started(
            intent.pool,
            method="cold" if rung == COLD else "restore",
            outcome="failure",
            seconds=max(0.0, self._clock() - intent.created_at),
            phases={},
        )

    def _quarantine(self, intent: Intent, digest: Digest, problem: Problem) -> None:
        """Keep the other names on this host from trying what cannot work."""
        known = self._store.generations(intent.pool)
        generation = next((each for each in known if each.digest == digest), None)
        if generation is None:
            return
        status, now = self._world.host(intent.host), self._clock()
        before = self._store.quarantine.of(intent.pool, digest, intent.host)
        entry = quarantined(
            generation,
            intent.host,
            problem,
            before=before,
            begun_at=intent.created_at,
            now=now,
            found_with=what_it_is(status.boot_id, status.facts) if status else {},
        )
        if entry != before:
            self._store.quarantine.put(entry)
            self._news.quarantined(entry, entry.until - now)

    def _pardon(self, intent: Intent, digest: Digest) -> None:
        entry = self._store.quarantine.of(intent.pool, digest, intent.host)
        if entry is not None:
            self._store.quarantine.drop(pool=intent.pool, digest=digest, host=intent.host)
            self._news.pardoned(intent.pool, entry.generation, intent.host, "it was restored there")

    def _why(
        self,
        pool: PoolName,
        before: Assignment,
        request: Start | Restore,
        problem: Problem,
        definite: bool,
    ) -> str:
        if not definite:
            return before.reason
        tried = "the cold start failed"
        if isinstance(request, Restore):
            number = self._store.generation_number(pool, request.digest)
            tried = f"restoring generation {number} failed"
        return "; ".join(part for part in (before.reason, f"{tried}: {problem.message}") if part)

    def _mine(self, intent: Intent, name: str) -> Assignment | None:
        """Return the assignment that this intent was sent for, unless the name went elsewhere."""
        for assignment in self._store.assignments(intent.pool):
            if assignment.name == name and assignment.host == intent.host:
                return assignment
        return None

    # -- generations ------------------------------------------------------------------------------

    def _end_import(
        self,
        intent: Intent,
        state: ChangeState,
        progress: str,
        problem: Problem | None = None,
        phases: Phases | None = None,
    ) -> None:
        """End the change that asked for an import."""
        told = problem.to_json() if problem else None
        change = importing.change_of(intent.subject)
        self._store.end_change(change, state, progress=progress, problem=told, phases=phases)
        outcome: Outcome = "success" if state == "settled" else "failure"
        self._recorder.change_ended(intent.pool, "import", outcome)

    def _built(self, intent: Intent, request: Build | Import, sealed: Sealed) -> None:
        manifest = sealed.manifest
        with self._store.transaction():
            self._close(intent)
            application = request.application
            number = self._store.add_generation(intent.pool, sealed, intent.host, application)
            self._news.proven(intent, number, sealed)
            if isinstance(request, Import):
                text = f"generation {number} is proven on {intent.host}"
                self._end_import(intent, "settled", text, phases=manifest.phases)
            failpoint("fold.before_commit", "build")
        size_bytes = manifest.archive_bytes + manifest.packed_bytes
        self._world.staged(intent.host, intent.pool, sealed.digest, size_bytes)
        # A listing may be older, and would have it built once more.
        if isinstance(request, Import) or not request.image_id:
            self._world.built_of(intent.host, application.image, manifest.image_id)
        self._backoff.worked(intent.pool, build_subject(manifest.fingerprint))
        self._backoff.worked(intent.pool, intent.subject)
        self._recorder.checkpoint_built(
            intent.pool,
            outcome="success",
            seconds=max(0.0, self._clock() - intent.created_at),
            phases=manifest.phases,
        )
        if manifest.cold_seconds > 0:
            self._recorder.replica_started(
                intent.pool,
                method="cold",
                outcome="success",
                seconds=manifest.cold_seconds,
                phases={},
            )
        LOG.info(
            "generation %d of %s is proven", number, intent.pool, extra=_extra("built", intent)
        )


def _extra(action: str, intent: Intent) -> dict[str, object]:
    return {
        "action": action,
        "pool": intent.pool,
        "host": intent.host,
        "subject": intent.subject,
        "id": intent.action,
    }
