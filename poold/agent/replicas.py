"""Replicas of this host: started cold, restored, removed, their output read.

Flows in: Start, Restore, Remove, Logs. Flows out: Started and its record. Idempotent by name: a
ready replica is answered from its record, what an interrupted action left is replaced, somebody
else's container is never touched. It does not decide which replicas there should be.
"""

from __future__ import annotations

import functools
import platform
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Callable, Optional

from poold.agent import criu
from poold.agent.bringup import (
    BUILD,
    FLEET,
    POOL,
    BringUp,
    Create,
    Up,
    foreign,
    is_ours,
    undone,
)
from poold.agent.engines.base import Chooser, Engine, Launch, Published, Restored
from poold.agent.failpoints import failpoint
from poold.agent.folders import Folders, safe_name, write_whole
from poold.agent.generations import Generations
from poold.agent.images import bare
from poold.agent.messages import (
    Done,
    LogLines,
    Logs,
    Placement,
    Progress,
    Remove,
    Restore,
    Start,
    Started,
)
from poold.agent.records import Record, Records
from poold.errors import Permanent, Refused
from poold.model.application import Application

Report = Callable[[Progress], None]
NameLock = Callable[[str], AbstractAsyncContextManager[None]]
RESTORE_SECONDS = 300.0  # podman's part of one restore


class Replicas:
    """What can be done with replicas, one action at a time per name (`name_lock`)."""

    def __init__(
        self,
        folders: Folders,
        engine: Engine,
        records: Records,
        generations: Generations,
        bring_up: BringUp,
        name_lock: NameLock,
    ) -> None:
        self._folders = folders
        self._engine = engine
        self._records = records
        self._generations = generations
        self._bring_up = bring_up
        self._lock = name_lock

    async def start(self, request: Start, action: str, report: Report) -> Started:
        """Start cold from the image; its record then says "cold"."""
        began = time.monotonic()
        placement, application = request.placement, request.application
        safe_name(placement.name)
        async with self._lock(placement.name):
            existing = await self.existing(placement, digest=None)
            if existing is not None:
                return existing
            report(Progress("starting cold"))
            with self._folders.scratch(action) as scratch:
                create = self.cold(placement, application, action, scratch, request.image_id)
                up = await self._bring_up.ready(
                    placement, application, create, phase="create", began=began
                )
            return await self.remember(placement, up, method="cold", digest="")

    async def restore(
        self, request: Restore, report: Report, began: Optional[float] = None
    ) -> Started:
        """Restore from a staged generation; the archive is only looked at, not read again.

        `began`: the monotonic time at which the action did, where something was tried before.
        """
        began = time.monotonic() if began is None else began
        placement, application = request.placement, request.application
        safe_name(placement.name)
        async with self._lock(placement.name):
            existing = await self.existing(placement, digest=request.digest)
            if existing is not None:
                return existing
            manifest, archive = await self._generations.staged(request.digest)
            if manifest.machine != platform.machine():
                raise Permanent(
                    "generation.other-machine",
                    f"cannot restore {placement.name}: the checkpoint was made on"
                    f" {manifest.machine}, this host is {platform.machine()}",
                    hint="pool only hosts of one architecture",
                )
            report(Progress("restoring"))
            is_shared = request.method == "restore"
            up = await self.thawed(placement, application, archive, began, is_shared=is_shared)
            if (restored := self._restored(up)) and restored.reason:
                report(Progress(f"restored by podman: {restored.reason}"))
            return await self.remember(placement, up, method=request.method, digest=request.digest)

    async def thawed(
        self,
        placement: Placement,
        application: Application,
        archive: Path,
        began: float,
        *,
        is_shared: bool = True,
    ) -> Up:
        """Restore an archive under the placement's name until it is ready, hook included.

        An archive that `is_shared` will be restored again: slots are kept for it.
        """
        write_criu_config(self._folders, placement.pool, application)
        engine = self._engine
        if not isinstance(engine, Chooser):

            async def create(published: tuple[Published, ...]) -> str:
                return await engine.restore(
                    archive, placement.name, published, deadline_seconds=RESTORE_SECONDS
                )

            return await self._bring_up.ready(
                placement, application, create, phase="restore", began=began, after_restore=True
            )

        async def choose(published: tuple[Published, ...]) -> str:
            return await engine.restore(
                archive,
                placement.name,
                published,
                deadline_seconds=RESTORE_SECONDS,
                way=application.engine,
                merge_pages=application.merge_pages,
            )

        ahead = self._bring_up.ahead(placement, application)
        up = await self._bring_up.ready(
            placement,
            application,
            choose,
            phase="restore",
            began=began,
            after_restore=True,
            offer=functools.partial(engine.offer, archive, ahead) if ahead.count else None,
        )
        if ahead.count and is_shared:
            engine.keep(archive, ahead, self._bring_up.taken)
        return up

    def _restored(self, up: Up) -> Optional[Restored]:
        """Return how the engine restored it, where it has several ways."""
        if not isinstance(self._engine, Chooser):
            return None
        return self._engine.restored(up.container_id)

    def cold(
        self,
        placement: Placement,
        application: Application,
        action: str,
        scratch: Path,
        image_id: str = "",
    ) -> Create:
        """Return the engine's call that starts the application cold on given ports."""
        config = write_criu_config(self._folders, placement.pool, application)
        labels = {FLEET: placement.fleet, POOL: placement.pool, BUILD: action}
        for volume in application.volumes:
            if volume.source.startswith("/") and not Path(volume.source).exists():
                raise Permanent(
                    "volume.missing",
                    f"cannot start {placement.name}: the volume's folder {volume.source} is not"
                    " on this host",
                    hint="create it on every host of the pool",
                )

        async def create(published: tuple[Published, ...]) -> str:
            launch = Launch(
                placement.name, application, labels, config, published, scratch, bare(image_id)
            )
            return await self._engine.run(launch)

        return create

    async def remove(self, request: Remove) -> Done:
        """Stop and remove; the record goes after the container."""
        name = request.name
        async with self._lock(name):
            container = await self._engine.find(request.container_id or name)
            if container is None:
                gone = request.container_id
                self._records.forget(name, unless=lambda kept: gone not in ("", kept.container_id))
                return Done(changed=False)
            if not is_ours(container, request.fleet) or container.name != name:
                raise foreign(name, container)
            record = self._records.read(name)
            # A spare never served anybody: it is not let run on in order to be asked to end.
            seconds = 0 if record and record.spare else request.stop_timeout_seconds
            await self._engine.remove(container.container_id, stop_timeout_seconds=seconds)
            failpoint("container.removed", name)
            removed = container.container_id
            self._records.forget(name, unless=lambda kept: kept.container_id != removed)
            return Done()

    async def logs(self, request: Logs) -> LogLines:
        """Return a replica's last lines."""
        container = await self._engine.find(request.name)
        if container is None:
            raise Refused(
                "replica.unknown", f"cannot read the output of {request.name}: no such replica here"
            )
        if not is_ours(container, request.fleet):
            raise foreign(request.name, container)
        return LogLines(await self._engine.logs(container.container_id, request.tail))

    async def existing(self, placement: Placement, digest: Optional[str]) -> Optional[Started]:
        """Answer for a replica that is ready already; make way for what is dead.

        No record: nothing is asked of the engine, podman says itself when the name is taken.
        """
        record = self._records.read(placement.name)
        if record is None:
            return None
        container = await self._engine.find(placement.name)
        if container is None:
            self._records.forget(placement.name)
            return None
        if not is_ours(container, placement.fleet):
            raise foreign(placement.name, container)
        if container.container_id == record.container_id:
            if record.frozen:
                raise Refused(
                    "replica.captured",
                    f"cannot start {placement.name}: it is frozen here, in the middle of a move",
                    hint="let the move end; the daemon thaws it here or forgets it",
                )
            if container.running and digest in (None, record.digest):
                return record.started
            if container.running:
                raise Refused(
                    "replica.already-runs",
                    f"cannot restore {placement.name}: it runs already, from something else",
                    hint=f"remove it first: poold rm {placement.name}",
                )
        await self._bring_up.clear_name(placement)
        self._records.forget(placement.name)
        return None

    async def remember(
        self, placement: Placement, up: Up, *, method: str, digest: str, spare: bool = False
    ) -> Started:
        """Record a container that is ready; failing, it is removed."""
        restored = self._restored(up)
        record = Record(
            name=placement.name,
            fleet=placement.fleet,
            pool=placement.pool,
            container_id=up.container_id,
            method=method,  # type: ignore[arg-type]
            address=up.address,
            published=up.published,
            started_at=time.time(),
            seconds=round(up.seconds, 4),
            digest=digest,
            phases=up.phases,
            spare=spare,
            engine=restored.engine if restored else "",
            engine_reason=restored.reason if restored else "",
        )
        failpoint("replica.before_record", placement.name)
        try:
            self._records.write(record)
        except OSError:
            await undone(self._bring_up.remove_own(placement.fleet, placement.name))
            raise
        failpoint("replica.recorded", placement.name)
        return record.started


def write_criu_config(folders: Folders, pool: str, application: Application) -> Path:
    """Write the pool's CRIU configuration where its containers' annotation points."""
    path = folders.criu_config(pool)
    text = "".join(
        f"{line}\n" for line in criu.settings(application.checkpoint.scan_paths)
    ).encode()
    if not path.exists() or path.read_bytes() != text:
        write_whole(path, text)
    return path
