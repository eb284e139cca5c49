"""Podman's language: arguments for it, and what it says, as values and problems.

Flows in: a launch; podman's JSON, output and errors. Flows out: argument vectors, containers, facts
of the installation, problems in the operator's words. Pure: it runs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from poold.agent.engines.base import Container, Launch, Published, Versions
from poold.agent.process import Finished
from poold.errors import Permanent, Problem, Refused, Temporary

_NO_IMAGE = (
    "pinging container registry", "image not known", "manifest unknown", "short-name",
    "unable to copy from source",
)  # fmt: skip
# By its store, and by its database.
_NAME_IN_USE = ("in use", "already exists", "UNIQUE constraint failed: ContainerConfig.Name")


@dataclass(frozen=True)
class Installation:
    """What `podman info` says, as far as it does not change while the agent lives."""

    versions: Versions
    graph_root: Path
    run_root: Path
    containers_folder: str  # "overlay-containers"
    info: Mapping[str, Any] = field(default_factory=dict)  # all of it

    def log(self, container_id: str, name: str) -> Path:
        """Return where podman and the OCI runtime leave CRIU's log."""
        return self.graph_root / self.containers_folder / container_id / "userdata" / name

    @property
    def images_file(self) -> Path:
        """Where containers/storage keeps which image each name means."""
        folder = self.containers_folder.replace("-containers", "-images")
        return self.graph_root / folder / "images.json"

    def pid(self, container_id: str, file: str = "pidfile") -> int:
        """Read "pidfile" (the first process) or "conmon.pid"; 0 when there is none."""
        folder = self.run_root / self.containers_folder / container_id / "userdata"
        try:
            return int((folder / file).read_text())
        except (OSError, ValueError):
            return 0


def run_arguments(launch: Launch, environment: Path) -> list[str]:
    """Return podman's arguments for a cold start.

    No health checks: they leave sockets and processes in the checkpoint, and readiness is probed
    by the agent. The log driver is named so that a restored copy logs the same way everywhere.
    """
    app = launch.application
    limits = app.limits
    arguments = ["run", "--detach", "--quiet", "--name", launch.name, "--no-healthcheck"]
    arguments += ["--log-driver", "k8s-file", "--log-opt", "max-size=10mb"]
    for key, value in launch.labels.items():
        arguments += ["--label", f"{key}={value}"]
    arguments += ["--annotation", f"org.criu.config={launch.criu_config}"]
    arguments += ["--network", app.network, "--stop-timeout", str(app.stop_timeout_seconds)]
    arguments += ["--env-file", str(environment)]
    arguments += publish_arguments(launch.published)
    for volume in app.volumes:
        suffix = ":ro" if volume.read_only else ""
        arguments += ["--volume", f"{volume.source}:{volume.target}{suffix}"]
    for tmpfs in app.tmpfs:
        arguments += ["--tmpfs", tmpfs]
    arguments += ["--user", app.user] if app.user else []
    arguments += ["--memory", limits.memory] if limits.memory else []
    arguments += ["--cpus", f"{limits.cpus:g}"] if limits.cpus else []
    arguments += ["--pids-limit", str(limits.pids)] if limits.pids else []
    if launch.image_id:  # another image by that id exists nowhere: nothing is pulled instead
        return [*arguments, "--pull=never", launch.image_id, *app.command]
    return [*arguments, app.image, *app.command]


def publish_arguments(published: Sequence[Published]) -> list[str]:
    """Return the options that publish these ports and no others."""
    arguments = []
    for port in published:
        host = f"[{port.address}]" if ":" in port.address else port.address
        where = f"{host}:{port.host_port}" if host else str(port.host_port)
        arguments += ["--publish", f"{where}:{port.container_port}"]
    return arguments


def container(entry: dict[str, Any]) -> Container:
    """Read one entry of `podman ps --format json`."""
    return Container(
        name=(entry.get("Names") or [""])[0],
        container_id=entry["Id"],
        running=entry.get("State") == "running",
        status=str(entry.get("State", "")),
        labels=entry.get("Labels") or {},
        image_id=str(entry.get("ImageID", "")),
        started_at=float(entry.get("StartedAt") or 0),
    )


def last_words(log: bytes) -> str:
    """Return the last line with something in it: "<time> <stream> <P or F> <text>" in the file."""
    for line in reversed(log.decode(errors="replace").splitlines()):
        text = line.split(" ", 3)[3:]
        if text and text[0].strip():
            return text[0].strip()
    return ""


def container_id(finished: Finished) -> str:
    """Return the id that podman printed last; a pull may have printed before."""
    lines = finished.stdout.decode(errors="replace").split()
    if lines and re.fullmatch("[0-9a-f]{64}", lines[-1]):
        return lines[-1]
    raise Permanent(
        "engine.bad-answer",
        f"cannot read a container's id from what podman answered to {finished.command}",
        detail=finished.stdout[:500].decode(errors="replace"),
    )


def read_installation(info: dict[str, Any], criu_said: str) -> Installation:
    """Read `podman info --format json` and `criu --version`."""
    host, store = info.get("host", {}), info.get("store", {})
    runtime = host.get("ociRuntime", {})
    number = re.search(r"version:? (\S+)", str(runtime.get("version", "")))
    criu_number = re.search(r"Version: (\S+)", criu_said)
    return Installation(
        Versions(
            engine=f"podman {info.get('version', {}).get('Version', '?')}",
            runtime=f"{runtime.get('name', '?')} {number.group(1) if number else '?'}",
            criu=f"criu {criu_number.group(1)}" if criu_number else "",
        ),
        graph_root=Path(store.get("graphRoot", "/var/lib/containers/storage")),
        run_root=Path(store.get("runRoot", "/run/containers/storage")),
        containers_folder=f"{store.get('graphDriverName', 'overlay')}-containers",
        info=info,
    )


def explain_common(finished: Finished, name: str) -> Optional[Problem]:
    """Translate what can go wrong at a cold start as well as at a restore."""
    text = finished.error_text
    lower = text.lower()
    if "address already in use" in lower or "port is already allocated" in lower:
        return Temporary(
            "engine.port-taken",
            f"cannot publish {name}: another program took its port",
            detail=text,
        )
    if "no space left on device" in lower:
        return Temporary(
            "host.disk-full",
            f"cannot write what {name} needs: the disk is full",
            hint="free some space under podman's storage and the agent's folder",
            detail=text,
        )
    if any(words in lower for words in _NO_IMAGE):
        return Permanent(
            "image.missing",
            f"cannot get the image for {name}",
            hint="pull or load it on the pool's builder host, under the pool's name for it",
            detail=text,
        )
    if "network not found" in lower or "unable to find network" in lower:
        return Permanent(
            "network.missing",
            f"cannot connect {name}: its network is not there",
            hint="create it with podman network create, on every host of the pool",
            detail=text,
        )
    if "statfs" in lower and "no such file or directory" in lower:
        return Permanent(
            "volume.missing",
            f"cannot mount a volume of {name}: its folder is not there",
            hint="create the folder on every host of the pool",
            detail=text,
        )
    return None


def explain_restore(finished: Finished, name: str) -> Optional[Problem]:
    """Say why podman did not come as far as CRIU; None where it may have."""
    common = explain_common(finished, name)
    if common is None and "already in use" in finished.error_text and "name" in finished.error_text:
        return Permanent(
            "engine.name-taken",
            f"cannot restore {name}: another container has that name",
            detail=finished.error_text,
        )
    return common


def explain_rename(finished: Finished, name: str, new_name: str) -> Problem:
    """Say why podman did not rename a container."""
    said = finished.error_text
    if "no such container" in said.lower() or "no container with name" in said.lower():
        return Refused("engine.no-container", f"cannot find the container {name}", detail=said)
    if any(words in said for words in _NAME_IN_USE):
        return Permanent(
            "engine.name-taken", f"cannot rename {name}: {new_name} is taken", detail=said
        )
    return Temporary(
        "engine.rename-failed",
        f"cannot rename the container {name} to {new_name}",
        hint=f"run it by hand: {finished.command}",
        detail=said,
    )


def explain_start(finished: Finished, launch: Launch) -> Problem:
    """Say why podman did not start a container."""
    common = explain_common(finished, launch.name)
    if common is not None and common.code == "image.missing" and launch.image_id:
        return Permanent(
            "image.missing",
            f"cannot start {launch.name}: the image {launch.image_id[:12]}, of which its pool's"
            " current generation is, is not on this host any more",
            hint="load it again, or make a generation of what its name means now: poold checkpoint",
            detail=finished.error_text,
        )
    if common is not None:
        return common
    if "already in use" in finished.error_text and "name" in finished.error_text:
        return Permanent(
            "engine.name-taken",
            f"cannot start {launch.name}: another container has that name",
            detail=finished.error_text,
        )
    said = finished.error_text.splitlines() or ["podman said nothing"]
    return Permanent(
        "engine.start-failed",
        f"cannot start {launch.name} from {launch.application.image}:"
        f" {said[-1].replace('Error: ', '', 1)}",
        hint="the command is in the detail",
        detail=f"{finished.error_text}\n$ {finished.command}",
    )
