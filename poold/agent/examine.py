"""Examining a host: each thing that checkpoints and restores need, looked at or tried.

Flows in: the caller's clock. Flows out: findings, each with what, why and the way out. Every check
is bounded and none can end another; nothing on the host is changed.
"""

from __future__ import annotations

import asyncio
import os
import platform
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from poold.agent.criu_trial import try_criu
from poold.agent.engines.base import Chooser, Engine
from poold.agent.folders import Folders
from poold.agent.freezing import cpu_flags
from poold.agent.messages import Examine, Finding, Findings
from poold.agent.observing import memory_free_bytes
from poold.agent.process import run
from poold.agent.space import lacking, tightest
from poold.errors import Problem

_CHECK_SECONDS = 40.0
_RESOLVE_SECONDS = 5.0
_OF_PODMAN = ("podman", "oci")
_SKEW_SECONDS = 2.0
_DISK_BYTES, _MEMORY_BYTES = 2 << 30, 512 << 20

Check = Callable[[], Awaitable[Finding]]


class Examination:
    """The checks of one host."""

    def __init__(self, engine: Engine, folders: Folders, run_folder: Path, now: float) -> None:
        self._engine = engine
        self._folders = folders
        self._run = run_folder
        self._asked_at = now
        self._began = time.time()

    async def findings(self) -> Findings:
        """Look at everything, in an order in which later checks build upon earlier ones."""
        checks: tuple[tuple[str, Check], ...] = (
            ("python", self._python), ("podman", self._podman), ("runtime", self._runtime),
            ("criu", self._criu), ("engine", self._oci), ("kernel", self._kernel),
            ("cgroups", self._cgroups), ("cpu", self._cpu), ("localhost", self._localhost),
            ("network", self._network), ("zstd", self._zstd), ("disk", self._disk),
            ("memory", self._memory), ("clock", self._clock),
        )  # fmt: skip
        return Findings(tuple([await self._bounded(name, check) for name, check in checks]))

    async def _bounded(self, name: str, check: Check) -> Finding:
        try:
            return await asyncio.wait_for(check(), _CHECK_SECONDS)
        except asyncio.TimeoutError:
            return Finding(
                name, "error", f"no answer in {_CHECK_SECONDS:g} s", "what hangs now hangs later",
                "look at the host's load and its disks",
            )  # fmt: skip
        except Problem as error:
            return Finding(name, "error", error.message, error.detail, error.hint)
        except OSError as error:
            return Finding(name, "error", f"cannot look: {error}")

    async def _python(self) -> Finding:
        version = platform.python_version()
        if tuple(sys.version_info) < (3, 9):
            return Finding(
                "python", "error", f"python {version}", "the agent needs 3.9 or newer",
                "install a newer python3 and name it in the host's key python",
            )  # fmt: skip
        return Finding("python", "ok", f"python {version}")

    async def _podman(self) -> Finding:
        if self._engine.name not in _OF_PODMAN:
            return Finding("podman", "ok", f"not needed by engine {self._engine.name}")
        if shutil.which("podman") is None:
            return Finding(
                "podman", "error", "podman is not installed", "it starts, freezes and restores",
                "install podman",
            )  # fmt: skip
        engine = (await self._engine.versions(again=True)).engine
        level = "ok" if _major(engine) >= 4 else "warning"
        why = "" if level == "ok" else "--publish and --file-locks at a restore came with podman 4"
        return Finding("podman", level, engine, why, "" if level == "ok" else "update podman")  # type: ignore[arg-type]

    async def _runtime(self) -> Finding:
        runtime = (await self._engine.versions()).runtime
        if not runtime.startswith("crun"):
            return Finding("runtime", "ok", runtime)
        said = await run(["crun", "features"], deadline_seconds=10.0)
        enabled = re.search(rb'checkpoint\.enabled": *"?true', said.stdout)
        library = await run(["ldconfig", "-p"], deadline_seconds=10.0)
        if b"libcriu.so.2" not in library.stdout or (said.status == 0 and not enabled):
            return Finding(
                "runtime", "error", f"{runtime} without libcriu", "crun cannot freeze without it",
                'install libcriu2 (Debian) or criu-libs (Red Hat), or set runtime = "runc" in'
                " /etc/containers/containers.conf",
            )  # fmt: skip
        return Finding("runtime", "ok", f"{runtime} with libcriu")

    async def _criu(self) -> Finding:
        if self._engine.name not in _OF_PODMAN:
            return Finding("criu", "ok", f"not needed by engine {self._engine.name}")
        if shutil.which("criu") is None:
            return Finding(
                "criu", "error", "criu is not installed", "it freezes and thaws the processes",
                "install criu",
            )  # fmt: skip
        self._run.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="examine-", dir=self._run) as scratch:
            await try_criu(Path(scratch))
        version = (await self._engine.versions()).criu
        return Finding("criu", "ok", f"{version} froze and thawed a process")

    async def _oci(self) -> Finding:
        if not isinstance(self._engine, Chooser):
            return Finding("engine", "ok", f"replicas are restored by {self._engine.name}")
        why_not = await self._engine.why_not()
        if why_not is not None:  # nothing is wrong: podman restores, slower and one by one
            return Finding("engine", "ok", f"podman alone: {why_not.message}")
        return Finding("engine", "ok", "the OCI runtime can be called without podman")

    async def _kernel(self) -> Finding:
        return Finding(
            "kernel", "ok", f"{platform.system()} {platform.release()} {platform.machine()}"
        )

    async def _cgroups(self) -> Finding:
        version, controllers = _cgroups(Path("/sys/fs/cgroup"))
        if version == "v2":
            return Finding("cgroups", "ok", f"v2, controllers: {controllers or 'none'}")
        if version == "hybrid":
            return Finding(
                "cgroups", "warning", "hybrid (v1 controllers, v2 beside them)",
                "crun refuses hybrid mode; runc works",
                "use runc, or boot with systemd.unified_cgroup_hierarchy=1",
            )  # fmt: skip
        return Finding(
            "cgroups", "warning", "v1", "v2 is what current runtimes are tested with",
            "boot with systemd.unified_cgroup_hierarchy=1",
        )  # fmt: skip

    async def _cpu(self) -> Finding:
        flags = cpu_flags()
        notable = [flag for flag in ("avx", "avx2", "avx512f", "amx_tile", "pku") if flag in flags]
        return Finding(
            "cpu",
            "ok",
            f"{len(flags)} feature flags, among them {' '.join(notable) or 'none of note'}",
        )

    async def _localhost(self) -> Finding:
        loop = asyncio.get_running_loop()
        began = time.monotonic()
        why = (
            "podman's archive code resolves localhost: without /etc/hosts a checkpoint waits 10 s"
            " for a name server and each restore 50 s"
        )
        way_out = 'write "127.0.0.1 localhost" into /etc/hosts'
        try:
            await asyncio.wait_for(
                loop.getaddrinfo("localhost", None, family=socket.AF_INET), _RESOLVE_SECONDS
            )
        except (OSError, asyncio.TimeoutError):
            return Finding("localhost", "error", "localhost cannot be resolved", why, way_out)
        took = time.monotonic() - began
        if took > 0.5:
            return Finding(
                "localhost", "warning", f"resolving localhost took {took:.1f} s", why, way_out
            )
        return Finding("localhost", "ok", "localhost resolves at once")

    async def _network(self) -> Finding:
        if self._engine.name not in _OF_PODMAN:
            return Finding("network", "ok", f"not needed by engine {self._engine.name}")
        way_out = "install netavark; podman network create podman"
        found = await run(["podman", "network", "inspect", "podman"], deadline_seconds=10.0)
        if found.status != 0:
            return Finding(
                "network", "error", f"the default network is not usable: {found.error_text[:300]}",
                "replicas are published through it", way_out,
            )  # fmt: skip
        backend = await run(
            [
                "podman",
                "info",
                "--format",
                "{{.Host.NetworkBackend}} {{.Host.NetworkBackendInfo.Version}}",
            ],
            deadline_seconds=10.0,
        )
        return Finding(
            "network", "ok", f"podman's default network, {backend.stdout.decode().strip()}"
        )

    async def _zstd(self) -> Finding:
        if shutil.which("zstd") is None:
            return Finding(
                "zstd", "error", "zstd is not installed", "generations travel compressed with it",
                "install zstd",
            )  # fmt: skip
        return Finding("zstd", "ok", "zstd is installed")

    async def _disk(self) -> Finding:
        places = (self._folders.root, await self._engine.storage())
        left = tightest(places, self._folders.reserve)
        text = (
            f"{left.free_bytes / (1 << 30):.1f} GiB free under {left.folder},"
            f" {left.reserve_bytes / (1 << 30):.1f} GiB of them in reserve"
        )
        if left.free_bytes < left.reserve_bytes:
            return Finding(
                "disk", "warning", lacking(left.folder, 0, self._folders.reserve),
                "no checkpoint is made, no generation or image taken, no replica moved away",
                "free some space, or lower disk_reserve of this host",
            )  # fmt: skip
        if left.free_bytes - left.reserve_bytes < _DISK_BYTES:
            return Finding(
                "disk", "warning", text, "a checkpoint takes about the application's memory, twice",
                "free some space, or set agent_dir to a roomier disk",
            )  # fmt: skip
        return Finding("disk", "ok", text)

    async def _memory(self) -> Finding:
        free = memory_free_bytes()
        text = f"{free / (1 << 30):.1f} GiB available"
        if free < _MEMORY_BYTES:
            return Finding(
                "memory", "warning", text, "each replica needs its checkpoint's size at once",
                "give the host more memory, or lower max_replicas",
            )  # fmt: skip
        return Finding("memory", "ok", f"{text}; merging of equal pages (KSM) is {_merging()}")

    async def _clock(self) -> Finding:
        skew = self._began - self._asked_at
        text = f"{abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} the daemon's clock"
        if abs(skew) > _SKEW_SECONDS:
            return Finding(
                "clock", "warning", text, "times in changes and manifests will not agree",
                "let chrony or systemd-timesyncd keep the clock",
            )  # fmt: skip
        return Finding("clock", "ok", text)


def _merging(run: Path = Path("/sys/kernel/mm/ksm/run")) -> str:
    """Say whether the kernel merges the pages of those who ask for it."""
    try:
        return "on" if run.read_text().strip() == "1" else f"off: echo 1 > {run}"
    except OSError:
        return "not in this kernel"


async def examine(request: Examine, engine: Engine, folders: Folders, run_folder: Path) -> Findings:
    """Examine this host."""
    if os.geteuid() != 0 and engine.name in _OF_PODMAN:
        return Findings((Finding(
            "root", "error", "the agent does not run as root", "CRIU freezes as root only",
            "reach this host as root, or let the agent's unit do it",
        ),))  # fmt: skip
    return await Examination(engine, folders, run_folder, request.now).findings()


def _major(version: str) -> int:
    number = re.search(r"(\d+)\.", version)
    return int(number.group(1)) if number else 0


def _cgroups(root: Path) -> tuple[str, str]:
    """Return "v2", "hybrid" or "v1", and v2's controllers."""
    controllers = root / "cgroup.controllers"
    if controllers.exists():
        return "v2", controllers.read_text().strip()
    return ("hybrid" if (root / "unified").exists() else "v1"), ""
