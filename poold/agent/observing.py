"""One look at the host: what is there, and sweeping up what no running action owns.

Flows in: Observe. Flows out: an Observation from one listing of containers and the agent's own
files. Only the agent's own left-overs are removed: scratch folders, build and proof containers of
this fleet, records without a container. What a replica should be is not known here.
"""

from __future__ import annotations

import contextlib
import logging
import platform
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Optional

from poold.agent.bringup import BUILD, POOL, is_ours
from poold.agent.builds import BUILD_PREFIX, PROOF_PREFIX
from poold.agent.engines.base import Container, Engine, Weigher
from poold.agent.folders import Folders
from poold.agent.generations import Generations
from poold.agent.journal import read_boot_id
from poold.agent.messages import ContainerFact, Observation, Observe
from poold.agent.records import Record, Records
from poold.agent.space import tightest
from poold.agent.spares import SPARE_PREFIX, spare_name
from poold.errors import Problem
from poold.model.fleet import Memory

log = logging.getLogger(__name__)

_STALE_SECONDS = 3600.0  # a temporary image archive that nobody fetched


class Observing:
    """Looks at this host. `running` tells the ids of the actions under way, `busy` their names.

    `silence` tells why a container counts as dead though it runs, "" for others.
    """

    def __init__(
        self,
        folders: Folders,
        engine: Engine,
        records: Records,
        store: Generations,
        running: Callable[[], tuple[str, ...]],
        busy: Callable[[str], bool],
        silence: Callable[[str], str] = lambda _: "",
    ) -> None:
        self._folders = folders
        self._engine = engine
        self._records = records
        self._generations = store
        self._running = running
        self._busy = busy
        self._silence = silence

    async def observe(self, request: Observe) -> Observation:
        """Look and sweep.

        What exists is listed before the running actions are: what was there before and belongs to
        none of them has lost its action.
        """
        records = self._records.all()
        scratch = list(self._folders.work.iterdir())
        containers = await self._engine.containers()
        running = self._running()
        self._sweep_files(scratch, running)
        self._forget_gone(records, containers, request.fleet)
        kept = await self._sweep_containers(containers, running, request.fleet)
        facts = [await self._fact(container, records, request, running) for container in kept]
        free, reserve = await self._disk()
        return Observation(
            boot_id=read_boot_id(),
            now=time.time(),
            containers=tuple(fact for fact in facts if fact.ours or fact.name in request.names),
            generations=self._generations.list(),
            running_actions=running,
            facts=await self._facts(),
            images=await self._images(request.images),
            disk_free_bytes=free,
            disk_reserve_bytes=reserve,
            memory_free_bytes=memory_free_bytes(),
            memory=await self._memory(facts),
        )

    async def _memory(self, facts: list[ContainerFact]) -> dict[str, Memory]:
        """Return what each of our replicas that runs has of the host's memory."""
        found: dict[str, Memory] = {}
        if isinstance(self._engine, Weigher):
            for fact in facts:
                if fact.ours and fact.running and fact.role == "replica":
                    memory = await self._engine.memory(fact.container_id)
                    if memory is not None:
                        found[fact.container_id] = memory
        return found

    async def _disk(self) -> tuple[int, int]:
        """Return what is free and what is to stay free, where the least is left to write."""
        places = (self._folders.root, await self._engine.storage())
        left = tightest(places, self._folders.reserve)
        return left.free_bytes, left.reserve_bytes

    async def _fact(
        self,
        container: Container,
        records: dict[str, Record],
        request: Observe,
        running: tuple[str, ...],
    ) -> ContainerFact:
        if not is_ours(container, request.fleet):
            return ContainerFact(
                container.name, container.container_id, False, "", "foreign", container.running,
                container.status,
            )  # fmt: skip
        record = records.get(container.name)
        if record is not None and record.container_id != container.container_id:
            record = None
        role: str = "replica"
        if container.name.startswith(BUILD_PREFIX):
            role = "build"
        elif container.name.startswith(PROOF_PREFIX):
            role = "proof"
        elif container.name.startswith(SPARE_PREFIX):
            role = "spare"
        elif record is not None and record.frozen:
            role = "captured"
        silence = self._silence(container.container_id)
        is_dead = record is not None and role == "replica" and not container.running
        return ContainerFact(
            name=container.name,
            container_id=container.container_id,
            ours=True,
            pool=container.labels.get(POOL, ""),
            role=role,  # type: ignore[arg-type]
            running=container.running,
            status=(container.running and silence) or container.status,
            build=_owner(container, running),
            digest=record.digest if record else "",
            method=record.method if record else "",
            address=record.address if record else "",
            started_at=record.started_at if record else container.started_at,
            ready=_is_ready(container, record) and not silence,
            last_words=await self._engine.last_words(container.container_id) if is_dead else "",
            engine=record.engine if record else "",
        )

    def _sweep_files(self, scratch: list[Path], running: tuple[str, ...]) -> None:
        for folder in scratch:
            if folder.name not in running:
                shutil.rmtree(folder, ignore_errors=True)
        for archive in self._folders.images.iterdir():
            with contextlib.suppress(OSError):
                if time.time() - archive.stat().st_mtime > _STALE_SECONDS:
                    archive.unlink()

    def _forget_gone(
        self, records: dict[str, Record], containers: tuple[Container, ...], fleet: str
    ) -> None:
        """Forget replicas whose container went away; one replaced meanwhile is kept.

        A spare whose container has another name was being claimed when the agent died.
        """
        present = {container.container_id: container.name for container in containers}
        for name, record in list(records.items()):
            known_as = present.get(record.container_id)
            if (
                record.fleet == fleet
                and (known_as is None or (record.spare and known_as != name))
                and not self._busy(name)
            ):
                seen = record.container_id
                self._records.forget(name, unless=lambda now, seen=seen: now.container_id != seen)  # type: ignore[misc]
                del records[name]

    async def _sweep_containers(
        self, containers: tuple[Container, ...], running: tuple[str, ...], fleet: str
    ) -> list[Container]:
        """Remove builds and proofs of this fleet whose action is gone; return what is left.

        One that cannot be removed must not hide the host: it stays listed, and is tried again.
        """
        kept = []
        for container in containers:
            temporary = container.name.startswith((BUILD_PREFIX, PROOF_PREFIX))
            owned = _owner(container, running) in running
            left_over = temporary and is_ours(container, fleet) and not owned
            left_over = left_over or (
                container.name.startswith(SPARE_PREFIX)
                and is_ours(container, fleet)
                and await self._is_half_a_spare(container, running)
            )
            if not (left_over and await self._is_removed(container)):
                kept.append(container)
        return kept

    async def _is_half_a_spare(self, container: Container, running: tuple[str, ...]) -> bool:
        """Whether whoever made a spare died before it was recorded.

        The record is read now and not when the listing began: it is written before its action ends.
        One that was claimed meanwhile has another name by now, and had it before its record went.
        """
        name = container.name
        if any(spare_name(action) == name for action in running) or self._busy(name):
            return False
        record = self._records.read(name)
        if record is not None and record.spare and record.container_id == container.container_id:
            return False
        now = await self._engine.find(container.container_id)
        return now is not None and now.name == name and not self._busy(name)

    async def _is_removed(self, container: Container) -> bool:
        try:
            await self._engine.remove(container.container_id, stop_timeout_seconds=0)
        except Problem as problem:
            log.warning("cannot sweep up %s: %s", container.name, problem)
            return False
        return True

    async def _images(self, names: tuple[str, ...]) -> dict[str, str]:
        """Return what names of images mean; what cannot be found out must not hide the host."""
        try:
            return await self._engine.image_ids(names) if names else {}
        except Problem as problem:
            log.warning("cannot look up images: %s", problem)
            return {}

    async def _facts(self) -> dict[str, str]:
        versions = await self._engine.versions()
        return {
            "engine": versions.engine,
            "runtime": versions.runtime,
            "criu": versions.criu,
            "kernel": platform.release(),
            "machine": platform.machine(),
            "python": platform.python_version(),
        }


def _is_ready(container: Container, record: Optional[Record]) -> bool:
    """Whether it passed readiness and lives; podman says of a frozen one that it does not run."""
    if record is None or record.frozen:
        return False
    return container.running or (record.spare and container.status == "paused")


def _owner(container: Container, running: tuple[str, ...]) -> str:
    """Return the action that a container belongs to: by its name, while that action runs.

    The label of a restored container is its checkpoint's: it names the build, not who restored it.
    """
    for prefix in (BUILD_PREFIX, PROOF_PREFIX):
        if container.name.startswith(prefix):
            short = container.name[len(prefix) :].partition("-")[0]
            for action in running:
                if short and action.startswith(short):
                    return action
    return container.labels.get(BUILD, "")


def memory_free_bytes(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Return what can be allocated without swapping, by the kernel's estimate."""
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
