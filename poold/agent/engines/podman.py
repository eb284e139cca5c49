"""Engine podman: the commands of the original article, by its command line.

Flows in: names, archives, ports. Flows out: facts read from podman's JSON, errors in the operator's
words. Options that matter are explained where they are given.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

from poold.agent import criu, criu_log, proc, quiesce, victims, watches
from poold.agent.engines import podman_words as words
from poold.agent.engines.base import Container, Executed, Launch, Published, Versions
from poold.agent.engines.image_names import ImageNames
from poold.agent.engines.podman_words import Installation
from poold.agent.oci import kernel
from poold.agent.process import CommandFailed, Finished, check, run
from poold.agent.space import require_space
from poold.errors import Permanent, Problem, Refused, Temporary
from poold.model.fleet import Memory

_QUERY_SECONDS = 30.0
_LAST_BYTES = 4096  # of the log in which the last line is looked for
_RUN_SECONDS = 300.0  # an image may have to be pulled
_REMOVE_SECONDS = 30.0  # on top of the container's own time to stop
_IMAGE_SECONDS = 900.0
# Stopped half-way, podman leaves conmon behind, which brings the container up all the same.
FINISHING_SECONDS = 5.0
_ORPHAN_SECONDS = 3.0


class PodmanEngine:
    """The podman of this host, as root."""

    name = "podman"

    def __init__(self, program: str = "podman") -> None:
        self.program = self._program = program
        self._info: Optional[Installation] = None
        self._asking: Optional[asyncio.Lock] = None
        self._image_names = ImageNames(self.image_id)

    # -- what is there ----------------------------------------------------------------------------

    async def versions(self, *, again: bool = False) -> Versions:
        """See Engine."""
        if again:
            self._info = None
        return (await self._facts()).versions

    async def storage(self) -> Path:
        """See Engine."""
        return (await self._facts()).graph_root

    async def containers(self) -> tuple[Container, ...]:
        """See Engine."""
        listing = await self._json("ps", "--all", "--no-trunc", "--format", "json")
        facts = await self._facts()
        return tuple(as_it_is(entry, facts) for entry in listing)

    async def find(self, name: str) -> Optional[Container]:
        """See Engine."""
        for container in await self.containers():
            if name in (container.name, container.container_id):
                return container
        return None

    # -- life of a container ----------------------------------------------------------------------

    async def run(self, launch: Launch) -> str:
        """See Engine."""
        environment = await asyncio.get_running_loop().run_in_executor(
            None, _write_environment, launch
        )
        try:
            argv = [self._program, *words.run_arguments(launch, environment)]
            finished = await run(
                argv, deadline_seconds=_RUN_SECONDS, finishing_seconds=FINISHING_SECONDS
            )
        finally:
            environment.unlink()
        if finished.status != 0:
            raise words.explain_start(finished, launch)
        return words.container_id(finished)

    async def checkpoint(self, name: str, archive: Path, *, deadline_seconds: float) -> None:
        """See Engine. `--keep` leaves CRIU's log where its refusal can be read."""
        arguments = ("checkpoint", "--keep", "--compress", "none", "--export", str(archive), name)
        await self._by_criu("checkpoint", name, arguments, deadline_seconds)

    async def restore(
        self,
        archive: Path,
        name: str,
        published: tuple[Published, ...],
        *,
        deadline_seconds: float,
        merge_pages: bool = False,
    ) -> str:
        """See Engine. podman unpacks the archive beside the container first."""
        require_space([(await self.storage(), _size(archive))], f"restore {name}")
        arguments = ("restore", "--import", str(archive), "--name", name)
        ports = words.publish_arguments(published)
        finished = await self._by_criu(
            "restore", name, (*arguments, *ports), deadline_seconds, merge_pages=merge_pages
        )
        return words.container_id(finished)

    async def thaw(self, name: str, *, deadline_seconds: float) -> None:
        """See Engine."""
        await self._by_criu("restore", name, ("restore", "--keep", name), deadline_seconds)

    async def remove(self, container: str, *, stop_timeout_seconds: int) -> bool:
        """See Engine. Anonymous volumes go with their container."""
        wait = str(stop_timeout_seconds)
        conmon = (await self._facts()).pid(container, "conmon.pid")
        finished = await run(
            [self._program, "rm", "--force", "--volumes", "--time", wait, container],
            deadline_seconds=stop_timeout_seconds + _REMOVE_SECONDS,
        )
        if finished.status != 0 and "no such container" not in finished.error_text.lower():
            raise Temporary(
                "engine.remove-failed",
                f"cannot remove the container {container}",
                hint=f"run it by hand: {finished.command}",
                detail=finished.error_text,
            )
        if conmon:
            await self._end_orphan(container, conmon)
        return bool(finished.stdout.strip())

    async def pause(self, name: str) -> None:
        """See Engine."""
        await check([self._program, "pause", name], deadline_seconds=_QUERY_SECONDS)
        victims.go_first((await self._facts()).pid(name), yes=True)

    async def unpause(self, name: str) -> None:
        """See Engine."""
        victims.go_first((await self._facts()).pid(name), yes=False)
        await check([self._program, "unpause", name], deadline_seconds=_QUERY_SECONDS)

    async def rename(self, name: str, new_name: str) -> None:
        """See Engine."""
        finished = await run(
            [self._program, "rename", name, new_name], deadline_seconds=_QUERY_SECONDS
        )
        if finished.status != 0:
            raise words.explain_rename(finished, name, new_name)

    async def wait_exit(self, container_id: str) -> None:
        """See Engine."""
        pid = await self._pid(container_id)
        if pid:
            await proc.ended(pid)

    async def lost(self, container_id: str) -> str:
        """See Engine. By process: podman has no event for a container whose conmon was killed.

        Only the pid files are asked: after a reboot every replica on record is gone at once.
        """
        facts = await self._facts()
        return await proc.first_of(facts.pid(container_id), facts.pid(container_id, "conmon.pid"))

    async def last_words(self, container_id: str) -> str:
        """See Engine. From podman's log file: podman itself would take 50 ms and more for it."""
        path = (await self._facts()).log(container_id, "ctr.log")
        loop = asyncio.get_running_loop()
        return words.last_words(await loop.run_in_executor(None, end_of, path))

    # -- inside a container -----------------------------------------------------------------------

    async def connections(self, container_id: str) -> tuple[str, ...]:
        """See Engine."""
        pid = await self._pid(container_id)
        try:
            return quiesce.disturbing(pid) if pid else ()
        except OSError:
            return ()  # it ended; whoever watches it says so

    async def memory_bytes(self, container_id: str) -> int:
        """See Engine: the resident memory of all processes of its PID namespace."""
        pid = await self._pid(container_id)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, proc.resident_bytes, pid) if pid else 0

    async def memory(self, container_id: str) -> Optional[Memory]:
        """See Weigher."""
        pid = (await self._facts()).pid(container_id)
        if not pid:
            return None
        return await asyncio.get_running_loop().run_in_executor(None, proc.memory_of, pid)

    async def execute(
        self, name: str, command: tuple[str, ...], *, stdin: bytes, timeout_seconds: float
    ) -> Executed:
        """See Engine. podman 5.8 may lose the output of a command that does not read its input."""
        interactive = ("--interactive",) if stdin else ()
        finished = await run(
            [self._program, "exec", *interactive, name, *command],
            deadline_seconds=timeout_seconds,
            stdin=stdin or None,
            merged=True,
        )
        return Executed(finished.status, finished.error_text)

    async def logs(self, name: str, tail: int) -> tuple[str, ...]:
        """See Engine."""
        finished = await run(
            [self._program, "logs", "--tail", str(tail), name],
            deadline_seconds=_QUERY_SECONDS,
            merged=True,
        )
        if finished.status != 0:
            raise CommandFailed(finished)
        return tuple(finished.stdout.decode(errors="replace").splitlines()[-tail:])

    # -- images -----------------------------------------------------------------------------------

    async def image_id(self, image: str) -> str:
        """See Engine."""
        finished = await run(
            [self._program, "image", "inspect", "--format", "{{.Id}}", image],
            deadline_seconds=_QUERY_SECONDS,
        )
        return finished.stdout.decode().strip() if finished.status == 0 else ""

    async def image_ids(self, images: tuple[str, ...]) -> dict[str, str]:
        """See Engine. From the storage's own file, and by podman what is not in there."""
        return await self._image_names.ids(images, (await self._facts()).images_file)

    async def image_bytes(self, image: str) -> int:
        """See Engine: its layers as they are stored."""
        argv = [self._program, "image", "inspect", "--format", "{{.Size}}", image]
        finished = await run(argv, deadline_seconds=_QUERY_SECONDS)
        size = finished.stdout.strip()
        return int(size) if finished.status == 0 and size.isdigit() else 0

    async def save_image(self, image: str, archive: Path) -> None:
        """See Engine. An image saved in another format than its own comes back as another one."""
        inspected = await self._json("image", "inspect", image)
        is_docker = "docker" in str(inspected[0].get("ManifestType", ""))
        kind = "docker-archive" if is_docker else "oci-archive"
        argv = [self._program, "image", "save", "--quiet", "--format", kind]
        await check([*argv, "--output", str(archive), image], deadline_seconds=_IMAGE_SECONDS)

    async def load_image(self, archive: Path, image: str) -> str:
        """See Engine."""
        argv = [self._program, "image", "load", "--quiet", "--input", str(archive)]
        loaded = await check(argv, deadline_seconds=_IMAGE_SECONDS)
        name = loaded.stdout.decode().strip().rpartition(" ")[2]
        found = await self.image_id(name) or await self.image_id(image)
        if found and not await self.image_id(image):  # saved by its id, or under another name
            await self.name_image(found, image)
        return found

    async def name_image(self, image_id: str, image: str) -> None:
        """See Engine."""
        argv = [self._program, "image", "tag", image_id, image]
        await check(argv, deadline_seconds=_QUERY_SECONDS)

    # -- how ---------------------------------------------------------------------------------------

    async def _json(self, *arguments: str) -> Any:
        finished = await check([self._program, *arguments], deadline_seconds=_QUERY_SECONDS)
        try:
            return json.loads(finished.stdout or b"[]") or []
        except ValueError as error:
            raise Permanent(
                "engine.bad-answer",
                f"cannot read what podman answered to {finished.command}",
                detail=finished.stdout[:500].decode(errors="replace"),
            ) from error

    async def info(self) -> Mapping[str, Any]:
        """Return what `podman info` says."""
        return (await self._facts()).info

    async def layers(self, image: str) -> tuple[Path, ...]:
        """Return the folders of an image's layers, the uppermost first."""
        inspected = await run(
            [self._program, "image", "inspect", image], deadline_seconds=_QUERY_SECONDS
        )
        if inspected.status != 0:
            raise Permanent(
                "image.missing", f"cannot find the image {image[:12]}", detail=inspected.error_text
            )
        found = json.loads(inspected.stdout)[0]["GraphDriver"]["Data"]
        return (
            Path(found["UpperDir"]),
            *map(Path, filter(None, found.get("LowerDir", "").split(":"))),
        )

    async def _facts(self) -> Installation:
        if self._asking is None:  # not in __init__: Python 3.9 binds a lock to the loop of then
            self._asking = asyncio.Lock()
        async with self._asking:
            if self._info is None:
                info, criu_said = await asyncio.gather(
                    self._json("info", "--format", "json"), _criu_version()
                )
                self._info = words.read_installation(info, criu_said)
            return self._info

    async def _pid(self, container_id: str) -> int:
        """Return the first process's id, from conmon's pid file: podman would take 50 ms for it."""
        pid = (await self._facts()).pid(container_id)
        if pid:
            return pid
        inspected = await run(
            [self._program, "inspect", "--format", "{{.State.Pid}}", container_id],
            deadline_seconds=_QUERY_SECONDS,
        )
        return int(inspected.stdout or 0) if inspected.status == 0 else 0

    async def _end_orphan(self, container_id: str, conmon: int) -> None:
        """End what podman forgot: conmon survives a podman that was killed while it restored.

        conmon ends with its container, within milliseconds; one that does not has brought up a
        container that podman knows nothing of.
        """
        runtime = (await self._facts()).versions.runtime.split()[0]
        deadline = time.monotonic() + _ORPHAN_SECONDS
        while time.monotonic() < deadline:
            if await _ends_within(conmon, 0.5):
                return
            argv = [runtime, "delete", "--force", container_id]
            await run(argv, deadline_seconds=_QUERY_SECONDS)

    async def _by_criu(
        self,
        doing: criu.Doing,
        name: str,
        arguments: tuple[str, ...],
        deadline_seconds: float,
        *,
        merge_pages: bool = False,
    ) -> Finished:
        """Run what podman has CRIU do; whatever goes wrong has the words of CRIU's log."""
        began = time.time()
        try:
            finished = await run(
                [self._program, "container", *arguments],
                deadline_seconds=deadline_seconds,
                finishing_seconds=FINISHING_SECONDS,
                first=kernel.ask_for_merging if merge_pages else None,
            )
        except Temporary as late:
            late.detail = criu.evidence(await self._criu_log(doing, name, began))
            raise
        if finished.status == 0:
            return finished
        log = await self._criu_log(doing, name, began)
        problem = words.explain_restore(finished, name) if doing == "restore" else None
        if problem is None:
            watched = await self._watched(name) if criu.is_about_watches(log) else ()
            raise criu.explain(doing, name, log=log, finished=finished, watched=watched)
        problem.detail = criu.evidence(log, finished)
        raise problem

    async def _criu_log(self, doing: criu.Doing, name: str, began: float) -> str:
        """Return CRIU's log of the container; "" where CRIU was not reached."""
        with contextlib.suppress(Problem):
            container = await self.find(name)
            if container is not None:
                file = "dump.log" if doing == "checkpoint" else "restore.log"
                path = (await self._facts()).log(container.container_id, file)
                loop = asyncio.get_running_loop()
                read = functools.partial(criu_log.read, path, since=began)
                return await loop.run_in_executor(None, read)
        return ""

    async def _watched(self, name: str) -> tuple[str, ...]:
        """Name what the container watches; it runs on after a refused dump."""
        with contextlib.suppress(Problem, asyncio.TimeoutError):
            container = await self.find(name)
            if container is not None:
                pid = await self._pid(container.container_id)
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(None, watches.watched_paths, pid)
        return ()


def as_it_is(entry: dict[str, Any], facts: Installation) -> Container:
    """Read an entry of podman's listing, but for what podman has not noticed.

    For a moment after its end, and for ever when conmon was killed, podman lists a container as
    running. One without conmon is lost even if it still runs: nobody reads its output, and podman
    will never know of its end.
    """
    container = words.container(entry)
    if not container.running:
        return container
    pid, conmon = int(entry.get("Pid") or 0), facts.pid(container.container_id, "conmon.pid")
    if pid and not proc.is_alive(pid):
        return replace(container, running=False, status="ended")
    if conmon and not proc.is_alive(conmon):
        return replace(container, running=False, status="without conmon")
    return container


def end_of(path: Path) -> bytes:
    """Return the end of a log; b"" when it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _LAST_BYTES))
            return file.read()
    except OSError:
        return b""


def _size(archive: Path) -> int:
    return archive.stat().st_size


def _write_environment(launch: Launch) -> Path:
    """Write the variables into a private file: they may be secrets, and argv can be read by all."""
    for name, value in launch.application.env.items():
        if "\n" in value or "\n" in name or "=" in name or not name:
            raise Refused(
                "application.bad-environment",
                f"cannot give the variable {name!r} to {launch.name}: its name is empty or has a"
                " '=', or it spans lines",
                hint="mount a file with the text instead, as a volume",
            )
    path = launch.scratch / "environment"
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.writelines(f"{name}={value}\n" for name, value in launch.application.env.items())
    return path


async def _criu_version() -> str:
    """Return what `criu --version` says; "" where there is no CRIU."""
    try:
        answer = await run(["criu", "--version"], deadline_seconds=_QUERY_SECONDS)
    except Problem:
        return ""
    return answer.stdout.decode(errors="replace")


async def _ends_within(pid: int, seconds: float) -> bool:
    try:
        await asyncio.wait_for(proc.ended(pid), seconds)
    except asyncio.TimeoutError:
        return False
    return True
