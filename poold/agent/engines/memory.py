"""An engine without containers: each is a small HTTP server on loopback that counts requests.

For simulated fleets and for tests that must not need a kernel: probes, hooks, ports, archives and
files are real, only freezing is not. It misbehaves on request, see `poold.agent.engines.faults`.
Everything is gone with the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional, cast

from poold.agent.engines.base import Container, Executed, Launch, Published, Versions
from poold.agent.engines.faults import Fault, Faults
from poold.errors import Permanent, Refused, Temporary

_LOG_LINES = 1000


@dataclass
class _Box:
    """A container: what is kept of it, and its servers while it runs."""

    name: str
    container_id: str
    labels: dict[str, str]
    image: str
    image_id: str
    published: tuple[Published, ...]
    counter: int = 0
    seed: str = ""
    status: str = "created"
    started_at: float = 0.0
    frozen: bool = False
    running_on: Optional[asyncio.Event] = None  # while paused: set when it runs on
    log: list[str] = field(default_factory=list)
    servers: list[asyncio.AbstractServer] = field(default_factory=list)
    clients: dict[asyncio.Task[None], str] = field(default_factory=dict)
    boot: Optional[asyncio.Task[None]] = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def as_container(self) -> Container:
        return Container(
            self.name, self.container_id, self.status == "running", self.status, self.labels,
            self.image_id, self.started_at,
        )  # fmt: skip


class MemoryEngine:
    """Containers of this process. Call `close` before the loop ends."""

    name = "memory"

    def __init__(
        self,
        faults: tuple[Fault, ...] = (),
        *,
        images: Optional[Mapping[str, str]] = None,
        cold_seconds: float = 0.02,
        storage: Path = Path("/tmp"),  # noqa: S108 - nothing is written there
    ) -> None:
        """`images` maps names to content ids; None: every image is there."""
        self._faults = Faults(faults)
        self._images = None if images is None else dict(images)
        self._unnamed: set[str] = set()
        self._cold_seconds = cold_seconds
        self._storage = storage
        self._boxes: dict[str, _Box] = {}

    async def close(self) -> None:
        """End all containers."""
        for box in list(self._boxes.values()):
            await self._stop(box)
        self._boxes.clear()

    async def versions(self, *, again: bool = False) -> Versions:  # noqa: ARG002
        """See Engine."""
        return Versions("memory 1", "none", "none")

    async def storage(self) -> Path:
        """See Engine."""
        return self._storage

    async def containers(self) -> tuple[Container, ...]:
        """See Engine."""
        return tuple(box.as_container() for box in self._boxes.values())

    async def find(self, name: str) -> Optional[Container]:
        """See Engine."""
        box = self._find(name)
        return box.as_container() if box else None

    async def run(self, launch: Launch) -> str:
        """See Engine. Listens after `cold_seconds`, as an application that has to boot."""
        image = launch.image_id or launch.application.image
        image_id = await self.image_id(image)
        if not image_id:
            raise Permanent("image.missing", f"cannot get the image for {launch.name}")
        box = self._new(launch.name, dict(launch.labels), image, image_id, launch.published)
        await self._up(box, "run", self._cold_seconds)
        return box.container_id

    async def checkpoint(self, name: str, archive: Path, *, deadline_seconds: float) -> None:
        """See Engine."""
        box = self._known(name)
        await self._faults.strike("checkpoint", box.name, deadline_seconds)
        if box.status != "running":
            raise Permanent(
                "criu.checkpoint-failed", f"cannot checkpoint {name}: it is {box.status}"
            )
        state = {"labels": box.labels, "image": box.image, "counter": box.counter, "log": box.log}
        _write(archive, state)
        box.frozen = True
        await self._stop(box)

    async def restore(
        self, archive: Path, name: str, published: tuple[Published, ...], *, deadline_seconds: float
    ) -> str:
        """See Engine."""
        try:
            state = _read(archive)
        except (OSError, ValueError) as error:
            raise Permanent(
                "criu.restore-failed", f"cannot restore {name}: the archive cannot be read"
            ) from error
        image_id = await self.image_id(state["image"])
        if not image_id:
            raise Permanent("image.missing", f"cannot get the image for {name}")
        box = self._new(name, state["labels"], state["image"], image_id, published)
        box.counter, box.log = state["counter"], list(state["log"])
        await self._up(box, "restore", 0.0, deadline_seconds)
        return box.container_id

    async def thaw(self, name: str, *, deadline_seconds: float) -> None:
        """See Engine."""
        box = self._known(name)
        if not box.frozen:
            raise Permanent(
                "criu.restore-failed", f"cannot restore {name}: it was not checkpointed"
            )
        await self._up(box, "thaw", 0.0, deadline_seconds)
        box.frozen = False

    async def remove(self, container: str, *, stop_timeout_seconds: int) -> bool:
        """See Engine."""
        box = self._find(container)
        if box is None:
            return False
        await self._faults.strike("remove", box.name, float(stop_timeout_seconds))
        await self._stop(box)
        self._boxes.pop(box.container_id, None)
        return True

    async def pause(self, name: str) -> None:
        """See Engine: connections are accepted and nothing is answered."""
        box = self._known(name)
        await self._faults.strike("pause", box.name, 60.0)
        box.running_on = asyncio.Event()

    async def unpause(self, name: str) -> None:
        """See Engine."""
        box = self._known(name)
        await self._faults.strike("unpause", box.name, 60.0)
        if box.running_on is not None:
            box.running_on.set()
            box.running_on = None

    async def rename(self, name: str, new_name: str) -> None:
        """See Engine."""
        box = self._known(name)
        await self._faults.strike("rename", box.name, 60.0)
        if self._find(new_name) not in (None, box):
            raise Permanent("engine.name-taken", f"cannot rename {name}: {new_name} is taken")
        box.name = new_name

    async def wait_exit(self, container_id: str) -> None:
        """See Engine."""
        box = self._find(container_id)
        if box is not None:
            await box.ended.wait()

    async def lost(self, container_id: str) -> str:
        """See Engine."""
        await self.wait_exit(container_id)
        return "its first process ended"

    async def last_words(self, container_id: str) -> str:
        """See Engine."""
        box = self._find(container_id)
        return box.log[-1] if box and box.log else ""

    async def crash(self, name: str) -> None:
        """End a container as an application that crashes does."""
        await self._stop(self._known(name))

    async def connections(self, container_id: str) -> tuple[str, ...]:
        """See Engine."""
        box = self._find(container_id)
        return tuple(box.clients.values()) if box else ()

    async def memory_bytes(self, container_id: str) -> int:
        """See Engine."""
        return 1 << 20 if self._find(container_id) else 0

    async def execute(
        self, name: str, command: tuple[str, ...], *, stdin: bytes, timeout_seconds: float
    ) -> Executed:
        """Know `true`, `false` and `cat`; `sleep` runs into its time limit."""
        self._known(name)
        if command[0] == "sleep":
            await asyncio.sleep(timeout_seconds)
            raise Temporary("command.timeout", f"cannot finish sleep within {timeout_seconds:g} s")
        if command[0] == "cat":
            return Executed(0, stdin.decode())
        return Executed(0 if command[0] == "true" else 1, "")

    async def logs(self, name: str, tail: int) -> tuple[str, ...]:
        """See Engine."""
        return tuple(self._known(name).log[-tail:])

    async def image_id(self, image: str) -> str:
        """See Engine."""
        if self._images is None:
            return hashlib.sha256(image.encode()).hexdigest()
        by_id = image if image in {*self._images.values(), *self._unnamed} else ""
        return self._images.get(image, by_id)

    async def image_ids(self, images: tuple[str, ...]) -> dict[str, str]:
        """See Engine."""
        return {image: await self.image_id(image) for image in images}

    async def image_bytes(self, image: str) -> int:  # noqa: ARG002
        """See Engine."""
        return 1 << 10

    async def save_image(self, image: str, archive: Path) -> None:
        """See Engine."""
        _write(archive, {"image": image, "id": await self.image_id(image)})

    async def load_image(self, archive: Path, image: str) -> str:
        """See Engine."""
        saved = _read(archive)
        loaded = str(saved["id"])
        if self._images is not None:
            self._unnamed.add(loaded)
            if saved["image"] == image or image not in self._images:
                self._images[image] = loaded
        return loaded

    async def name_image(self, image_id: str, image: str) -> None:
        """See Engine."""
        if self._images is not None:
            self._unnamed.add(self._images.get(image, image_id))
            self._images[image] = image_id

    # -- how ---------------------------------------------------------------------------------------

    def _find(self, name: str) -> Optional[_Box]:
        for box in self._boxes.values():
            if name in (box.name, box.container_id):
                return box
        return None

    def _known(self, name: str) -> _Box:
        box = self._find(name)
        if box is None:
            raise Refused("engine.no-container", f"cannot find the container {name}")
        return box

    def _new(
        self,
        name: str,
        labels: dict[str, str],
        image: str,
        image_id: str,
        published: tuple[Published, ...],
    ) -> _Box:
        if self._find(name) is not None:
            raise Permanent("engine.name-taken", f"cannot create {name}: the name is taken")
        box = _Box(name, secrets.token_hex(32), labels, image, image_id, published)
        self._boxes[box.container_id] = box
        return box

    async def _up(
        self, box: _Box, step: str, boot_seconds: float, deadline_seconds: float = 60.0
    ) -> None:
        fault = await self._faults.strike(step, box.name, deadline_seconds)
        box.ended.clear()
        box.status, box.started_at = "running", time.time()
        if fault == "exit":
            box.log.append("I give up")
            await self._stop(box)
        elif fault == "mute":
            box.log.append("I say nothing")
        elif boot_seconds:
            box.boot = asyncio.ensure_future(self._boot(box, boot_seconds))
        else:
            await self._listen(box)

    async def _boot(self, box: _Box, seconds: float) -> None:
        await asyncio.sleep(seconds)
        with contextlib.suppress(Temporary):
            await self._listen(box)

    async def _listen(self, box: _Box) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None  # noqa: S101 - a callback of a server runs in a task
            peer = writer.get_extra_info("peername")
            box.clients[task] = f"{peer[0]}:{peer[1]} (ESTABLISHED)" if peer else "somebody"
            try:
                await _answer(box, reader, writer)
            finally:
                del box.clients[task]

        for port in box.published:
            try:
                server = await asyncio.start_server(
                    serve, port.address or "0.0.0.0", port.host_port
                )
            except OSError as error:
                box.status = "created"
                await self._close_servers(box)
                raise Temporary(
                    "engine.port-taken", f"cannot publish {box.name}: {error.strerror}"
                ) from error
            box.servers.append(server)

    async def _stop(self, box: _Box) -> None:
        if box.boot is not None:
            box.boot.cancel()
            await asyncio.wait({box.boot})
            box.boot = None
        await self._close_servers(box)
        box.status = "exited"
        box.ended.set()

    async def _close_servers(self, box: _Box) -> None:
        for server in box.servers:
            server.close()
        clients = list(box.clients)
        for client in clients:
            client.cancel()
        if clients:
            await asyncio.wait(clients)
        for server in box.servers:
            await server.wait_closed()
        box.servers.clear()


async def _answer(box: _Box, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request: /health and /ready do not count, /fail is a 500, POST has a seed."""
    try:
        if box.running_on is not None:
            await box.running_on.wait()
        words = (await reader.readline()).split()
        length = 0
        while (line := await reader.readline()) not in (b"\r\n", b""):
            key, _, value = line.partition(b":")
            length = int(value) if key.lower() == b"content-length" else length
        sent = await reader.readexactly(length)
        if len(words) < 2:
            return
        method, path = words[0].decode(), words[1].decode()
        box.log = [*box.log[-_LOG_LINES:], f"{method} {path}"]
        status, body = "200 OK", "ok\n"
        if path.startswith("/fail"):
            status = "500 Internal Server Error"
        elif method == "POST":
            box.seed = str(json.loads(sent or b"{}").get("seed", ""))
        elif path == "/seed":
            body = box.seed
        elif not path.endswith(("/health", "/ready")):
            body = f"{box.counter}\n"
            box.counter += 1
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write((head + body).encode())
        await writer.drain()
    except (OSError, ValueError, asyncio.IncompleteReadError):
        return
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value))


def _read(path: Path) -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads(path.read_text()))
