"""Freezing a container into an archive: quiet first, space first, then podman and CRIU.

Flows in: a running container, the application's settings. Flows out: an archive file and what
took part in making it. Shared by builds and captures; it decides nothing about what becomes of the
container or the archive.
"""

from __future__ import annotations

import asyncio
import platform
import time
from collections.abc import Callable
from pathlib import Path

from poold.agent import criu, probe
from poold.agent.engines.base import Engine
from poold.agent.folders import Folders, make_private
from poold.agent.generations import Packed
from poold.agent.messages import Progress
from poold.errors import Temporary
from poold.model.application import Application
from poold.model.fleet import ActionId, Manifest, Phases, PoolName

_QUIESCE_INTERVAL_SECONDS = 0.02
_SHOWN_CONNECTIONS = 5
_MARGIN_BYTES = 64 << 20  # root file system changes, shared memory, the tar's own overhead
_PACKED_SHARE = 0.5  # of the archive; a quarter was measured, half is kept free


async def quiesce(
    engine: Engine,
    name: str,
    container_id: str,
    deadline_seconds: float,
    report: Callable[[Progress], None],
) -> None:
    """Wait until only listening sockets are left; the kernel tells no event for that.

    Past the deadline: Temporary("checkpoint.sockets-not-quiet") naming the connections.
    """
    deadline = time.monotonic() + deadline_seconds
    told = -1
    while True:
        open_now = await engine.connections(container_id)
        if not open_now:
            return
        if time.monotonic() >= deadline:
            shown = "; ".join(open_now[:_SHOWN_CONNECTIONS])
            more = f" and {len(open_now) - _SHOWN_CONNECTIONS} more" * (
                len(open_now) > _SHOWN_CONNECTIONS
            )
            raise Temporary(
                "checkpoint.sockets-not-quiet",
                f"cannot freeze {name}: after {deadline_seconds:g} s it still has open connections:"
                f" {shown}{more}",
                hint="let the before_checkpoint hook close them, stop the clients, or raise"
                " checkpoint.quiesce_deadline_seconds",
            )
        if len(open_now) != told:
            told = len(open_now)
            report(Progress(f"waiting for {told} connection{'s' * (told > 1)} to close"))
        await asyncio.sleep(_QUIESCE_INTERVAL_SECONDS)


async def require_room(engine: Engine, name: str, container_id: str, folders: Folders) -> None:
    """Refuse before anything is frozen what the disks cannot take: Temporary("host.disk-full")."""
    memory = await engine.memory_bytes(container_id) + _MARGIN_BYTES
    with_packed = int(memory * (1 + _PACKED_SHARE))
    folders.require(
        [(await engine.storage(), memory), (folders.root, with_packed)], f"freeze {name}"
    )


async def checkpoint(
    engine: Engine,
    name: str,
    application: Application,
    archive: Path,
) -> None:
    """Freeze into `archive`. The stopped container stays."""
    seconds = application.checkpoint.timeout_seconds
    await engine.checkpoint(name, archive, deadline_seconds=seconds)
    make_private(archive)


async def describe(
    engine: Engine,
    *,
    pool: str,
    build: str,
    application: Application,
    image_id: str,
    packed: Packed,
    cold_seconds: float,
    phases: Phases,
) -> Manifest:
    """Return the manifest of an archive that this host just made."""
    versions = await engine.versions()
    return Manifest(
        pool=PoolName(pool),
        build=ActionId(build),
        fingerprint=application.fingerprint(),
        image=application.image,
        image_id=image_id,
        archive_sha256=packed.archive_sha256,
        archive_bytes=packed.archive_bytes,
        packed_sha256=packed.packed_sha256,
        packed_bytes=packed.packed_bytes,
        engine=versions.engine,
        runtime=versions.runtime,
        criu=versions.criu,
        kernel=platform.release(),
        machine=platform.machine(),
        cpu_flags=cpu_flags(),
        created_at=time.time(),
        criu_settings=criu.settings(application.checkpoint.scan_paths),
        cold_seconds=cold_seconds,
        readiness=probe.in_words(application.readiness, application.port),
        phases=phases,
    )


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """Return the first CPU's feature flags, sorted; empty where the kernel tells none."""
    for line in cpuinfo.read_text(errors="replace").splitlines():
        if line.startswith(("flags", "Features")):
            return tuple(sorted(line.partition(":")[2].split()))
    return ()
