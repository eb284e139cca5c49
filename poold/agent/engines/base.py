"""What an engine must be able to do: run, freeze, thaw, find and remove containers.

Flows in: names, archives, published ports. Flows out: container ids and facts, or a Problem in the
operator's words. An engine knows nothing of pools, generations or readiness, keeps no records, and
never decides whether a container may be touched: its caller asks that first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional, Protocol, runtime_checkable

from poold.errors import Refused
from poold.model.application import Application, EngineChoice
from poold.model.fleet import Memory, Phases


@dataclass(frozen=True)
class Published:
    """A container's TCP port and where it is published; address "" means all of the host's."""

    container_port: int
    host_port: int
    address: str = ""


@dataclass(frozen=True)
class Launch:
    """A cold start. `scratch` is a private folder for files that hold secrets until it started.

    `image_id` is the very image to start from; "": what the application's name of it means.
    """

    name: str
    application: Application
    labels: Mapping[str, str]
    criu_config: Path
    published: tuple[Published, ...]
    scratch: Path
    image_id: str = ""


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


@dataclass(frozen=True)
class Restored:
    """How a container was restored: by which engine, how long its parts took, why not faster."""

    container_id: str
    engine: str
    phases: Phases = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class Ahead:
    """Slots to be kept ready for a pool: published at `address`, on ports of a range."""

    pool: str
    first_port: int
    last_port: int
    container_ports: tuple[int, ...]
    address: str
    count: int


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

    async def pause(self, name: str) -> None:
        """Stop all processes of a running container where they are; its memory stays.

        Until it runs on, the kernel ends it before any other when memory runs out.
        """

    async def unpause(self, name: str) -> None:
        """Let a paused container run on."""

    async def rename(self, name: str, new_name: str) -> None:
        """Give a container, paused or not, another name in one step; its id and ports stay.

        "engine.name-taken" and "engine.no-container" leave everything as it was.
        """

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

    async def image_ids(self, images: tuple[str, ...]) -> dict[str, str]:
        """Return the content ids by name, as `image_id` does; cheap enough for each listing."""

    async def image_bytes(self, image: str) -> int:
        """Return about how large an archive of the image is; 0 where that is not known."""

    async def save_image(self, image: str, archive: Path) -> None:
        """Write the image's archive, such that loading it gives the same content id."""

    async def load_image(self, archive: Path, image: str) -> str:
        """Load an archive, see that `image` names what it held, return the content id."""

    async def name_image(self, image_id: str, image: str) -> None:
        """Let the name stand for an image that is there under its id."""

    async def storage(self) -> Path:
        """Return the folder in which the engine keeps containers, for the disk guard."""


class Floor(Protocol):
    """All that a restore needs but the runtime's own part, for measuring that."""

    async def restore(self, *, deadline_seconds: float) -> None:
        """Call the runtime alone."""

    async def memory_bytes(self) -> int:
        """Return the resident memory of what it restored."""

    async def remove(self) -> None:
        """Leave nothing of it."""


@runtime_checkable
class Weigher(Protocol):
    """An engine that can tell what memory a container has to itself."""

    async def memory(self, container_id: str) -> Optional[Memory]:
        """Return that of all its processes; None when it is gone."""


@runtime_checkable
class Chooser(Protocol):
    """An engine that has several ways to restore, and can do a part of it ahead."""

    async def restore(
        self,
        archive: Path,
        name: str,
        published: tuple[Published, ...],
        *,
        deadline_seconds: float,
        way: EngineChoice = ...,
        merge_pages: bool = ...,
    ) -> str:
        """See Engine; by the way that is asked for, or by podman where that cannot be gone.

        With `merge_pages` the kernel keeps equal pages of such containers once, where it can.
        """

    def restored(self, container_id: str) -> Optional[Restored]:
        """Return how this process restored a container, lately."""

    async def why_not(self) -> Optional[Refused]:
        """Return why this host has no other way than podman; None: it has."""

    async def stage(self, archive: Path) -> bool:
        """Unpack an archive ahead of its first restore; False when that was done before."""

    async def bare(self, archive: Path, published: tuple[Published, ...]) -> Floor:
        """Prepare one restore by the runtime alone; unpacks the archive where nobody has yet."""

    def offer(self, archive: Path, ahead: Ahead) -> tuple[Published, ...]:
        """Return the ports of a slot that waits for a restore of the archive; () without one."""

    def keep(self, archive: Path, ahead: Ahead, taken: Callable[[], frozenset[int]]) -> None:
        """Keep such slots ready from now on, instead of those kept for the pool before.

        They are made by `tend`, on ports that are free and not in `taken`.
        """

    async def tend(self) -> None:
        """Make slots ahead until cancelled; then take away those that wait."""
