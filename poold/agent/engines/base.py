"""What an engine must be able to do: run, freeze, thaw, find and remove containers.

Flows in: names, archives, published ports. Flows out: container ids and facts, or a Problem in the
operator's words. An engine knows nothing of pools, generations or readiness, keeps no records, and
never decides whether a container may be touched: its caller asks that first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional, Protocol

from poold.model.application import Application


@dataclass(frozen=True)
class Published:
    """A container's TCP port and where it is published; address "" means all of the host's."""

    container_port: int
    host_port: int
    address: str = ""


@dataclass(frozen=True)
class Launch:
    """A cold start. `scratch` is a private folder for files that hold secrets until it started."""

    name: str
    application: Application
    labels: Mapping[str, str]
    criu_config: Path
    published: tuple[Published, ...]
    scratch: Path


@dataclass(frozen=True)
class Container:
    """A container as the engine lists it, whoever made it."""

    name: str
    container_id: str
    running: bool
    status: str  # the engine's own word
    labels: Mapping[str, str] = field(default_factory=dict)
    image_id: str = ""
    started_at: float = 0.0


@dataclass(frozen=True)
class Executed:
    """How a command inside a container ended."""

    status: int
    output: str  # the end of both streams


@dataclass(frozen=True)
class Versions:
    """What takes part in a checkpoint, each with its version: "podman 5.8.6", "runc 1.3.6"."""

    engine: str
    runtime: str
    criu: str


class Engine(Protocol):
    """Every call ends within its deadline; cancelling one ends what it started.

    Codes that callers act upon: "engine.name-taken" (another container has the name; nothing was
    touched), "engine.port-taken" (a half-made container may be left), "image.missing".
    """

    name: str

    async def versions(self, *, again: bool = False) -> Versions:
        """Return the versions; asked once, then remembered until `again`."""

    async def containers(self) -> tuple[Container, ...]:
        """List all containers, running or not, whoever made them."""

    async def find(self, name: str) -> Optional[Container]:
        """Return the container with that very name or id."""

    async def run(self, launch: Launch) -> str:
        """Start a container in the background; returns its id. Failing may leave it half-made."""

    async def checkpoint(self, name: str, archive: Path, *, deadline_seconds: float) -> None:
        """Freeze a running container into `archive` and stop it; the stopped container stays."""

    async def restore(
        self, archive: Path, name: str, published: tuple[Published, ...], *, deadline_seconds: float
    ) -> str:
        """Thaw an archive as a new container; returns its id. Failing may leave it half-made."""

    async def thaw(self, name: str, *, deadline_seconds: float) -> None:
        """Let a container run on from its own last checkpoint, where it was frozen."""

    async def remove(self, container: str, *, stop_timeout_seconds: int) -> bool:
        """Stop and remove by name or id; False when there was none."""

    async def wait_exit(self, container_id: str) -> None:
        """Return when the container's first process has ended; cancelled otherwise."""

    async def lost(self, container_id: str) -> str:
        """Return when the container has ended or nobody minds it any more, and say which."""

    async def last_words(self, container_id: str) -> str:
        """Return the last line of output of a container that may have ended; "" without one."""

    async def connections(self, container_id: str) -> tuple[str, ...]:
        """Name each TCP socket in the container that is neither listening nor already gone."""

    async def memory_bytes(self, container_id: str) -> int:
        """Return about how much memory a checkpoint would have to write."""

    async def execute(
        self, name: str, command: tuple[str, ...], *, stdin: bytes, timeout_seconds: float
    ) -> Executed:
        """Run a command inside the container."""

    async def logs(self, name: str, tail: int) -> tuple[str, ...]:
        """Return the last lines of the container's output."""

    async def image_id(self, image: str) -> str:
        """Return the content id of an image given by name or id; "" when it is absent."""

    async def save_image(self, image: str, archive: Path) -> None:
        """Write the image's archive, such that loading it gives the same content id."""

    async def load_image(self, archive: Path, image: str) -> str:
        """Load an archive, see that `image` names what it held, return the content id."""

    async def name_image(self, image_id: str, image: str) -> None:
        """Let the name stand for an image that is there under its id."""

    async def storage(self) -> Path:
        """Return the folder in which the engine keeps containers, for the disk guard."""
