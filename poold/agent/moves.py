"""The source's side of a move: freeze a running replica for travelling, or let it run on here.

Flows in: Capture, Resume. Flows out: a sealed capture with the frozen container beside it; or the
replica running as before. Whatever fails here, the replica ends up running or frozen in place and
recorded so: it is never lost. Where it goes is not known here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from poold.agent import freezing, generations
from poold.agent.bringup import BUILD, BringUp, foreign, is_ours, undone
from poold.agent.builds import timed
from poold.agent.engines.base import Container, Engine, Published
from poold.agent.failpoints import failpoint
from poold.agent.folders import Folders
from poold.agent.generations import ARCHIVE, MOVE_LEVEL, Generations
from poold.agent.messages import Capture, Progress, Resume, Sealed, Started
from poold.agent.ports import bind_address
from poold.agent.records import Record, Records
from poold.agent.replicas import RESTORE_SECONDS, NameLock, write_criu_config
from poold.errors import Refused
from poold.model.fleet import Digest, Phases

Report = Callable[[Progress], None]


class Moves:
    """Captures and resumes replicas of this host."""

    def __init__(
        self,
        folders: Folders,
        engine: Engine,
        records: Records,
        store: Generations,
        bring_up: BringUp,
        name_lock: NameLock,
    ) -> None:
        self._folders = folders
        self._engine = engine
        self._records = records
        self._generations = store
        self._bring_up = bring_up
        self._lock = name_lock

    async def capture(self, request: Capture, action: str, report: Report) -> Sealed:
        """Freeze; failing or cancelled, the replica is thawed again where it is."""
        name = request.name
        async with self._lock(name):
            container = await self._own(name, request.fleet)
            record = self._records.read(name)
            if record is None or record.container_id != container.container_id:
                raise Refused(
                    "replica.not-ready",
                    f"cannot capture {name}: it is not known to be ready on this host",
                    hint="wait until it is ready, or remove it and let it be restored",
                )
            if record.frozen and record.capture and not container.running:
                manifest, _ = await self._generations.staged(Digest(record.capture))
                return Sealed(Digest(record.capture), manifest)
            if not container.running:
                raise Refused(
                    "replica.not-running", f"cannot capture {name}: it is {container.status}"
                )
            write_criu_config(self._folders, request.pool, request.application)
            with self._folders.scratch(action) as scratch:
                return await self._freeze(request, action, record, container, scratch, report)

    async def _freeze(
        self,
        request: Capture,
        action: str,
        record: Record,
        container: Container,
        scratch: Path,
        report: Report,
    ) -> Sealed:
        application = request.application
        phases: Phases = {}
        prepared = scratch / "generation"
        prepared.mkdir(mode=0o700)
        await freezing.require_room(self._engine, record.name, record.container_id, self._folders)
        seconds = application.checkpoint.quiesce_deadline_seconds
        quiet = freezing.quiesce(self._engine, record.name, record.container_id, seconds, report)
        await timed(phases, "quiesce", quiet)
        report(Progress("checkpointing"))
        # Recorded before the fact: should the agent die in between, what is stopped is frozen.
        self._records.write(replace(record, frozen=True, capture=""))
        failpoint("capture.marked")
        try:
            frozen = freezing.checkpoint(
                self._engine, record.name, application, prepared / ARCHIVE
            )  # fmt: skip
            await timed(phases, "checkpoint", frozen)
            failpoint("capture.frozen")
            report(Progress("sealing"))
            packed = await timed(
                phases, "seal", generations.pack(prepared / ARCHIVE, report, level=MOVE_LEVEL)
            )
            manifest = await freezing.describe(
                self._engine,
                pool=request.pool,
                build=container.labels.get(BUILD, action),
                application=application,
                image_id=container.image_id,
                packed=packed,
                cold_seconds=0.0,
                phases=phases,
            )
            digest = generations.seal(prepared, manifest)
            await self._generations.admit(prepared, digest)
        except BaseException:
            await undone(self._run_on(record))
            raise
        failpoint("capture.admitted")
        self._records.write(replace(record, frozen=True, capture=digest))
        return Sealed(digest, manifest)

    async def resume(self, request: Resume) -> Started:
        """Thaw in place; Refused("replica.not-captured") when there is nothing to thaw."""
        began = time.monotonic()
        placement, application = request.placement, request.application
        async with self._lock(placement.name):
            container = await self._own(placement.name, placement.fleet)
            record = self._records.read(placement.name)
            if record is None or record.container_id != container.container_id:
                raise Refused(
                    "replica.not-captured",
                    f"cannot resume {placement.name}: it was not captured on this host",
                    hint=f"remove it (poold rm {placement.name}); it is restored from its pool's"
                    " generation",
                )
            if container.running and not record.frozen:
                return record.started
            if not container.running:
                if not record.frozen:
                    raise Refused(
                        "replica.not-captured",
                        f"cannot resume {placement.name}: it ended by itself ({container.status})",
                        hint=f"remove it: poold rm {placement.name}",
                    )
                write_criu_config(self._folders, placement.pool, application)
                await self._engine.thaw(record.container_id, deadline_seconds=RESTORE_SECONDS)
            failpoint("resume.thawed")
            thawed = time.monotonic()
            address = bind_address(placement.publish_address)
            published = tuple(
                Published(int(inside), outside, address)
                for inside, outside in record.published.items()
            )
            reach = self._bring_up.reach(record.name, application, published)
            ready = await self._bring_up.until_ready(record.container_id, application, reach)
            self._records.write(replace(record, frozen=False, capture=""))
            phases = {"restore": round(thawed - began, 4), "ready": round(ready - thawed, 4)}
            return replace(record.started, seconds=round(ready - began, 4), phases=phases)

    async def _own(self, name: str, fleet: str) -> Container:
        container = await self._engine.find(name)
        if container is None:
            raise Refused(
                "replica.unknown",
                f"cannot find the replica {name}: this host has no such container",
            )
        if not is_ours(container, fleet):
            raise foreign(name, container)
        return container

    async def _run_on(self, record: Record) -> None:
        """Undo a capture: thaw the replica where podman stopped it.

        One that never stopped is as ready as before. One that was thawed is not known to answer:
        its record keeps saying "frozen", as where thawing fails, and a Resume probes it.
        """
        container = await self._engine.find(record.container_id)
        if container is None:
            return
        if container.running:
            self._records.write(record)
        else:
            await self._engine.thaw(record.container_id, deadline_seconds=RESTORE_SECONDS)
