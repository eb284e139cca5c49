"""Making boxes: what surrounds a container, then the container, then nothing of it any more.

Flows in: an archive, a name, ports. Flows out: a running box with how long each step took; failing,
cancelled or killed, something that is written down and can be removed. It decides nothing about
which names or ports there should be.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import socket
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

from poold.agent.engines.base import Published, Restored
from poold.agent.failpoints import failpoint
from poold.agent.journal import read_boot_id
from poold.agent.oci import bundles, kernel, networks
from poold.agent.oci.boxes import Box, Places
from poold.agent.oci.host import OciHost
from poold.agent.oci.slots import Slot, Slots
from poold.agent.oci.stages import Stage, copy_root_mode
from poold.agent.process import finish
from poold.errors import Permanent, Problem
from poold.model.fleet import Phases

_NOSUID_NODEV_NOEXEC = 2 | 4 | 8
_SHM_BYTES = 65536000


class Maker:
    """Makes and removes boxes of one host."""

    def __init__(self, host: OciHost) -> None:
        self.host = host
        self._boot_id = read_boot_id()
        self._owner = _identity(os.getpid())
        self._at_work: set[str] = set()
        self.slots = Slots(self, host.stages.is_wanted)

    def places(self, box: Box) -> Places:
        """Return where a box's things are."""
        return self.host.boxes.places(box.container_id)

    async def restore(
        self,
        archive: Path,
        name: str,
        published: tuple[Published, ...],
        deadline_seconds: float,
        *,
        merge_pages: bool = False,
    ) -> Restored:
        """Restore an archive as a box of that name; failing, nothing of it is left."""
        clock = _Clock()
        with self.slots.paused():
            stage = self.host.stages.ready(archive)
            if stage is None:
                stage = await self.host.stages.get(archive)
                clock.mark("stage")
            self._require_name(name)
            self._require_runtime(stage)
            _require_volumes(stage, name)
            slot = self.slots.take(stage, published)
            if slot is not None:
                slot = self._claim(slot, stage, name)
                clock.mark("claim")
            else:
                slot = await self.slot(stage, published, name)
                clock.mark("slot")
            try:
                await self._thaw(
                    slot.box, stage.images, slot.held, deadline_seconds, merge_pages=merge_pages
                )
            except BaseException:
                slot.let_go()
                with contextlib.suppress(Problem, OSError):
                    await finish(self.remove(slot.box))
                raise
            finally:
                slot.let_go()
                self._at_work.discard(slot.box.container_id)
            clock.mark("runtime")
        return Restored(slot.box.container_id, "oci", clock.phases)

    async def slot(self, stage: Stage, published: tuple[Published, ...], name: str = "") -> Slot:
        """Make all that a checkpoint does not decide; failing, nothing of it is left."""
        held = networks.listen(published)
        try:
            box = await self._write_down(stage, name, published)
            try:
                await self._surround(box, stage)
            except BaseException:
                with contextlib.suppress(Problem, OSError):
                    await finish(self.remove(box))
                self._at_work.discard(box.container_id)
                raise
        except BaseException:
            for each in held:
                each.close()
            raise
        return Slot(box, held)

    def _claim(self, slot: Slot, stage: Stage, name: str) -> Slot:
        """Give a slot its name."""
        try:
            box = self.host.boxes.name(slot.box, name, time.time())
        except BaseException:
            self.slots.put_back(slot)
            raise
        failpoint("oci.claimed", name)
        self._write_names(box, stage)
        return Slot(box, slot.held)

    async def rename(self, box: Box, name: str) -> None:
        """Give a box another name, in one step; then tell it inside, as far as it listens."""
        self._require_name(name)
        await self.host.networks.info(box.network)  # another agent than this one may have made it
        renamed = self.host.boxes.rename(box, name)
        failpoint("oci.renamed", name)
        stage = self.host.stages.of(box.stage)
        with contextlib.suppress(OSError):  # it ended: whoever renames it will see that
            self._write_names(renamed, stage)
            kernel.name_host(self.places(box).pid(), name)

    async def thaw_in_place(self, box: Box, places: Places, *, deadline_seconds: float) -> None:
        """Let a frozen box run on from its own images."""
        if not places.images.exists():
            raise Permanent(
                "criu.restore-failed", f"cannot restore {box.name}: it was not checkpointed"
            )
        await self.host.programs.end(places)
        held = networks.listen(box.published)
        try:
            await self._thaw(box, places.images, held, deadline_seconds)
        finally:
            for each in held:
                each.close()

    async def remove(self, box: Box) -> None:
        """End a box and take everything of it away; its description goes last."""
        places = self.places(box)
        await self.host.programs.end(places)
        failpoint("oci.ended", box.name)
        await self.host.networks.disconnect(box, places)
        failpoint("oci.disconnected", box.name)
        for mounted in (places.rootfs, places.shm):
            kernel.unmount(mounted)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self.host.boxes.forget, box.container_id)
        self._at_work.discard(box.container_id)

    async def sweep(self) -> None:
        """Remove boxes without a name that nobody works on, and stages that nobody needs."""
        boxes = self.host.boxes
        for rubbish in boxes.rubbish():
            boxes.forget(rubbish)
        boxes.prune_names()
        for box in boxes.all():
            if not box.name and not self._is_at_work(box):
                with contextlib.suppress(Problem, OSError):
                    await self.remove(box)
        loop = asyncio.get_running_loop()
        for network in {box.network for box in boxes.all()}:
            with contextlib.suppress(Problem):  # asked now, and not first while a spare is claimed
                await self.host.networks.info(network)
        used = {box.stage for box in boxes.all()}
        await loop.run_in_executor(None, self.host.stages.sweep, used)

    # -- how --------------------------------------------------------------------------------------

    def _is_at_work(self, box: Box) -> bool:
        """Whether this agent, or another one that lives, is making it or keeps it as a slot."""
        if box.owner == self._owner:
            return box.container_id in self._at_work
        pid, _, _ = box.owner.partition(":")
        return pid.isdigit() and _identity(int(pid)) == box.owner

    async def _write_down(self, stage: Stage, name: str, published: tuple[Published, ...]) -> Box:
        info = await self.host.networks.info(stage.template.network)
        box = Box(
            container_id=secrets.token_hex(32),
            name=name,
            stage=stage.key,
            image_id=stage.template.image_id,
            network=info["name"],
            address="",
            published=published,
            boot_id=self._boot_id,
            owner=self._owner,
            labels=dict(stage.template.labels),
            created_at=time.time(),
            started_at=time.time(),
            stop_signal=stage.template.stop_signal,
        )
        self._at_work.add(box.container_id)
        try:
            return self.host.boxes.claim(box, self.host.networks.candidates(info))
        except BaseException:
            self._at_work.discard(box.container_id)
            raise

    async def _surround(self, box: Box, stage: Stage) -> None:
        """Make all that a checkpoint does not decide: network, root file system, bundle."""
        failpoint("oci.written-down", box.name)
        places = self.places(box)
        info = await self.host.networks.info(box.network)
        mount(places, stage)
        failpoint("oci.mounted", box.name)
        await self.host.networks.connect(box, places, info)
        failpoint("oci.connected", box.name)
        self._write_names(box, stage)
        spec = bundles.bundle(
            stage.template,
            places.folder,
            rootfs=places.rootfs,
            namespace=places.namespace,
            group=self.host.programs.group(box.container_id),
            criu_config=stage.criu_config,
        )
        (places.folder / "config.json").write_text(json.dumps(spec), encoding="utf-8")

    def _write_names(self, box: Box, stage: Stage) -> None:
        networks.write_files(
            self.places(box).folder,
            name=box.name,
            host_name=stage.template.host_name,
            address=box.address,
            gateway=self.host.networks.gateway(box.network),
            image=box.image_id,
        )

    async def _thaw(
        self,
        box: Box,
        images: Path,
        held: Sequence[socket.socket],
        deadline_seconds: float,
        *,
        merge_pages: bool = False,
    ) -> None:
        places = self.places(box)
        pid = await self.host.programs.restore(
            *(places, box.name, images, held),
            deadline_seconds=deadline_seconds,
            merge_pages=merge_pages,
        )
        failpoint("oci.thawed", box.name)
        with contextlib.suppress(OSError):  # it ended at once: its probe will say so
            kernel.name_host(pid, box.name)

    def _require_runtime(self, stage: Stage) -> None:
        """See that the runtime is the one that froze it: the others do not know its mounts."""
        if Path(self.host.programs.runtime).name != stage.template.runtime:
            raise bundles.unsupported(f"it was frozen through {stage.template.runtime}")

    def _require_name(self, name: str) -> None:
        """See that podman has no container of that name, by its own list on disk."""
        folder = self.host.graph_root / self.host.containers_folder
        for file in ("containers.json", "volatile-containers.json"):
            with contextlib.suppress(OSError, ValueError):
                for entry in json.loads((folder / file).read_bytes()) or ():
                    if name in (entry.get("names") or ()):
                        raise Permanent(
                            "engine.name-taken",
                            f"cannot restore {name}: another container has that name",
                        )


def mount(places: Places, stage: Stage) -> None:
    """Mount a box's root file system and its shared memory."""
    for folder in (places.upper, places.work, places.rootfs, places.shm):
        folder.mkdir()
    (places.folder / "exits").mkdir()
    copy_root_mode(stage.lowers[1], places.upper)
    kernel.mount_overlay(places.rootfs, stage.lowers, places.upper, places.work)
    size = stage.template.shm_bytes or _SHM_BYTES
    kernel.mount("tmpfs", places.shm, f"mode=1777,size={size}", _NOSUID_NODEV_NOEXEC)
    if stage.shared_memory.exists():
        with tarfile.open(stage.shared_memory) as archive:
            if len(archive.getmembers()) > 1:
                archive.extractall(places.shm)  # noqa: S202 - podman's own, verified


def _require_volumes(stage: Stage, name: str) -> None:
    for source in stage.template.volumes:
        if not Path(source).exists():
            raise Permanent(
                "volume.missing",
                f"cannot restore {name}: the volume's folder {source} is not on this host",
                hint="create it on every host of the pool",
            )


def _identity(pid: int) -> str:
    """Return what tells a process from a later one of the same id; "" when it is gone."""
    with contextlib.suppress(OSError):
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        return f"{pid}:{started}"
    return ""


class _Clock:
    """Cuts the time since it was made into phases."""

    def __init__(self) -> None:
        self.phases: Phases = {}
        self._last = time.monotonic()

    def mark(self, phase: str) -> None:
        now = time.monotonic()
        self.phases[phase] = round(now - self._last, 4)
        self._last = now
