"""Starting an application by other ways than poold's own, timed: what `poold bench` compares with.

Flows in: Measure. Flows out: seconds per container, and none of the containers is left. The ways
share the readiness probe, the ports and the clean-up with real starts and restores, so that what
differs is the way alone. Nothing of pools, wishes or records is known here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Optional

from poold.agent import freezing, hooks
from poold.agent.bench_messages import Measure, Measured, Took
from poold.agent.bringup import BringUp, Create, Up, undone
from poold.agent.builds import PROOF_PREFIX
from poold.agent.engines.base import Engine, Published
from poold.agent.folders import Folders, make_private, require_space, safe_name
from poold.agent.generations import Generations
from poold.agent.messages import Placement, Progress
from poold.agent.process import check
from poold.agent.replicas import RESTORE_SECONDS, Replicas
from poold.errors import Refused

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
        require_space(needs, f"freeze {name}")
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

    def _restored(self, archive: Path, name: str) -> Create:
        async def create(published: tuple[Published, ...]) -> str:
            return await self._engine.restore(
                archive, name, published, deadline_seconds=RESTORE_SECONDS
            )

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


def _placements(request: Measure, action: str) -> tuple[Placement, ...]:
    """Return a placement per container, named so that a listing sees whose they are."""
    names = (f"{PROOF_PREFIX}{action[:_SHORT]}-{n}" for n in range(1, request.burst + 1))
    return tuple(replace(request.placement, name=name) for name in names)


def _size(archive: Path) -> int:
    return archive.stat().st_size
