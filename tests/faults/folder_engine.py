"""An engine whose containers are files, and a daemon over it: kill -9 leaves both as they are.

    python tests/faults/folder_engine.py CONFIG

Each host of the configuration is a folder (its agent_dir's parent): containers/<name>.json and
images/. The agents of all hosts run in the daemon's process and die with it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import sys
import time
from pathlib import Path
from typing import Any

from poold.agent.actions import Actions
from poold.agent.engines.base import Container, Executed, Launch, Published, Versions
from poold.errors import Permanent, Refused, Temporary
from poold.hosts.local import LocalHost
from poold.model.fleet import Host

REFUSES = "restores-nothing"  # a file beside the containers: restoring fails as CRIU's would


class FolderEngine:
    """Containers that are files; ready is what their file says."""

    name = "folder"

    def __init__(self, folder: Path) -> None:
        self._boxes, self._images = folder / "containers", folder / "images"
        self._boxes.mkdir(parents=True, exist_ok=True)
        self._images.mkdir(parents=True, exist_ok=True)

    # -- containers -------------------------------------------------------------------------------

    def boxes(self) -> list[dict[str, Any]]:
        """Return what is in the files, by name."""
        return [json.loads(path.read_text()) for path in sorted(self._boxes.glob("*.json"))]

    def plant(self, name: str) -> str:
        """Make a container that is somebody else's; returns its id."""
        return self._create(name, {"labels": {}, "image_id": "theirs", "counter": 0}, ())

    async def containers(self) -> tuple[Container, ...]:
        return tuple(_container(box) for box in self.boxes())

    async def find(self, name: str) -> Container | None:
        box = self._find(name)
        return _container(box) if box else None

    async def run(self, launch: Launch) -> str:
        image_id = await self.image_id(launch.image_id or launch.application.image)
        if not image_id:
            raise Permanent("image.missing", f"cannot get the image for {launch.name}")
        state = {"labels": dict(launch.labels), "image_id": image_id, "counter": 0}
        return self._create(launch.name, state, launch.published)

    async def checkpoint(self, name: str, archive: Path, *, deadline_seconds: float) -> None:
        box = self._known(name)
        _put(archive, {key: box[key] for key in ("labels", "image_id", "counter")})
        self._write({**box, "running": False, "frozen": True})

    async def restore(
        self, archive: Path, name: str, published: tuple[Published, ...], *, deadline_seconds: float
    ) -> str:
        if (self._boxes.parent / REFUSES).exists():
            raise Permanent("criu.restore-failed", f"cannot restore {name}: it was asked for")
        return self._create(name, _get(archive), published)

    async def thaw(self, name: str, *, deadline_seconds: float) -> None:
        self._write({**self._known(name), "running": True, "frozen": False})

    async def remove(self, container: str, *, stop_timeout_seconds: int) -> bool:
        box = self._find(container)
        if box is not None:
            self._path(box["name"]).unlink()
        return box is not None

    async def pause(self, name: str) -> None:
        self._write({**self._known(name), "paused": True})

    async def unpause(self, name: str) -> None:
        self._write({**self._known(name), "paused": False})

    async def rename(self, name: str, new_name: str) -> None:
        box = self._known(name)
        if self._find(new_name) not in (None, box):
            raise Permanent("engine.name-taken", f"cannot rename {name}: {new_name} is taken")
        renamed = self._path(box["name"])
        renamed.write_text(json.dumps({**box, "name": new_name}))
        renamed.replace(self._path(new_name))

    async def wait_exit(self, container_id: str) -> None:
        await asyncio.Event().wait()

    async def lost(self, container_id: str) -> str:
        await asyncio.Event().wait()
        return ""

    async def last_words(self, container_id: str) -> str:
        return ""

    async def connections(self, container_id: str) -> tuple[str, ...]:
        return ()

    async def memory_bytes(self, container_id: str) -> int:
        return 4096

    async def execute(
        self, name: str, command: tuple[str, ...], *, stdin: bytes, timeout_seconds: float
    ) -> Executed:
        return Executed(0 if self._known(name)["running"] else 1, "")

    async def logs(self, name: str, tail: int) -> tuple[str, ...]:
        return ()

    # -- images -----------------------------------------------------------------------------------

    async def image_id(self, image: str) -> str:
        """Know an image by its name, or by the content id that the name's digest stands for."""
        held = {path.name for path in self._images.iterdir()}
        found = {image, hashlib.sha256(image.encode()).hexdigest()} & held
        return found.pop() if found else ""

    async def image_ids(self, images: tuple[str, ...]) -> dict[str, str]:
        return {image: await self.image_id(image) for image in images}

    async def image_bytes(self, image: str) -> int:
        """See Engine."""
        return 1 << 10

    async def save_image(self, image: str, archive: Path) -> None:
        _put(archive, {"image_id": await self.image_id(image)})

    async def load_image(self, archive: Path, image: str) -> str:
        found = str(_get(archive)["image_id"])
        self._keep(found)
        return found

    async def name_image(self, image_id: str, image: str) -> None:
        """Do nothing: a content id is its name's digest."""

    async def storage(self) -> Path:
        return self._boxes

    async def versions(self, *, again: bool = False) -> Versions:
        return Versions("folder 1", "none", "none")

    # -- how --------------------------------------------------------------------------------------

    def _keep(self, image_id: str) -> None:
        (self._images / image_id).touch()

    def _path(self, name: str) -> Path:
        return self._boxes / f"{name}.json"

    def _find(self, name: str) -> dict[str, Any] | None:
        return next((box for box in self.boxes() if name in (box["name"], box["id"])), None)

    def _known(self, name: str) -> dict[str, Any]:
        box = self._find(name)
        if box is None:
            raise Refused("engine.no-container", f"cannot find the container {name}")
        return box

    def _create(self, name: str, state: dict[str, Any], published: tuple[Published, ...]) -> str:
        if self._find(name) is not None:
            raise Permanent("engine.name-taken", f"cannot create {name}: the name is taken")
        ports = [port.host_port for port in published]
        if any(set(ports) & set(box["ports"]) for box in self.boxes() if box["running"]):
            raise Temporary("engine.port-taken", f"cannot publish {name}")
        box = {**state, "name": name, "id": secrets.token_hex(32), "ports": ports}
        self._write({**box, "running": True, "frozen": False, "started_at": time.time()})
        return str(box["id"])

    def _write(self, box: dict[str, Any]) -> None:
        part = self._boxes / f".{box['name']}"
        part.write_text(json.dumps(box))
        part.replace(self._path(box["name"]))


def _put(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value))


def _get(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _container(box: dict[str, Any]) -> Container:
    status = "running" if box["running"] else "exited"
    return Container(
        box["name"], box["id"], box["running"], status, box["labels"], box["image_id"],
        box["started_at"],
    )  # fmt: skip


def link(host: Host) -> LocalHost:
    """Reach any host in this process, over an engine of files beside its agent's folder."""
    folder = Path(host.agent_dir).parent
    engine = FolderEngine(folder)
    return LocalHost(
        host, lambda root, run, running: Actions(root, run, engine, running), run=folder / "run"
    )


if __name__ == "__main__":
    from poold.daemon import serve

    os.umask(0o077)
    asyncio.run(serve(Path(sys.argv[1]), link=link))
