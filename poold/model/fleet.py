"""Pools, hosts, generations, replicas and changes: the values the daemon reasons about.

Standard library only and Python 3.9, because the manifest travels with the agent.
Times are seconds since the epoch, durations seconds, sizes bytes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NewType, Optional

from poold.model.application import Application, Liveness
from poold.model.balancing import BalancerStatus, Behind
from poold.model.scaling import Autoscale, Recommended, Scaling

PoolName = NewType("PoolName", str)
HostName = NewType("HostName", str)
ReplicaName = NewType("ReplicaName", str)
Digest = NewType("Digest", str)  # "sha256:<64 hex digits>"
ChangeId = NewType("ChangeId", int)
ActionId = NewType("ActionId", str)

Phases = dict[str, float]  # phase name -> seconds, in the order in which they happened


@dataclass(frozen=True)
class RollSettings:
    """How replicas are replaced by those of a newer generation.

    `surge` more than wished may run meanwhile, `unavailable` fewer than wished may be ready.
    `auto`: it begins by itself once there is a generation of a changed application, and one is made
    by itself where the image's name means another image by now.
    """

    surge: int = 1
    unavailable: int = 0
    auto: bool = False


@dataclass(frozen=True)
class Pool:
    """One application and how many replicas of it are wished where."""

    name: PoolName
    application: Application
    hosts: tuple[HostName, ...]
    builder: HostName
    replica_name: str = ""  # with {n} for the number; "" in the file means "<pool>{n}"
    replicas: int = 0  # the first wish, when the pool is new to the daemon
    min: int = 0
    max: int = 16
    keep_generations: int = 2
    keep_days: Optional[float] = None  # None: whatever their age
    keep_bytes: Optional[int] = None  # on each host, all kept ones together; None: not limited
    liveness: Optional[Liveness] = None  # None: a replica lives as long as its container runs
    roll: RollSettings = field(default_factory=RollSettings)
    balancer: Optional[Behind] = None  # None: poold tells nobody where its replicas are
    scaling: Scaling = field(default_factory=Scaling)
    autoscale: Optional[Autoscale] = None  # None: nobody counts what its balancer reads
    spares: int = 0  # restored ahead, ready and frozen, under no number yet
    spares_per: Literal["host", "pool"] = "host"  # on each host, or on all of them together
    spare_max_age_seconds: float = 3600.0  # then it is replaced by a fresh one

    @property
    def spares_in_all(self) -> int:
        """Return how many spares are wished on all hosts together."""
        return self.spares * (len(self.hosts) if self.spares_per == "host" else 1)

    def replica(self, number: int) -> ReplicaName:
        """Return the name of the replica with that number, counted from 1."""
        return ReplicaName(self.replica_name.replace("{n}", str(number)))

    def number(self, name: str) -> Optional[int]:
        """Return the number in a replica's name, None for a name that is not of this pool."""
        before, _, after = self.replica_name.partition("{n}")
        digits = name[len(before) : len(name) - len(after)]
        if not (digits.isascii() and digits.isdigit() and digits[0] != "0" and len(digits) < 7):
            return None
        return int(digits) if self.replica(int(digits)) == name else None


@dataclass(frozen=True)
class Host:
    """A machine that runs replicas, and how it is reached."""

    name: HostName
    kind: Literal["local", "ssh"] = "ssh"
    address: str = "127.0.0.1"
    port: int = 22
    user: str = "root"
    key_file: str = ""
    known_hosts_file: str = ""
    publish_address: str = ""  # "" means `address`: where clients reach published ports
    publish_ports: str = "20000-20999"  # the first and the last port that replicas may take
    max_replicas: int = 100
    agent_dir: str = "/var/lib/poold-agent"
    python: str = "python3"
    disk_reserve: str = ""  # "2g" or "5%" that stay free; "" means 5 %, 1 GiB at most

    @property
    def published_at(self) -> str:
        """The address at which clients reach this host's replicas."""
        return self.publish_address or self.address


@dataclass(frozen=True)
class Manifest:
    """What a generation is. Sealed: its digest is the generation's address."""

    pool: PoolName
    build: ActionId  # the action that built it; also on the containers as a label
    fingerprint: str  # Application.fingerprint
    image: str
    image_id: str  # the engine's content id of the image, "sha256:…" or bare hex
    archive_sha256: str  # of the uncompressed checkpoint archive
    archive_bytes: int
    packed_sha256: str  # of the archive as it travels and rests (zstd)
    packed_bytes: int
    engine: str  # "podman 5.8.6"
    runtime: str  # "runc 1.3.6"
    criu: str
    kernel: str
    machine: str  # "x86_64"
    cpu_flags: tuple[str, ...]
    created_at: float
    criu_settings: tuple[str, ...] = ()  # lines of CRIU's configuration file, as used
    cold_seconds: float = 0.0  # action begun -> first successful probe
    readiness: str = ""  # how ready was proven, in words
    phases: Phases = field(default_factory=dict)  # of the build up to sealing
    format: int = 1

    def canonical(self) -> bytes:
        """Return the JSON that is kept, sent and digested."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()

    def digest(self) -> Digest:
        """Return the address of the generation: the digest of the manifest's canonical JSON."""
        return Digest("sha256:" + hashlib.sha256(self.canonical()).hexdigest())


@dataclass(frozen=True)
class Generation:
    """A sealed and proven manifest, numbered per pool from 1."""

    pool: PoolName
    number: int
    digest: Digest
    manifest: Manifest
    builder: HostName
    proven_at: float


ReplicaState = Literal[
    "waiting",  # wished, not placed or waiting for a generation
    "starting",  # an action for it is under way
    "ready",  # answered its readiness probe
    "moving",
    "removing",
    "unknown",  # its host cannot be reached; the name stays reserved
    "failed",  # every rung of the ladder failed; tried again later
]


@dataclass(frozen=True)
class Memory:
    """What a replica's processes have of the host's memory, in bytes.

    `private` is what would be free without it; `proportional` counts what several share by its
    part; `merged` is what it would have of its own, had the kernel not merged equal pages.
    """

    resident: int
    proportional: int
    private: int
    merged: int = 0


@dataclass(frozen=True)
class Replica:
    """A named running copy, as the daemon last knew it."""

    name: ReplicaName
    pool: PoolName
    state: ReplicaState
    host: Optional[HostName] = None
    address: Optional[str] = None  # "10.77.0.11:20000", where clients reach it
    container_id: Optional[str] = None
    method: Optional[Literal["cold", "restore", "spare", "move"]] = None
    generation: Optional[int] = None
    started_at: Optional[float] = None
    seconds: Optional[float] = None  # action begun -> first successful probe
    phases: Phases = field(default_factory=dict)
    reason: str = ""  # why it is not ready, or by which step of the ladder it came up
    engine: str = ""  # what restored it: "oci", or "podman"
    memory: Optional[Memory] = None  # as of its host's last listing, where that says it


ChangeKind = Literal[
    "scale", "restore", "remove", "move", "checkpoint", "import", "roll", "rollback",
    "cordon", "uncordon", "fence", "remove-host", "reload", "pardon",  # of no pool: `pool` is ""
]  # fmt: skip
ChangeState = Literal["pending", "settled", "failed"]


@dataclass(frozen=True)
class Change:
    """One accepted wish. Settled: nothing is left to do for it; failed: the reason is said."""

    id: ChangeId
    pool: PoolName
    kind: ChangeKind
    wish: dict[str, Any]  # what was asked, for example {"replicas": 3}
    actor: str
    created_at: float
    state: ChangeState = "pending"
    progress: str = ""  # one sentence: what is happening now
    seq: int = 0  # rises with every update, for waiting on news
    reason: str = ""
    problem: Optional[dict[str, Any]] = None  # Problem.to_json, when failed
    phases: Phases = field(default_factory=dict)
    settled_at: Optional[float] = None


@dataclass(frozen=True)
class Quarantine:
    """A generation that could not be restored on a host, and is not tried there until `until`.

    `found_with` is what the host was then (its boot, its programs): once that changed the failure
    says nothing any more. `problem` is Problem.to_json, the tail of CRIU's log included.
    """

    pool: PoolName
    generation: int
    digest: Digest
    host: HostName
    since: float
    until: float
    failures: int = 1  # in a row
    problem: dict[str, Any] = field(default_factory=dict)
    found_with: dict[str, str] = field(default_factory=dict)

    @property
    def message(self) -> str:
        """The failure in one sentence."""
        return str(self.problem.get("message", "failed"))


@dataclass(frozen=True)
class HostStatus:
    """What is known of a host now."""

    name: HostName
    state: Literal["up", "connecting", "unknown"]
    boot_id: str = ""
    seen_at: Optional[float] = None
    facts: dict[str, str] = field(default_factory=dict)  # versions, kernel, python
    disk_free_bytes: Optional[int] = None  # where least is left above the reserve
    disk_reserve_bytes: Optional[int] = None  # what nothing that writes much may take of it
    memory_free_bytes: Optional[int] = None
    reason: str = ""
    mark: Literal["", "cordoned", "fenced"] = ""  # what an operator said of it
    closed: str = ""  # why no new replica is placed there
    revision: int = 0  # of what was said of it, where the API shows it
    quarantine: tuple[Quarantine, ...] = ()  # generations that are not tried there for a while


@dataclass(frozen=True)
class RollStatus:
    """How far a pool's replicas are on their way to its current generation."""

    state: Literal["running", "paused"]
    generation: Optional[int]  # None: there is none yet
    done: int
    of: int
    change: int
    reason: str = ""  # why it is paused


SpareState = Literal["ready", "claimed", "removing", "failed"]


@dataclass(frozen=True)
class Spare:
    """A replica that was restored ahead of need and has no number yet."""

    name: str  # its container's
    host: HostName
    state: SpareState
    container_id: str
    address: str  # where it will be reached
    generation: Optional[int]
    started_at: float  # by its host's clock
    reason: str = ""


@dataclass(frozen=True)
class PoolStatus:
    """A pool in one line: how many replicas are wished, how many are ready, what goes on."""

    name: PoolName
    desired: int
    ready: int
    generation: Optional[int]  # the number of the current generation, None before the first
    sentence: str  # "hello 1/3: thawing hello2, hello3"
    held: Optional[int] = None  # the generation that it is held at, whatever the configuration says
    roll: Optional[RollStatus] = None
    image_note: str = ""  # where the image's name means another image by now
    revision: int = 0  # of what is wished, where the API shows it: rises with every wish
    balancer: Optional[BalancerStatus] = None
    recommended: Optional[Recommended] = None
    spares: tuple[Spare, ...] = ()
    spares_wished: int = 0  # on all hosts of the pool
