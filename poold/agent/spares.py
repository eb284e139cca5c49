"""Spares: replicas restored ahead of need and frozen, and claiming one in place of a restore.

Flows in: PrepareSpare, and every Restore. Flows out: a frozen container on record under a name that
nobody wished for; or the replica that such a one became. How many there are to be, of what, and
when one is too old, is the daemon's to decide.

A claim is three steps, and a kill between any two leaves one container that the next listing shows:
named anew while frozen (before: a spare as before), let run on, on record under its new name (until
then: a replica that is not ready, which is removed and restored). It is never there twice, and it
never runs under a spare's name.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Optional

from poold.agent import hooks
from poold.agent.bringup import BringUp, Up, foreign, is_ours, undone
from poold.agent.engines.base import Engine, Published
from poold.agent.failpoints import failpoint
from poold.agent.generations import Generations
from poold.agent.http import Target
from poold.agent.messages import Placement, PrepareSpare, Progress, Restore, Started
from poold.agent.ports import PortRange, bind_address
from poold.agent.records import Record, Records
from poold.agent.replicas import NameLock, Replicas
from poold.errors import Problem, Temporary
from poold.model.application import Application
from poold.model.fleet import Phases

SPARE_PREFIX = "poold-spare-"
CLAIM_SECONDS = 5.0  # of a thawed spare's readiness: a restore is quicker than waiting on
_SHORT = 12

log = logging.getLogger(__name__)

Report = Callable[[Progress], None]


def spare_name(action: str) -> str:
    """Return the name of the spare that an action makes: its own on all hosts."""
    return SPARE_PREFIX + action.rpartition("-")[2][:_SHORT]


class Spares:
    """Prepares and claims spares. For one event loop; `free_bytes` tells the host's free memory."""

    def __init__(
        self,
        engine: Engine,
        records: Records,
        generations: Generations,
        bring_up: BringUp,
        replicas: Replicas,
        name_lock: NameLock,
        free_bytes: Callable[[], int],
    ) -> None:
        self._engine = engine
        self._records = records
        self._generations = generations
        self._bring_up = bring_up
        self._replicas = replicas
        self._lock = name_lock
        self._free_bytes = free_bytes
        self._restoring = 0
        self._quiet: Optional[asyncio.Event] = None
        self._one: Optional[asyncio.Lock] = None

    # -- preparing --------------------------------------------------------------------------------

    async def prepare(self, request: PrepareSpare, action: str, report: Report) -> Started:
        """Make a spare; failing, cancelled or killed before it is on record, nothing is left."""
        placement = replace(request.placement, name=spare_name(action))
        async with self._turn(), self._lock(placement.name):
            began = time.monotonic()  # waiting for others says nothing of how long one takes
            manifest, archive = await self._generations.staged(request.digest)
            self._require_memory(placement, manifest.archive_bytes)
            report(Progress("restoring a spare"))
            await self._bring_up.clear_name(placement)
            up = await self._replicas.thawed(placement, request.application, archive, began)
            try:
                failpoint("spare.ready", placement.name)
                await self._engine.pause(up.container_id)
                failpoint("spare.frozen", placement.name)
                return await self._replicas.remember(
                    placement, up, method="restore", digest=request.digest, spare=True
                )
            except BaseException:
                await undone(self._bring_up.remove_own(placement.fleet, placement.name))
                raise

    def _require_memory(self, placement: Placement, size_bytes: int) -> None:
        """See that a replica could still be restored beside the spare."""
        free = self._free_bytes()
        if free < 2 * size_bytes:
            raise Temporary(
                "host.memory-low",
                f"cannot prepare a spare of {placement.pool}: {free >> 20} MiB of memory are free,"
                f" and {2 * size_bytes >> 20} MiB are needed for one and for one more replica",
                hint="fewer replicas or spares on this host, or more memory",
            )

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Wait until nobody restores a replica, one spare at a time."""
        if self._one is None:  # not in __init__: Python 3.9 binds a lock to the loop of then
            self._one, self._quiet = asyncio.Lock(), asyncio.Event()
        async with self._one:
            while self._restoring and self._quiet is not None:
                self._quiet.clear()
                await self._quiet.wait()
            yield

    # -- restoring, by a spare where one is offered -----------------------------------------------

    async def restore(self, request: Restore, report: Report) -> Started:
        """Claim the spare that is offered, or restore; see Restore."""
        began = time.monotonic()
        with self._urgent():
            if request.spare:
                claimed = await self._claimed(request, began, report)
                if claimed is not None:
                    return claimed
            return await self._replicas.restore(request, report, began)

    @contextlib.contextmanager
    def _urgent(self) -> Iterator[None]:
        self._restoring += 1
        try:
            yield
        finally:
            self._restoring -= 1
            if self._restoring == 0 and self._quiet is not None:
                self._quiet.set()

    async def _claimed(self, request: Restore, began: float, report: Report) -> Optional[Started]:
        """Return the replica that the spare became; None: there is none to claim any more."""
        placement = request.placement
        # The replica's name is always held before the spare's: nobody waits crosswise.
        async with self._lock(placement.name):
            existing = await self._replicas.existing(placement, digest=request.digest)
            if existing is not None:
                return existing
            async with self._lock(request.spare):
                record = self._records.read(request.spare)
                if record is None or not record.spare or record.pool != placement.pool:
                    report(Progress(f"{request.spare} is not there to be claimed"))
                    return None
                if not fits(record, request):  # published elsewhere by now, for example
                    report(Progress(f"{request.spare} is not what is asked for"))
                    await undone(self._drop(record))
                    return None
                try:
                    up = await self._woken(record, request, began)
                except (Problem, OSError) as error:
                    if isinstance(error, Problem) and error.code == "replica.foreign-name":
                        raise
                    text = f"claiming {record.name} failed: {error}"
                    log.warning("%s", text, extra={"action": "claim_failed"})
                    report(Progress(text))
                    return None
                started = await self._replicas.remember(
                    placement, up, method="spare", digest=request.digest
                )
                self._records.forget(record.name)
                failpoint("spare.forgotten", placement.name)
                return replace(started, spare=record.name)

    async def _woken(self, record: Record, request: Restore, began: float) -> Up:
        """Give the spare its name, let it run on and prove it; failing, it is removed."""
        placement, application = request.placement, request.application
        phases: Phases = {}
        try:
            failpoint("spare.claiming", placement.name)
            await self._rename(record, placement)
            failpoint("spare.renamed", placement.name)
            await self._engine.unpause(record.container_id)
            failpoint("spare.thawed", placement.name)
            last = _mark(phases, "thaw", began)
            address = bind_address(placement.publish_address)
            published = tuple(
                Published(int(inside), outside, address)
                for inside, outside in record.published.items()
            )
            reach = self._bring_up.reach(placement.name, application, published)
            if application.after_restore is not None:
                await hooks.call(application.after_restore, "after_restore", reach, placement.pool)
                last = _mark(phases, "hook", last)
            moment = await self._bring_up.until_ready(
                record.container_id, _soon(application), reach
            )
            _mark(phases, "ready", last, moment)
        except BaseException as error:
            if not (isinstance(error, Problem) and error.code == "replica.foreign-name"):
                await undone(self._drop(record))
            raise
        return Up(
            record.container_id, record.address, record.published, reach, moment - began, phases
        )

    async def _rename(self, record: Record, placement: Placement) -> None:
        """Rename by name, so that what only had its id is not taken for the spare."""
        rename = functools.partial(self._engine.rename, record.name, placement.name)
        try:
            await rename()
        except Problem as error:
            if error.code != "engine.name-taken":
                raise
        else:
            return
        await self._bring_up.clear_name(placement)
        try:
            await rename()
        except Problem as error:
            if error.code != "engine.name-taken":
                raise
            raise foreign(placement.name) from error

    async def _drop(self, record: Record) -> None:
        container = await self._engine.find(record.container_id)
        if container is not None and is_ours(container, record.fleet):
            await self._engine.remove(record.container_id, stop_timeout_seconds=0)
        self._records.forget(record.name)


def fits(record: Record, request: Restore) -> bool:
    """Whether a spare is what a restore would make: of that generation, published as asked."""
    placement, application = request.placement, request.application
    among = PortRange.parse(placement.publish_ports)
    wanted = {str(port) for port in (application.port, *application.extra_ports)}
    main = record.published.get(str(application.port))
    return (
        (record.fleet, record.pool, record.digest)
        == (placement.fleet, placement.pool, request.digest)
        and record.published.keys() == wanted
        and all(among.first <= port <= among.last for port in record.published.values())
        and main is not None
        and record.address == Target(placement.publish_address, main).text
    )


def _soon(application: Application) -> Application:
    """Return the application with less patience: what was ready before is so at once, or broken."""
    readiness = application.readiness
    seconds = min(readiness.deadline_seconds, CLAIM_SECONDS)
    return replace(application, readiness=replace(readiness, deadline_seconds=seconds))


def _mark(phases: Phases, phase: str, since: float, moment: Optional[float] = None) -> float:
    now = time.monotonic() if moment is None else moment
    phases[phase] = round(now - since, 4)
    return now
