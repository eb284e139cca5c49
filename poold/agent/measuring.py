"""Starting an application by other ways than poold's own, timed: what `poold bench` compares with.

Flows in: Measure. Flows out: seconds per container, and none of the containers is left. The ways
share the readiness probe, the ports and the clean-up with real starts and restores, so that what
differs is the way alone. Nothing of pools, wishes or records is known here.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Optional

from poold.agent import freezing, hooks, probe
from poold.agent.bench_messages import Measure, Measured, Took
from poold.agent.bringup import BringUp, Create, Up, undone
from poold.agent.builds import PROOF_PREFIX
from poold.agent.engines.base import Chooser, Engine, Floor, Published
from poold.agent.folders import Folders, make_private, safe_name
from poold.agent.generations import Generations
from poold.agent.messages import Placement, Progress
from poold.agent.probe import Reach
from poold.agent.process import check
from poold.agent.replicas import RESTORE_SECONDS, Replicas
from poold.errors import Refused
from poold.model.application import Application

_SHORT = 12
_LARGEST_BURST = 64
_MARGIN_BYTES = 64 << 20

Report = Callable[[Progress], None]


class Measuring:
    """The ways of this host that `poold bench` compares with."""

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

    async def measure(self, request: Measure, action: str, report: Report) -> Measured:
        """Go one way once, `burst` times at the same time."""
        if not 0 < request.burst <= _LARGEST_BURST:
            raise Refused(
                "bench.bad-burst",
                f"cannot start {request.burst} containers at once",
                hint=f"choose between 1 and {_LARGEST_BURST}",
            )
        article = self._article(request.placement.pool)
        if request.way == "clean":
            article.unlink(missing_ok=True)
            return Measured()
        if request.way == "prepare":
            return await self._prepare(request, article, action, report)
        if request.way == "article":
            if not article.exists():
                raise Refused(
                    "bench.not-prepared",
                    f"cannot restore as the article does: {article} is not there",
                    hint="run poold bench again: it makes that archive first",
                )
            return await self._many(request, action, article)
        if request.way == "podman":
            _, archive = await self._generations.staged(request.digest)
            return await self._many(request, action, archive)
        if request.way == "bare":
            return await self._bare(request, action)
        return await self._many(request, action, None)

    async def _prepare(
        self, request: Measure, article: Path, action: str, report: Report
    ) -> Measured:
        """Start cold, warm up as a build does, and checkpoint as the article does."""
        application = request.application
        (placement,) = _placements(request, action)
        began = time.monotonic()
        with self._folders.scratch(action) as scratch:
            try:
                create = self._replicas.cold(placement, application, action, scratch)
                up = await self._bring_up.ready(
                    placement, application, create, phase="create", began=began
                )
                await hooks.warm(application.warmup, up.reach, report)
                hook = application.before_checkpoint
                if hook is not None:
                    await hooks.call(hook, "before_checkpoint", up.reach, placement.pool)
                seconds = application.checkpoint.quiesce_deadline_seconds
                await freezing.quiesce(
                    self._engine, placement.pool, up.container_id, seconds, report
                )
                report(Progress("checkpointing as the article does"))
                await self._export(placement.name, up.container_id, scratch, article)
            finally:
                await undone(self._bring_up.remove_own(placement.fleet, placement.name))
        return Measured((Took(up.seconds, up.phases),), _size(article))

    async def _export(
        self,
        name: str,
        container_id: str,
        scratch: Path,
        article: Path,
    ) -> None:
        need = await self._engine.memory_bytes(container_id) + _MARGIN_BYTES
        needs = [(await self._engine.storage(), need), (scratch, need)]
        self._folders.require(needs, f"freeze {name}")
        made = scratch / article.name
        await check(
            ["podman", "container", "checkpoint", "--export", str(made), name],
            deadline_seconds=RESTORE_SECONDS,
        )
        make_private(made)
        made.replace(article)

    async def _many(self, request: Measure, action: str, archive: Optional[Path]) -> Measured:
        """Bring them up at once, from an archive or cold, and remove them all."""
        placements = _placements(request, action)
        began = time.monotonic()
        with self._folders.scratch(action) as scratch:
            tasks = [
                asyncio.ensure_future(self._one(request, each, archive, action, scratch, began))
                for each in placements
            ]
            try:
                ups = await asyncio.gather(*tasks)
                resident = [await self._engine.memory_bytes(up.container_id) for up in ups]
            finally:
                for task in tasks:
                    task.cancel()
                await undone(self._all_gone(tasks, placements))
        took = tuple(Took(up.seconds, up.phases, size) for up, size in zip(ups, resident))
        return Measured(took, _size(archive) if archive else 0)

    async def _one(
        self,
        request: Measure,
        placement: Placement,
        archive: Optional[Path],
        action: str,
        scratch: Path,
        began: float,
    ) -> Up:
        create: Create
        if archive is None:
            own = scratch / placement.name  # a file of variables each
            own.mkdir(mode=0o700)
            create = self._replicas.cold(placement, request.application, action, own)
        else:
            create = self._restored(archive, placement.name)
        phase = "create" if archive is None else "restore"
        return await self._bring_up.ready(
            placement, request.application, create, phase=phase, began=began
        )

    async def _bare(self, request: Measure, action: str) -> Measured:
        """Make the surroundings, then time the runtime's restore and the first answer alone."""
        engine, application = self._engine, request.application
        if not isinstance(engine, Chooser):
            raise Refused(
                "oci.unavailable",
                f"cannot call an OCI runtime through the engine {engine.name}",
                hint="leave that way out",
            )
        _, archive = await self._generations.staged(request.digest)
        floors: list[Floor] = []
        tasks: list[asyncio.Future[Took]] = []
        with contextlib.ExitStack() as ports:
            try:
                reaches = []
                for each in _placements(request, action):
                    published = ports.enter_context(self._bring_up.free_ports(each, application))
                    reaches.append(self._bring_up.reach(each.name, application, published))
                    floors.append(await engine.bare(archive, published))
                began = time.monotonic()
                tasks += [
                    asyncio.ensure_future(_thawed(floor, reach, application, began))
                    for floor, reach in zip(floors, reaches)
                ]
                took = await asyncio.gather(*tasks)
                sizes = [await floor.memory_bytes() for floor in floors]
            finally:
                for task in tasks:
                    task.cancel()
                await undone(_all_removed(tasks, floors))
        sized = tuple(replace(one, resident_bytes=size) for one, size in zip(took, sizes))
        return Measured(sized, _size(archive))

    def _restored(self, archive: Path, name: str) -> Create:
        engine = self._engine

        async def create(published: tuple[Published, ...]) -> str:
            if isinstance(engine, Chooser):
                return await engine.restore(
                    archive, name, published, deadline_seconds=RESTORE_SECONDS, way="podman"
                )
            return await engine.restore(archive, name, published, deadline_seconds=RESTORE_SECONDS)

        return create

    async def _all_gone(
        self, tasks: Sequence[asyncio.Future[Up]], placements: tuple[Placement, ...]
    ) -> None:
        await asyncio.wait(tasks)
        for placement in placements:
            await self._bring_up.remove_own(placement.fleet, placement.name)

    def _article(self, pool: str) -> Path:
        # Among the images under way: what a bench that died left there goes within the hour.
        return self._folders.images / f"bench-{safe_name(pool)}.tar.gz"


async def _thawed(floor: Floor, reach: Reach, application: Application, began: float) -> Took:
    await floor.restore(deadline_seconds=RESTORE_SECONDS)
    returned = time.monotonic()
    ready = await probe.until_ready(application.readiness, reach, _never)
    phases = {"runtime": round(returned - began, 4), "ready": round(ready - returned, 4)}
    return Took(ready - began, phases)


async def _never() -> None:
    """Nobody minds what the runtime restored alone: its end shows by the probe's deadline."""
    await asyncio.Event().wait()


async def _all_removed(tasks: Sequence[asyncio.Future[Took]], floors: Sequence[Floor]) -> None:
    if tasks:
        await asyncio.wait(tasks)
    await asyncio.gather(*(floor.remove() for floor in floors))


def _placements(request: Measure, action: str) -> tuple[Placement, ...]:
    """Return a placement per container, named so that a listing sees whose they are."""
    names = (f"{PROOF_PREFIX}{action[:_SHORT]}-{n}" for n in range(1, request.burst + 1))
    return tuple(replace(request.placement, name=name) for name in names)


def _size(archive: Path) -> int:
    return archive.stat().st_size
