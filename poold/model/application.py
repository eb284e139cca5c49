"""What an application is: how to start it, how to know it is ready, how to freeze and thaw it.

These values are written by the operator (the pool's table of the configuration) and travel to the
agent unchanged. Standard library only, Python 3.9; annotations are resolved at run time there, so
`Optional` and `Union` are spelled out.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Literal, Optional, Union

# How replicas are restored: "podman" by its own command; "oci" by calling the OCI runtime on an
# unpacked checkpoint, "auto" the same where the host can. What cannot be restored so, podman does.
EngineChoice = Literal["podman", "oci", "auto"]

_NOT_FROZEN = (
    "readiness",
    "after_restore",
    "stop_timeout_seconds",
    "engine",
    "slots",
    "merge_pages",
)


@dataclass(frozen=True)
class Volume:
    """A host folder bound into the container; it must exist on every host of the pool."""

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class Limits:
    """Resource limits; what is None is not limited. `memory` as podman takes it ("512m")."""

    memory: Optional[str] = None
    cpus: Optional[float] = None
    pids: Optional[int] = None


@dataclass(frozen=True)
class HttpProbe:
    """Ready when a GET of `path` on the published port answers with a status from 200 to 399."""

    kind: Literal["http"] = "http"
    path: str = "/"
    port: Optional[int] = None  # container port; None: the application's `port`
    interval_ms: int = 5
    timeout_seconds: float = 1.0  # of one attempt
    deadline_seconds: float = 60.0  # of all attempts


@dataclass(frozen=True)
class TcpProbe:
    """Ready when the published port accepts a connection."""

    kind: Literal["tcp"] = "tcp"
    port: Optional[int] = None
    interval_ms: int = 5
    timeout_seconds: float = 1.0
    deadline_seconds: float = 60.0


@dataclass(frozen=True)
class ExecProbe:
    """Ready when `command`, run inside the container, exits with 0."""

    command: tuple[str, ...]
    kind: Literal["exec"] = "exec"
    interval_ms: int = 100
    timeout_seconds: float = 5.0
    deadline_seconds: float = 60.0


Probe = Union[HttpProbe, TcpProbe, ExecProbe]


@dataclass(frozen=True)
class Liveness:
    """When a replica that runs counts as dead: it gave no answer `failures` times in a row.

    `kind`, `path`, `port` and `command` that are left out are the readiness probe's. Without a
    `path` of its own any HTTP answer is a sign of life: an application that says 503 because its
    database is down is not helped by being restored, and all its replicas would go at once.
    """

    kind: Optional[Literal["http", "tcp", "exec"]] = None
    path: Optional[str] = None
    port: Optional[int] = None
    command: tuple[str, ...] = ()
    interval_seconds: float = 5.0  # between two attempts
    timeout_seconds: float = 1.0  # of one attempt
    failures: int = 3

    def probe(self, readiness: Probe) -> Probe:
        """Return what is asked each time, with the readiness probe's settings filled in."""
        kind = self.kind or readiness.kind
        port = self.port if self.port is not None else getattr(readiness, "port", None)
        if kind == "exec":
            command = self.command or getattr(readiness, "command", ())
            return ExecProbe(command=command, timeout_seconds=self.timeout_seconds)
        if kind == "tcp":
            return TcpProbe(port=port, timeout_seconds=self.timeout_seconds)
        path = self.path or (readiness.path if isinstance(readiness, HttpProbe) else "/")
        return HttpProbe(path=path, port=port, timeout_seconds=self.timeout_seconds)


@dataclass(frozen=True)
class WarmupRequest:
    """An HTTP request sent `repeat` times before the checkpoint; any status below 500 is fine."""

    path: str
    method: str = "GET"
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    repeat: int = 1
    port: Optional[int] = None


@dataclass(frozen=True)
class ExecHook:
    """A command run inside the container.

    It gets one JSON object on standard input: {"event", "replica", "pool", "seed"}; `seed` is 32
    fresh random bytes in hex, only for `after_restore`.
    """

    command: tuple[str, ...]
    kind: Literal["exec"] = "exec"
    timeout_seconds: float = 30.0


@dataclass(frozen=True)
class HttpHook:
    """A request to the application, with the same JSON object as its body; 2xx means done."""

    path: str
    kind: Literal["http"] = "http"
    method: str = "POST"
    port: Optional[int] = None
    timeout_seconds: float = 30.0


Hook = Union[ExecHook, HttpHook]


@dataclass(frozen=True)
class CheckpointSettings:
    """How the application is frozen.

    `scan_paths` are folders inside the container that hold watched (inotify) files: CRIU finds
    their paths there. `quiesce_deadline_seconds` bounds the wait until only listening sockets are
    left; `timeout_seconds` bounds podman's dump itself.
    """

    scan_paths: tuple[str, ...] = ()
    quiesce_deadline_seconds: float = 30.0
    timeout_seconds: float = 300.0


@dataclass(frozen=True)
class Application:
    """Everything the agent needs to know of a pool's application."""

    image: str
    port: int  # the container's port that takes traffic
    command: tuple[str, ...] = ()  # empty: the image's own
    env: dict[str, str] = field(default_factory=dict)
    user: Optional[str] = None
    volumes: tuple[Volume, ...] = ()
    tmpfs: tuple[str, ...] = ()  # "/path" or "/path:options" as podman takes it
    extra_ports: tuple[int, ...] = ()
    network: str = "podman"
    limits: Limits = field(default_factory=Limits)
    stop_timeout_seconds: int = 10
    readiness: Probe = field(default_factory=TcpProbe)
    warmup: tuple[WarmupRequest, ...] = ()
    before_checkpoint: Optional[Hook] = None
    after_restore: Optional[Hook] = None
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    engine: EngineChoice = "podman"
    merge_pages: bool = False  # equal pages of restored replicas are kept once, by the kernel (KSM)
    slots: int = 2  # made ahead on each host: what a replica needs and a checkpoint does not decide

    def fingerprint(self) -> str:
        """Return a digest of what decides a checkpoint's content.

        Two applications with equal fingerprints may share a generation: how readiness is polled
        and what happens after a restore do not matter to the frozen image.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:  # asked several times in each cycle of the loop
        decides = {key: value for key, value in asdict(self).items() if key not in _NOT_FROZEN}
        decides["checkpoint"] = list(self.checkpoint.scan_paths)
        text = json.dumps(decides, sort_keys=True, separators=(",", ":"))
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
