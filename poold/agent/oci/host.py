"""What the engine `oci` needs of its host, looked up once: programs, folders, networks.

Flows in: what `podman info` says. Flows out: the parts that the engine works with, or
Refused("oci.unavailable") with what is in the way. Everything lies beside podman's storage, on its
file system: layers of images are shared with it by hard links.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from poold.agent.oci import kernel
from poold.agent.oci.boxes import Boxes
from poold.agent.oci.networks import Networks
from poold.agent.oci.runtime import Programs
from poold.agent.oci.stages import Layers, Stages
from poold.errors import Refused

RUNTIMES = ("runc",)


@dataclass(frozen=True)
class OciHost:
    """The parts."""

    root: Path
    graph_root: Path
    containers_folder: str
    programs: Programs
    boxes: Boxes
    stages: Stages
    networks: Networks


def look(
    info: Mapping[str, Any], podman: str, layers: Layers, *, root: Optional[Path] = None
) -> OciHost:
    """Return the parts; `info` is what `podman info` says."""
    host, store = info.get("host", {}), info.get("store", {})
    runtime = host.get("ociRuntime", {})
    backend = host.get("networkBackendInfo", {})
    why_not = _why_not(host, store)
    if why_not:
        raise unavailable(why_not)
    graph_root = Path(store["graphRoot"])
    root = root or state_folder(graph_root)
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    _try_overlay(root)
    return OciHost(
        root=root,
        graph_root=graph_root,
        containers_folder=f"{store['graphDriverName']}-containers",
        programs=Programs(
            conmon=host["conmon"]["path"],
            runtime=runtime["path"],
            systemd=host.get("cgroupManager") == "systemd",
        ),
        boxes=Boxes(root),
        stages=Stages(root, layers),
        networks=Networks(podman, backend["path"]),
    )


def state_folder(graph_root: Path) -> Path:
    """Return where boxes and stages are: on podman's file system, outside its own folder if so."""
    return (graph_root if os.path.ismount(graph_root) else graph_root.parent) / "poold"


def unavailable(why: str) -> Refused:
    """Say that this host cannot do without podman."""
    return Refused(
        "oci.unavailable",
        f"cannot use the engine oci on this host: {why}",
        hint='podman restores instead, slower; engine = "podman" in the pool says so',
    )


def _why_not(host: Mapping[str, Any], store: Mapping[str, Any]) -> str:
    runtime = host.get("ociRuntime", {})
    security = host.get("security", {})
    if security.get("rootless"):
        return "podman is rootless"
    if security.get("selinuxEnabled"):
        return "SELinux is on, and labels are podman's to give"
    if store.get("graphDriverName") != "overlay":
        return f"podman's storage driver is {store.get('graphDriverName')}, not overlay"
    if (store.get("graphOptions") or {}).get("overlay.mount_program"):
        return "podman's storage is mounted by a program (fuse-overlayfs)"
    if runtime.get("name") not in RUNTIMES:
        return f"the OCI runtime is {runtime.get('name')}; {' and '.join(RUNTIMES)} can be called"
    if not host.get("networkBackendInfo", {}).get("path"):
        return "podman does not say where netavark is (podman 4.5 and newer do)"
    if not host.get("conmon", {}).get("path"):
        return "conmon is not installed"
    return next(
        (f"{each} is not installed" for each in ("tar", "cp", "unshare") if not shutil.which(each)),
        "",
    )


def _try_overlay(root: Path) -> None:
    """Mount an overlay whose upper folder is under `root`: not every file system can carry one."""
    with tempfile.TemporaryDirectory(prefix=".try-", dir=root) as folder:
        lower, upper, work, merged = (
            Path(folder) / each for each in ("lower", "upper", "work", "merged")
        )
        for each in (lower, upper, work, merged):
            each.mkdir()
        (lower / "file").touch()
        try:
            kernel.mount_overlay(merged, (lower,), upper, work)
            (merged / "file").unlink()
            (merged / "file").mkdir()  # needs what an upper folder must have: whiteouts, xattrs
        except OSError as error:
            raise unavailable(
                f"no overlay can be mounted under {root}: {error.strerror}"
            ) from error
        finally:
            kernel.unmount(merged)
