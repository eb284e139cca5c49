"""Engine oci: restores by calling the OCI runtime on a staged archive; all else is podman's.

Flows in: the same as for podman. Flows out: containers of podman's, and boxes, which podman does
not know of. What the runtime cannot restore, podman does, from the same archive; why is logged and
told to whoever asks how the container came up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional, TypeVar

from poold.agent import criu, proc, quiesce, victims, watches
from poold.agent.engines import podman_words
from poold.agent.engines.base import (
    Ahead,
    Container,
    Executed,
    Launch,
    Published,
    Restored,
    Versions,
)
from poold.agent.engines.podman import PodmanEngine, end_of
from poold.agent.failpoints import failpoint
from poold.agent.oci import archives, looking, runtime, stages
from poold.agent.oci.bare import Bare
from poold.agent.oci.boxes import Box, Places
from poold.agent.oci.host import look, state_folder, unavailable
from poold.agent.oci.making import Maker
from poold.agent.process import run
from poold.errors import Permanent, Problem, Refused
from poold.model.application import EngineChoice
from poold.model.fleet import Memory

_ATTEMPTS = 2
_REMEMBERED = 200  # how so many containers came up
_OURS = frozenset({"engine.name-taken", "engine.port-taken", "volume.missing", "image.missing"})

T = TypeVar("T")
log = logging.getLogger(__name__)


class OciEngine:
    """The podman of this host, and the runtime beside it. `Engine` says what each call does."""

    name = "oci"

    def __init__(
        self,
        podman: Optional[PodmanEngine] = None,
        *,
        root: Optional[Path] = None,
        falls_back: bool = True,
    ) -> None:
        """`root` None: beside podman's storage. Without `falls_back` a restore may just fail."""
        self._podman = podman or PodmanEngine()
        self._root = root
        self._falls_back = falls_back
        self._maker: Optional[Maker] = None
        self._looking: Optional[asyncio.Lock] = None
        self._waiting: Optional[asyncio.Event] = None  # of `tend`, for the first restore
        self._why_not: Optional[Refused] = None
        self._restored: dict[str, Restored] = {}
        self._failed: dict[str, tuple[int, Problem]] = {}  # by stage

    # -- what is there ----------------------------------------------------------------------------

    async def versions(self, *, again: bool = False) -> Versions:
        """See Engine."""
        return await self._podman.versions(again=again)

    async def storage(self) -> Path:
        """See Engine."""
        return await self._podman.storage()

    async def containers(self) -> tuple[Container, ...]:
        """See Engine. What a crash left of a box without a name is removed on the way."""
        theirs, maker = await asyncio.gather(self._podman.containers(), self._made())
        if maker is None:
            return theirs
        await maker.sweep()
        ours = (
            looking.as_it_is(box, maker.places(box)) for box in maker.host.boxes.all() if box.name
        )
        return (*theirs, *ours)

    async def find(self, name: str) -> Optional[Container]:
        """See Engine."""
        found = await self._box(name)
        return looking.as_it_is(*found) if found else await self._podman.find(name)

    # -- what a Chooser can -----------------------------------------------------------------------

    def restored(self, container_id: str) -> Optional[Restored]:
        """See Chooser."""
        return self._restored.get(container_id)

    async def stage(self, archive: Path) -> bool:
        """See Chooser."""
        maker = await self._required()
        if maker.host.stages.ready(archive) is not None:
            return False
        await maker.host.stages.get(archive)
        return True

    def offer(self, archive: Path, ahead: Ahead) -> tuple[Published, ...]:
        """See Chooser."""
        stage = self._maker.host.stages.ready(archive) if self._maker else None
        return self._maker.slots.offer(stage, ahead) if self._maker and stage else ()

    def keep(self, archive: Path, ahead: Ahead, taken: Callable[[], frozenset[int]]) -> None:
        """See Chooser."""
        stage = self._maker.host.stages.ready(archive) if self._maker else None
        if self._maker and stage:
            self._maker.slots.keep(stage, ahead, taken)

    async def tend(self) -> None:
        """See Chooser."""
        self._waiting = asyncio.Event()
        if self._maker is None:  # nothing but a restore, or what an earlier agent left, makes it
            await self._waiting.wait()
        assert self._maker is not None  # noqa: S101 - it was waited for
        await self._maker.slots.tend()

    async def bare(self, archive: Path, published: tuple[Published, ...]) -> Bare:
        """See Chooser."""
        maker = await self._required()
        stage = maker.host.stages.ready(archive) or await maker.host.stages.get(archive)
        return Bare(maker, stage, await maker.slot(stage, published))

    # -- life of a container ----------------------------------------------------------------------

    async def run(self, launch: Launch) -> str:
        """See Engine."""
        await self._require_free(launch.name)
        return await self._podman.run(launch)

    async def restore(
        self,
        archive: Path,
        name: str,
        published: tuple[Published, ...],
        *,
        deadline_seconds: float,
        way: EngineChoice = "auto",
        merge_pages: bool = False,
    ) -> str:
        """See Engine."""
        reason, begun = "", time.monotonic()
        if way != "podman":
            try:
                restored = await self._by_runtime(
                    archive, name, published, deadline_seconds, merge_pages=merge_pages
                )
            except Problem as problem:
                if problem.code in _OURS or not self._falls_back:
                    raise
                if (way, problem.code) != ("auto", "oci.unavailable"):  # else the doctor says so
                    reason = problem.message
                    log.warning(
                        *("restoring %s by podman: %s", name, problem),
                        extra={"action": "engine_fallback"},
                    )
            else:
                self._remember(restored)
                return restored.container_id
        await self._require_free(name)
        began = time.monotonic()
        container_id = await self._podman.restore(
            archive, name, published, deadline_seconds=deadline_seconds, merge_pages=merge_pages
        )
        phases = {"oci failed": round(began - begun, 4)} if reason else {}
        self._remember(Restored(container_id, "podman", phases, reason))
        return container_id

    async def _by_runtime(
        self,
        archive: Path,
        name: str,
        published: tuple[Published, ...],
        deadline_seconds: float,
        *,
        merge_pages: bool,
    ) -> Restored:
        """Let the runtime restore; what it could not twice is not tried by it any more."""
        maker = await self._required()
        key = stages.key_of(archive)
        failures, last = self._failed.get(key, (0, None))
        if last is not None and failures >= _ATTEMPTS:
            raise last
        try:
            restored = await maker.restore(
                archive, name, published, deadline_seconds, merge_pages=merge_pages
            )
        except Problem as problem:
            if problem.code not in _OURS:
                final = isinstance(problem, Refused)
                self._failed[key] = (_ATTEMPTS if final else failures + 1, problem)
            raise
        self._failed.pop(key, None)
        return restored

    async def checkpoint(self, name: str, archive: Path, *, deadline_seconds: float) -> None:
        """See Engine. A box becomes an archive that podman can import as well."""
        found = await self._box(name)
        if found is None:
            await self._podman.checkpoint(name, archive, deadline_seconds=deadline_seconds)
            return
        box, places = found
        maker = await self._required()
        finished = await maker.host.programs.freeze(places, deadline_seconds=deadline_seconds)
        if finished.status != 0:
            dump = await _in_thread(looking.text_of, places.folder / runtime.DUMP_LOG)
            watched: tuple[str, ...] = ()
            if criu.is_about_watches(dump) and places.pid():
                watched = await _in_thread(watches.watched_paths, places.pid())
            raise criu.explain("checkpoint", box.name, log=dump, finished=finished, watched=watched)
        failpoint("oci.frozen", box.name)
        stage = maker.host.stages.of(box.stage)
        await archives.write(places, stage, archive)

    async def thaw(self, name: str, *, deadline_seconds: float) -> None:
        """See Engine."""
        found = await self._box(name)
        if found is None:
            await self._podman.thaw(name, deadline_seconds=deadline_seconds)
            return
        maker = await self._required()
        await maker.thaw_in_place(*found, deadline_seconds=deadline_seconds)

    async def remove(self, container: str, *, stop_timeout_seconds: int) -> bool:
        """See Engine."""
        found = await self._box(container)
        if found is None:
            return await self._podman.remove(container, stop_timeout_seconds=stop_timeout_seconds)
        box, places = found
        await looking.stop(box, places, stop_timeout_seconds)
        maker = await self._required()
        await maker.remove(box)
        self._restored.pop(box.container_id, None)
        return True

    async def wait_exit(self, container_id: str) -> None:
        """See Engine."""
        found = await self._box(container_id)
        if found is None:
            await self._podman.wait_exit(container_id)
        elif runtime.is_running(found[1]):
            await proc.ended(found[1].pid())

    async def lost(self, container_id: str) -> str:
        """See Engine."""
        found = await self._box(container_id)
        if found is None:
            return await self._podman.lost(container_id)
        _, places = found
        if not runtime.is_running(places):
            return "its first process ended"
        return await proc.first_of(places.pid(), places.pid("conmon.pid"))

    async def last_words(self, container_id: str) -> str:
        """See Engine."""
        found = await self._box(container_id)
        if found is None:
            return await self._podman.last_words(container_id)
        return podman_words.last_words(await _in_thread(end_of, found[1].log))

    async def pause(self, name: str) -> None:
        """See Engine."""
        found = await self._box(name)
        if found is None:
            await self._podman.pause(name)
        else:
            _freeze(*found, frozen=True)

    async def unpause(self, name: str) -> None:
        """See Engine."""
        found = await self._box(name)
        if found is None:
            await self._podman.unpause(name)
        else:
            _freeze(*found, frozen=False)

    async def rename(self, name: str, new_name: str) -> None:
        """See Engine."""
        found = await self._box(name)
        await self._require_free(new_name)
        if found is None:
            await self._podman.rename(name, new_name)
        else:
            await (await self._required()).rename(found[0], new_name)

    # -- inside a container -----------------------------------------------------------------------

    async def connections(self, container_id: str) -> tuple[str, ...]:
        """See Engine."""
        found = await self._box(container_id)
        if found is None:
            return await self._podman.connections(container_id)
        with contextlib.suppress(OSError):  # it ended; whoever watches it says so
            if runtime.is_running(found[1]):
                return quiesce.disturbing(found[1].pid())
        return ()

    async def memory_bytes(self, container_id: str) -> int:
        """See Engine."""
        found = await self._box(container_id)
        if found is None:
            return await self._podman.memory_bytes(container_id)
        return await _in_thread(proc.resident_bytes, found[1].pid())

    async def memory(self, container_id: str) -> Optional[Memory]:
        """See Weigher."""
        found = await self._box(container_id)
        if found is None:
            return await self._podman.memory(container_id)
        return await _in_thread(proc.memory_of, found[1].pid())

    async def execute(
        self, name: str, command: tuple[str, ...], *, stdin: bytes, timeout_seconds: float
    ) -> Executed:
        """See Engine."""
        found = await self._box(name)
        if found is None:
            return await self._podman.execute(
                name, command, stdin=stdin, timeout_seconds=timeout_seconds
            )
        maker = await self._required()
        finished = await run(
            maker.host.programs.exec_argv(found[1], command),
            deadline_seconds=timeout_seconds,
            stdin=stdin or None,
            merged=True,
        )
        return Executed(finished.status, finished.error_text)

    async def logs(self, name: str, tail: int) -> tuple[str, ...]:
        """See Engine."""
        found = await self._box(name)
        if found is None:
            return await self._podman.logs(name, tail)
        return await _in_thread(looking.lines_of, found[1].log, tail)

    # -- images -----------------------------------------------------------------------------------

    async def image_id(self, image: str) -> str:
        """See Engine."""
        return await self._podman.image_id(image)

    async def image_ids(self, images: tuple[str, ...]) -> dict[str, str]:
        """See Engine."""
        return await self._podman.image_ids(images)

    async def image_bytes(self, image: str) -> int:
        """See Engine."""
        return await self._podman.image_bytes(image)

    async def save_image(self, image: str, archive: Path) -> None:
        """See Engine."""
        await self._podman.save_image(image, archive)

    async def load_image(self, archive: Path, image: str) -> str:
        """See Engine."""
        return await self._podman.load_image(archive, image)

    async def name_image(self, image_id: str, image: str) -> None:
        """See Engine."""
        await self._podman.name_image(image_id, image)

    # -- how --------------------------------------------------------------------------------------

    async def why_not(self) -> Optional[Refused]:
        """See Chooser: what was in the way may be gone by now."""
        self._why_not = None
        try:
            maker = await self._required()
        except Refused as refused:
            return refused
        with contextlib.suppress(OSError):  # looking leaves nothing behind where nothing was
            maker.host.root.rmdir()
        return None

    async def _made(self) -> Optional[Maker]:
        """Return what makes boxes where there may be some; None where none was ever made."""
        if self._maker is None and self._why_not is None:
            root = self._root or state_folder(await self._podman.storage())
            if not await _in_thread(root.exists):
                return None
            await self._look()
        return self._maker

    async def _required(self) -> Maker:
        if self._maker is None and self._why_not is None:
            await self._look()
        if self._maker is None:
            assert self._why_not is not None  # noqa: S101 - one of the two is there
            raise self._why_not
        return self._maker

    async def _look(self) -> None:
        if self._looking is None:  # not in __init__: Python 3.9 binds a lock to the loop of then
            self._looking = asyncio.Lock()
        async with self._looking:
            if self._maker is not None or self._why_not is not None:
                return
            info = await self._podman.info()
            try:
                self._maker = Maker(
                    look(info, self._podman.program, self._podman.layers, root=self._root)
                )
                if self._waiting is not None:
                    self._waiting.set()
            except Refused as refused:
                self._why_not = refused
            except OSError as error:
                self._why_not = unavailable(str(error))

    async def _box(self, name: str) -> Optional[tuple[Box, Places]]:
        maker = await self._made()
        box = maker.host.boxes.find(name) if maker else None
        return (box, maker.places(box)) if maker and box and box.name else None

    async def _require_free(self, name: str) -> None:
        if await self._box(name) is not None:
            raise Permanent(
                "engine.name-taken", f"cannot start {name}: another container has that name"
            )

    def _remember(self, restored: Restored) -> None:
        self._restored[restored.container_id] = restored
        for old in list(self._restored)[:-_REMEMBERED]:
            del self._restored[old]


def _freeze(box: Box, places: Places, *, frozen: bool) -> None:
    """Freeze or thaw all processes of a box."""
    victims.go_first(places.pid(), yes=frozen)
    try:
        runtime.freeze_group(places, frozen=frozen)
    except OSError as error:
        raise runtime.not_running(box.name, runtime.status(places)) from error


async def _in_thread(work: Callable[..., T], *arguments: Any) -> T:
    return await asyncio.get_running_loop().run_in_executor(None, work, *arguments)
