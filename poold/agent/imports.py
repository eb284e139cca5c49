"""Importing a checkpoint that podman exported: a generation of the pool, proven, or nothing.

Flows in: Import, with a file on this host. Flows out: a sealed, proven, staged generation, as a
build makes one. What is in the file is not believed: it is read through, written anew as one of the
pool's, and restored once before it is among the generations.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from poold.agent import freezing, generations
from poold.agent.bringup import BUILD, FLEET, POOL
from poold.agent.builds import Builds, timed
from poold.agent.engines.base import Engine
from poold.agent.folders import Folders
from poold.agent.generations import ARCHIVE, Generations
from poold.agent.messages import Import, Progress, Sealed
from poold.agent.oci import exports, guests
from poold.agent.oci.exports import Export
from poold.agent.replicas import write_criu_config
from poold.agent.space import free_bytes
from poold.errors import Permanent, Refused
from poold.model.fleet import Phases

Report = Callable[[Progress], None]
_REPORT_SECONDS = 0.5


class Imports:
    """Imports archives on this host."""

    def __init__(
        self, folders: Folders, engine: Engine, store: Generations, builds: Builds
    ) -> None:
        self._folders = folders
        self._engine = engine
        self._generations = store
        self._builds = builds

    async def take(self, request: Import, action: str, report: Report) -> Sealed:
        """Do it from the file to the proof; cancelled or failing, all of it is undone."""
        application, pool = request.application, request.placement.pool
        image_id = await self._engine.image_id(application.image)
        if not image_id:
            raise Permanent(
                "image.missing",
                f"cannot import into {pool}: the image {application.image} is not on this host",
                hint="pull or load it there first",
            )
        phases: Phases = {}
        with self._folders.scratch(action) as scratch:
            prepared = scratch / "generation"
            prepared.mkdir(mode=0o700)
            read = self._read(request, action, image_id, prepared / ARCHIVE, report)
            export = await timed(phases, "read", read)
            packed = await timed(phases, "pack", generations.pack(prepared / ARCHIVE, report))
            manifest = await freezing.describe(
                self._engine,
                pool=pool,
                build=action,
                application=application,
                image_id=image_id,
                packed=packed,
                cold_seconds=0.0,
                phases=phases,
            )
            _require_runtime(manifest.runtime, export)
            digest = generations.seal(prepared, manifest)
            report(Progress("proving"))
            await self._builds.prove(request.placement, application, prepared / ARCHIVE, action)
            await self._generations.admit(prepared, digest)
        return Sealed(digest, manifest)

    async def _read(
        self, request: Import, action: str, image_id: str, target: Path, report: Report
    ) -> Export:
        """Write the archive anew, as one of the pool's, as far as the disk's reserve allows."""
        placement, application = request.placement, request.application
        self._folders.require([(self._folders.root, 0)], f"import into {placement.pool}")
        reserve = self._folders.reserve.of(self._folders.root)
        criu_config = write_criu_config(self._folders, placement.pool, application)
        labels = {FLEET: placement.fleet, POOL: placement.pool, BUILD: action}

        def edit(spec: dict[str, Any], config: dict[str, Any]) -> None:
            found = str(config.get("rootfsImageID") or "")
            if found.removeprefix("sha256:") != image_id.removeprefix("sha256:"):
                raise Refused(
                    "import.other-image",
                    f"cannot import into {placement.pool}: the checkpoint is of the image"
                    f" {str(config.get('rootfsImageName'))[:200]} ({found[:12]}), the pool's is"
                    f" {application.image} ({image_id.removeprefix('sha256:')[:12]})",
                    hint="give the pool that image, or checkpoint a container of the pool's",
                )
            reason = next(guests.why_not(spec, config, application), "")
            if reason:
                raise Refused(
                    "import.not-of-pool",
                    f"cannot import into {placement.pool}: the container {reason}",
                    hint="checkpoint one that has what the pool's own have, and no more",
                )
            guests.adopt(spec, config, labels=labels, criu_config=str(criu_config))

        told = 0.0

        def progress(done: int, total: int) -> None:
            nonlocal told
            if time.monotonic() - told >= _REPORT_SECONDS:
                told = time.monotonic()
                loop.call_soon_threadsafe(report, Progress("reading the archive", done, total))

        loop, stop = asyncio.get_running_loop(), threading.Event()
        reading = loop.run_in_executor(
            None,
            lambda: exports.rewrite(
                Path(request.file),
                target,
                most_bytes=max(0, free_bytes(self._folders.root) - reserve),
                edit=edit,
                stop=stop,
                progress=progress,
            ),
        )
        try:
            return await asyncio.shield(reading)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.wait({reading})
            raise


def _require_runtime(of_host: str, export: Export) -> None:
    """See that it was frozen through this host's runtime, which alone can thaw it."""
    frozen_by = Path(str(export.config.get("runtime") or "")).name
    if frozen_by and frozen_by != of_host.partition(" ")[0]:
        raise Refused(
            "import.other-runtime",
            f"cannot import it: it was frozen through {frozen_by}, this host has {of_host}",
            hint="import it on a host with that runtime: --host",
        )
