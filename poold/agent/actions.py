"""All that the agent does on its host, one method call per request.

Flows in: a request, the id of its action, where to report progress. Flows out: the request's
answer or a Problem. Composition only: what an action does is told in the modules it is handed to;
joining, recording and deadlines of actions are the server's.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from poold.agent import examine
from poold.agent.bench_messages import Measure
from poold.agent.bringup import BringUp
from poold.agent.builds import Builds
from poold.agent.engines.base import Chooser, Engine
from poold.agent.folders import Folders
from poold.agent.generations import Generations
from poold.agent.images import Images
from poold.agent.imports import Imports
from poold.agent.measuring import Measuring
from poold.agent.messages import (
    Build,
    Capture,
    Discard,
    Done,
    Examine,
    ExportImage,
    FindImage,
    Import,
    ImportImage,
    Logs,
    Observe,
    PrepareSpare,
    Progress,
    Remove,
    Request,
    Restore,
    Resume,
    Stage,
    Start,
)
from poold.agent.minding import Minder, Tell
from poold.agent.moves import Moves
from poold.agent.observing import Observing, memory_free_bytes
from poold.agent.records import Records
from poold.agent.replicas import Replicas
from poold.agent.space import Reserve
from poold.agent.spares import Spares
from poold.errors import Permanent, Problem, Refused, Temporary

log = logging.getLogger(__name__)

R = TypeVar("R")
Report = Callable[[Progress], None]


class Actions:
    """The agent's actions on one host. `running` tells the ids of the actions under way."""

    def __init__(
        self,
        root: Path,
        run: Path,
        engine: Engine,
        running: Callable[[], tuple[str, ...]],
        *,
        reserve: Reserve = Reserve(),  # noqa: B008 - frozen
        free_memory_bytes: Callable[[], int] = memory_free_bytes,
    ) -> None:
        folders = Folders(root, reserve)
        folders.make()
        self._run = run
        self._names = _NameLocks()
        self._folders = folders
        self._engine = engine
        records = Records(folders)
        store = self._generations = Generations(folders)
        bring_up = BringUp(engine, lambda: _taken(records))
        lock = self._names.hold
        self._replicas = Replicas(folders, engine, records, store, bring_up, lock)
        self._spares = Spares(
            engine, records, store, bring_up, self._replicas, lock, free_memory_bytes
        )
        self._builds = Builds(folders, engine, store, bring_up, self._replicas)
        self._imports = Imports(folders, engine, store, self._builds)
        self._moves = Moves(folders, engine, records, store, bring_up, lock)
        self._images = Images(folders, engine)
        self._measuring = Measuring(folders, engine, store, bring_up, self._replicas)
        self._minder = Minder(records, engine.lost, bring_up.sign_of_life, lock)
        self._observing = Observing(
            folders, engine, records, store, running, self._names.held, self._minder.silence
        )

    async def handle(self, request: Request[R], *, action: str, report: Report) -> R:
        """Do one action; see `poold.agent.messages` for what each promises."""
        try:
            return cast("R", await self._do(request, action, report))
        except OSError as error:
            raise _file_trouble(request.verb, error) from error

    async def watch(self, tell: Tell) -> None:
        """Mind the replicas and tell what happens to them, until cancelled."""
        minding = asyncio.ensure_future(self._minder.watch(tell))
        tending = asyncio.ensure_future(self._tend())
        try:
            await asyncio.wait({minding, tending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in (minding, tending):
                each.cancel()
            await asyncio.wait({minding, tending})
        for each in (minding, tending):
            if not each.cancelled():
                each.result()

    async def _stage_for_runtime(self, request: Stage, report: Report) -> None:
        """Unpack what the runtime is called on; failing, the first restore tries again."""
        if request.engine == "podman" or not isinstance(self._engine, Chooser):
            return
        report(Progress("staging"))
        _, archive = await self._generations.staged(request.digest)
        try:
            await self._engine.stage(archive)
        except Problem as problem:
            log.warning("cannot stage %s: %s", request.digest[:19], problem)

    async def _tend(self) -> None:
        if isinstance(self._engine, Chooser):
            await self._engine.tend()
        else:
            await asyncio.Event().wait()

    async def _do(self, request: Any, action: str, report: Report) -> Any:
        if isinstance(request, Observe):
            self._minder.use(request.fleet, request.liveness)
            return await self._observing.observe(request)
        if isinstance(request, Start):
            return await self._replicas.start(request, action, report)
        if isinstance(request, Restore):
            return await self._spares.restore(request, report)
        if isinstance(request, PrepareSpare):
            return await self._spares.prepare(request, action, report)
        if isinstance(request, Remove):
            return await self._replicas.remove(request)
        if isinstance(request, Logs):
            return await self._replicas.logs(request)
        if isinstance(request, Build):
            return await self._builds.build(request, action, report)
        if isinstance(request, Import):
            return await self._imports.take(request, action, report)
        if isinstance(request, Capture):
            return await self._moves.capture(request, action, report)
        if isinstance(request, Resume):
            return await self._moves.resume(request)
        if isinstance(request, Stage):
            with self._folders.scratch(action) as scratch:
                done = Done(await self._generations.stage(request.digest, scratch, report))
            await self._stage_for_runtime(request, report)
            return done
        if isinstance(request, Discard):
            discard = self._generations.discard
            return Done(
                await asyncio.get_running_loop().run_in_executor(None, discard, request.digest)
            )
        if isinstance(request, FindImage):
            return await self._images.find(request)
        if isinstance(request, ExportImage):
            with self._folders.scratch(action) as scratch:
                return await self._images.export(request, scratch, report)
        if isinstance(request, ImportImage):
            return await self._images.import_(request, report)
        if isinstance(request, Examine):
            return await examine.examine(request, self._engine, self._folders, self._run)
        if isinstance(request, Measure):
            return await self._measuring.measure(request, action, report)
        raise Refused("action.unknown", f"cannot do {type(request).__name__}: no such action")


class _NameLocks:
    """One action at a time per replica name; a name that nobody holds costs nothing."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}
        self._users: dict[str, int] = {}

    @contextlib.asynccontextmanager
    async def hold(self, name: str) -> AsyncIterator[None]:
        """Wait for the name and hold it for the block."""
        lock = self._locks.setdefault(name, asyncio.Lock())
        self._users[name] = self._users.get(name, 0) + 1
        try:
            async with lock:
                yield
        finally:
            self._users[name] -= 1
            if not self._users[name]:
                del self._users[name], self._locks[name]

    def held(self, name: str) -> bool:
        """Whether an action for that name is under way or waiting."""
        return name in self._users


def _file_trouble(verb: str, error: OSError) -> Problem:
    """Translate what the agent's own files met; programs' errors are translated where they run."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Temporary(
            "host.disk-full",
            f"cannot {verb}: the disk is full at {error.filename or 'the agent folder'}",
            hint="free some space under the agent's folder",
        )
    return Permanent(
        "host.file-trouble",
        f"cannot {verb}: {error}",
        hint="look at the agent's folder and its disk on that host",
    )


def _taken(records: Records) -> frozenset[int]:
    """Return the ports of all replicas on record: a captured one will want its own back."""
    return frozenset(
        port for record in records.all().values() for port in record.published.values()
    )
