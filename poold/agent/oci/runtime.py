"""The OCI runtime's calls: restore under conmon, freeze, run a command, take away.

Flows in: a box's folder with its bundle, CRIU's images. Flows out: the id of the first process, or
a Problem with CRIU's log as evidence. It makes nothing that the bundle names and decides nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from poold.agent import criu, proc
from poold.agent.oci import kernel
from poold.agent.oci.boxes import Places
from poold.agent.process import Finished, clean_environment, finish, run
from poold.errors import Permanent, Problem, Temporary

RESTORE_LOG, DUMP_LOG = "restore.log", "dump.log"
_CONMON_GROUP = "poold-conmon"
_LOG_BYTES = 10_000_000
_DELETE_SECONDS = 20.0
_END_SECONDS = 3.0
_ROUNDS = 5
_RUNTIME_STATE = Path("/run/runc")


@dataclass(frozen=True)
class Programs:
    """What is called, by path. `systemd` is whether it makes the control groups."""

    conmon: str
    runtime: str
    systemd: bool

    def group(self, container_id: str) -> str:
        """Return the control group of a box, as the runtime wants it named."""
        if self.systemd:
            return f"machine.slice:poold:{container_id}"
        return f"/poold/{container_id}"

    @property
    def _systemd_options(self) -> list[str]:
        return ["--systemd-cgroup"] if self.systemd else []

    async def restore(
        self,
        places: Places,
        name: str,
        images: Path,
        held: Sequence[socket.socket],
        *,
        deadline_seconds: float,
        merge_pages: bool = False,
    ) -> int:
        """Thaw and return the first process's id; `held` are sockets that conmon is to keep.

        Failing or cancelled, nothing of it runs any more.
        """
        for file in ("pidfile", "conmon.pid", RESTORE_LOG):
            with contextlib.suppress(FileNotFoundError):
                (places.folder / file).unlink()
        reading, writing = os.pipe()
        os.set_inheritable(writing, True)
        descriptors = [each.fileno() for each in held]
        try:
            child = await asyncio.create_subprocess_exec(
                *self._conmon(places, name, images),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                env=clean_environment({"_OCI_SYNCPIPE": str(writing)}),
                pass_fds=[writing, *descriptors],
                start_new_session=True,
                preexec_fn=kernel.ask_for_merging if merge_pages else None,
            )
        finally:
            os.close(writing)
        try:
            said = await asyncio.wait_for(_read_line(reading), deadline_seconds)
            await child.wait()
        except BaseException as error:
            await finish(self.end(places))
            if isinstance(error, asyncio.TimeoutError):
                raise Temporary(
                    "command.timeout",
                    f"cannot restore {name} within {deadline_seconds:g} s",
                    hint="look at the load of this host",
                ) from error
            raise
        finally:
            os.close(reading)
        pid, message = _understand(said)
        if pid <= 0:
            problem = self._explain(places, name, images, message)
            await finish(self.end(places))
            raise problem
        conmon = places.pid("conmon.pid")
        if conmon:
            kernel.move_to_group(conmon, _CONMON_GROUP)
        return pid

    def _conmon(self, places: Places, name: str, images: Path) -> list[str]:
        folder, container_id = places.folder, places.folder.name
        return [
            *(self.conmon, "--api-version", "1", "-c", container_id, "-u", container_id),
            *("-r", self.runtime, "-b", str(folder), "-p", str(folder / "pidfile"), "-n", name),
            *("--exit-dir", str(folder / "exits"), "--full-attach"),
            *(["-s"] if self.systemd else []),
            *("-l", f"k8s-file:{places.log}", "--log-size-max", str(_LOG_BYTES)),
            *("--log-level", "error", "--conmon-pidfile", str(folder / "conmon.pid")),
            *("--runtime-arg", "--log-format=json", "--runtime-arg", f"--log={folder}/oci-log"),
            *("--restore", str(images)),
            *("--runtime-opt", "--manage-cgroups-mode", "--runtime-opt", "ignore"),
        ]

    def restore_argv(self, places: Places, images: Path) -> list[str]:
        """Return the runtime's restore by itself, which leaves the first process's id behind."""
        return [
            *(self.runtime, *self._systemd_options, "restore", "--detach"),
            *("--manage-cgroups-mode", "ignore", "--bundle", str(places.folder)),
            *("--image-path", str(images), "--work-path", str(places.folder)),
            *("--pid-file", str(places.folder / "pidfile"), places.folder.name),
        ]

    def _explain(self, places: Places, name: str, images: Path, message: str) -> Problem:
        said = "\n".join(filter(None, (message, *_messages(places.folder / "oci-log"))))
        finished = Finished(tuple(self.restore_argv(places, images)), 1, b"", said.encode())
        log = ""
        with contextlib.suppress(OSError):
            log = (places.folder / RESTORE_LOG).read_text("utf-8", "replace")
        return criu.explain("restore", name, log=log, finished=finished)

    async def end(self, places: Places) -> None:
        """End everything that runs of a box, whatever state it is in.

        A runtime that was killed half-way left no state to delete by, and what CRIU has made so far
        or conmon is about to make: all of that is in the box's network, or has its id as argument.
        """
        argv = [self.runtime, "delete", "--force", places.folder.name]
        await run(argv, deadline_seconds=_DELETE_SECONDS)
        conmon = places.pid("conmon.pid")
        if conmon and _is_ours(conmon, places):
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(proc.ended(conmon), _END_SECONDS)
        loop = asyncio.get_running_loop()
        for _ in range(_ROUNDS):
            left = await loop.run_in_executor(None, _processes, places)
            if not left:
                _remove_state(places)
                return
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for pid in left:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(proc.ended(pid), _END_SECONDS)
            await run(argv, deadline_seconds=_DELETE_SECONDS)
        raise Temporary(
            "engine.remove-failed",
            f"cannot end the processes of the container {places.folder.name[:12]}: {left}",
            hint="look at what they wait for: ps -o pid,stat,wchan:32,args",
        )

    async def freeze(self, places: Places, *, deadline_seconds: float) -> Finished:
        """Write CRIU's images beside the box and end it; its settings come from the bundle."""
        shutil.rmtree(places.images, ignore_errors=True)
        places.images.mkdir(mode=0o700)
        argv = [
            *(self.runtime, *self._systemd_options, "checkpoint", "--manage-cgroups-mode"),
            *("ignore", "--image-path", str(places.images), "--work-path", str(places.folder)),
            places.folder.name,
        ]
        return await run(argv, deadline_seconds=deadline_seconds)

    def exec_argv(self, places: Places, command: Sequence[str]) -> list[str]:
        """Return the command that runs one inside the container, as its own user."""
        return [self.runtime, "exec", places.folder.name, *command]


def is_running(places: Places) -> bool:
    """Whether the first process lives and conmon minds it: it is conmon's child then."""
    pid, conmon = places.pid(), places.pid("conmon.pid")
    return bool(pid and conmon and proc.is_alive(pid) and _parent(pid) == conmon)


def status(places: Places) -> str:
    """Say in a word how a box is."""
    if is_running(places):
        return "running"
    pid = places.pid()
    if pid and proc.is_alive(pid) and _is_in_namespace(pid, places):
        return "without conmon"
    return "exited" if pid else "created"


def _is_in_namespace(pid: int, places: Places) -> bool:
    """Whether a process is of this box: ids are used again."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/ns/net").stat().st_ino == places.namespace.stat().st_ino
    return False


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _remove_state(places: Places) -> None:
    """Take away what a runtime that was killed in a restore leaves: its mount, its folder.

    `runc delete` knows a container by its state.json only, which is written last.
    """
    state = _RUNTIME_STATE / places.folder.name
    if state.exists() and not (state / "state.json").exists():
        kernel.unmount(state / "criu-root")
        shutil.rmtree(state, ignore_errors=True)


def _processes(places: Places) -> list[int]:
    """Return everything that runs for a box: conmon, the runtime, CRIU, the container."""
    found = (int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit())
    return [pid for pid in found if _is_ours(pid, places) and proc.is_alive(pid)]


def _is_ours(pid: int, places: Places) -> bool:
    """Whether a process was started for a box. Never the agent: its arguments name no box."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if places.folder.name.encode() in words:
            return True
    return _is_in_namespace(pid, places)


async def _read_line(descriptor: int) -> bytes:
    """Read what conmon says, up to the first line's end or the pipe's."""
    loop = asyncio.get_running_loop()
    os.set_blocking(descriptor, False)
    said = b""
    while not said.endswith(b"\n"):
        ready = asyncio.Event()
        loop.add_reader(descriptor, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(descriptor)
        chunk = os.read(descriptor, 65536)
        if not chunk:
            break
        said += chunk
    return said


def _understand(said: bytes) -> tuple[int, str]:
    """Return the process's id, or a number below one and conmon's message."""
    try:
        answer = json.loads(said)
        return int(answer.get("data", answer.get("pid", -1))), str(answer.get("message", ""))
    except (ValueError, AttributeError):
        return -1, said.decode(errors="replace") or "conmon ended without a word"


def _messages(path: Path) -> list[str]:
    """Return what the runtime wrote to its log, a line of JSON each, without the warnings."""
    found = []
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text("utf-8", "replace").splitlines():
            entry = json.loads(line)
            if entry.get("level") != "warning":
                found.append(str(entry.get("msg", "")))
    return found


def not_running(name: str, how: str) -> Permanent:
    """Say that a container does not run."""
    return Permanent("engine.not-running", f"cannot use {name}: it is {how}")


def freeze_group(places: Places, *, frozen: bool) -> None:
    """Freeze or thaw the processes of a box; FileNotFoundError when none runs."""
    group = kernel.cgroup_of(places.pid())
    (group / "cgroup.freeze").write_text("1" if frozen else "0")
