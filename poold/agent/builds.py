"""Building a generation: the host's part of its nine steps, complete or undone.

Flows in: Build. Flows out: a sealed, proven, staged generation; or a Problem, and then neither a
container nor a file is left. Everything happens in the action's scratch folder; the finished folder
moves to its place in one step after a replica was restored from it, so what lies among the
generations was proven. It does not number, send or retire generations.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from poold.agent import freezing, generations, hooks
from poold.agent.bringup import BringUp, Up, undone
from poold.agent.engines.base import Engine
from poold.agent.failpoints import failpoint
from poold.agent.folders import Folders
from poold.agent.generations import ARCHIVE, Generations
from poold.agent.messages import Build, Placement, Progress, Sealed
from poold.agent.replicas import Replicas
from poold.errors import Permanent, Problem
from poold.model.application import Application
from poold.model.fleet import Phases

BUILD_PREFIX, PROOF_PREFIX = "poold-build-", "poold-proof-"
_SHORT = 12
T = TypeVar("T")
Report = Callable[[Progress], None]


class Builds:
    """Builds generations on this host."""

    def __init__(
        self,
        folders: Folders,
        engine: Engine,
        store: Generations,
        bring_up: BringUp,
        replicas: Replicas,
    ) -> None:
        self._folders = folders
        self._engine = engine
        self._generations = store
        self._bring_up = bring_up
        self._replicas = replicas

    async def build(self, request: Build, action: str, report: Report) -> Sealed:
        """Do the steps one after the other; cancelled or failing, all of them are undone."""
        began = time.monotonic()
        application = request.application
        places = (self._folders.root, await self._engine.storage())
        self._folders.require([(each, 0) for each in places], f"build {request.placement.pool}")
        build = replace(request.placement, name=BUILD_PREFIX + action[:_SHORT])
        phases: Phases = {}
        with self._folders.scratch(action) as scratch:
            prepared = scratch / "generation"
            prepared.mkdir(mode=0o700)
            try:
                up = await self._start(build, request, action, scratch, began, report)
                phases["start"] = round(up.seconds, 4)
                image_id = await self._freeze(build, application, up, prepared, phases, report)
            finally:
                await undone(self._bring_up.remove_own(build.fleet, build.name))
            failpoint("build.frozen")
            packed = await timed(phases, "pack", generations.pack(prepared / ARCHIVE, report))
            manifest = await freezing.describe(
                self._engine,
                pool=build.pool,
                build=action,
                application=application,
                image_id=image_id,
                packed=packed,
                cold_seconds=round(up.seconds, 4),
                phases=phases,
            )
            digest = generations.seal(prepared, manifest)
            failpoint("build.sealed")
            report(Progress("proving"))
            await self.prove(request.placement, application, prepared / ARCHIVE, action)
            failpoint("build.proven")
            await self._generations.admit(prepared, digest)
        return Sealed(digest, manifest)

    async def _start(
        self,
        build: Placement,
        request: Build,
        action: str,
        scratch: Path,
        began: float,
        report: Report,
    ) -> Up:
        application = request.application
        report(Progress("starting cold"))
        await self._bring_up.clear_name(build)
        create = self._replicas.cold(build, application, action, scratch, request.image_id)
        up = await self._bring_up.ready(build, application, create, phase="create", began=began)
        report(Progress(f"ready after {up.seconds:.1f} s"))
        return up

    async def _freeze(
        self,
        build: Placement,
        application: Application,
        up: Up,
        prepared: Path,
        phases: Phases,
        report: Report,
    ) -> str:
        """Warm, prepare, quiesce and checkpoint the started container; returns its image's id."""
        await timed(phases, "warm", hooks.warm(application.warmup, up.reach, report))
        if application.before_checkpoint is not None:
            report(Progress("calling the before_checkpoint hook"))
            call = hooks.call(
                application.before_checkpoint, "before_checkpoint", up.reach, build.pool
            )
            await timed(phases, "hook", call)
        settings = application.checkpoint
        seconds = settings.quiesce_deadline_seconds
        quiet = freezing.quiesce(self._engine, build.pool, up.container_id, seconds, report)
        await timed(phases, "quiesce", quiet)
        container = await self._engine.find(up.container_id)
        if container is None or not container.running:
            raise Permanent(
                "replica.exited",
                f"cannot freeze {build.pool}: it ended before it could be frozen",
                hint="look at what the warm-up requests or the before_checkpoint hook do to it",
            )
        await freezing.require_room(self._engine, build.pool, up.container_id, self._folders)
        report(Progress("checkpointing"))
        frozen = freezing.checkpoint(
            self._engine,
            build.name,
            application,
            prepared / ARCHIVE,
        )
        await timed(phases, "checkpoint", frozen)
        return container.image_id

    async def prove(
        self, placement: Placement, application: Application, archive: Path, action: str
    ) -> None:
        """Restore one replica from the archive, probe it, throw it away."""
        proof = replace(placement, name=PROOF_PREFIX + action[:_SHORT])
        try:
            await self._replicas.thawed(proof, application, archive, time.monotonic())
        except Problem as error:
            error.message = f"cannot prove the new generation of {proof.pool}: {error.message}"
            error.args = (error.message,)
            raise
        finally:
            await undone(self._bring_up.remove_own(proof.fleet, proof.name))


async def timed(phases: Phases, phase: str, work: Awaitable[T]) -> T:
    """Await the work and note its seconds."""
    began = time.monotonic()
    result = await work
    phases[phase] = round(time.monotonic() - began, 4)
    return result
