"""What the daemon may ask of an agent, and what comes back.

A request is one action and one round trip. Every request carries, beside these values, an action
id, the boot id it was meant for and a deadline (see `poold.agent.server`): asking again with the
same id joins the action or returns its recorded outcome and never does it twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Generic, Literal, Optional, TypeVar

from poold.model.application import Application, EngineChoice, Probe
from poold.model.fleet import Digest, Manifest, Memory, Phases

R = TypeVar("R")


class Request(Generic[R]):
    """A question with the type of its answer; `verb` names it on the wire."""

    verb: ClassVar[str]
    answer: ClassVar[type]


@dataclass(frozen=True)
class Progress:
    """News of an action under way: a sentence, and how much of how much where it is known."""

    text: str
    done: Optional[int] = None
    total: Optional[int] = None


@dataclass(frozen=True)
class Done:
    """Nothing to report but success; `changed` is False when it was so already."""

    changed: bool = True


# -- observing ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ContainerFact:
    """A container that carries this fleet's label, or somebody else's that has a name of ours.

    One that is "captured" is to be thawed (`Resume`): a capture of it began, and it was not proven
    ready since, even where its container runs again.
    """

    name: str
    container_id: str
    ours: bool
    pool: str
    role: Literal["replica", "build", "proof", "spare", "captured", "foreign"]
    running: bool
    status: str  # the engine's own word
    build: str = ""  # the action that built the generation it was restored from
    digest: str = ""  # the generation, where the agent's record has it
    method: str = ""  # "cold" | "restore" | "spare" | "move"
    address: str = ""
    started_at: float = 0.0
    # It passed readiness since its last start, still runs and answers; a spare: it is frozen so.
    ready: bool = False
    last_words: str = ""  # the last line of output of a replica that ended
    engine: str = ""  # what restored it, where the agent's record has it


@dataclass(frozen=True)
class Seal:
    """The daemon's signed word that it proved a generation; the host only keeps it."""

    pool: str
    number: int
    builder: str
    proven_at: float
    signature: str  # hex


@dataclass(frozen=True)
class GenerationFact:
    """A generation (or capture) that this host holds."""

    digest: Digest
    pool: str
    staged: bool  # verified and unpacked, ready to restore from
    bytes: int
    seal: Optional[Seal] = None


@dataclass(frozen=True)
class Observation:
    """Everything the agent knows of its host, at one moment."""

    boot_id: str
    now: float  # the host's clock
    containers: tuple[ContainerFact, ...] = ()
    generations: tuple[GenerationFact, ...] = ()
    running_actions: tuple[str, ...] = ()  # action ids
    facts: dict[str, str] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)  # content ids by name, "": absent
    disk_free_bytes: int = 0  # where least is left above the reserve
    disk_reserve_bytes: int = 0
    memory_free_bytes: int = 0
    memory: dict[str, Memory] = field(default_factory=dict)  # of ours that run, by container id


@dataclass(frozen=True)
class LivenessCheck:
    """What an agent asks its replicas of a pool again and again, by itself.

    Dead after `failures` attempts in a row without success; with `any_answer` every well-formed
    HTTP answer is one.
    """

    probe: Probe
    main_port: int
    interval_seconds: float
    failures: int
    any_answer: bool = False


@dataclass(frozen=True)
class Observe(Request[Observation]):
    """List what is there, and remove what no running action owns of the agent's own work files.

    `names` are names of the caller's: foreign containers that carry one of them are listed too.
    `liveness` is by pool, and holds until the next listing says otherwise. `images` are names whose
    content ids are told.
    """

    verb: ClassVar[str] = "observe"
    answer: ClassVar[type] = Observation
    fleet: str
    names: tuple[str, ...] = ()
    liveness: dict[str, LivenessCheck] = field(default_factory=dict)
    images: tuple[str, ...] = ()


@dataclass(frozen=True)
class Event:
    """Something an agent noticed by itself: a hint to look, never the truth. It may get lost."""

    kind: Literal["ended", "unresponsive", "answers-again"]
    name: str
    container_id: str
    at: float  # the host's clock
    reason: str = ""


# -- replicas -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Placement:
    """Under which name a replica runs, and where it may be published."""

    fleet: str
    pool: str
    name: str
    publish_address: str
    publish_ports: str  # "20000-20999"


@dataclass(frozen=True)
class Started:
    """A replica that answered its readiness probe. `seconds`: action begun -> first success.

    `spare` is the name that it had before, where a spare was claimed.
    `engine` restored it; `engine_reason` is why that is podman where the runtime was to be tried.
    """

    name: str
    container_id: str
    address: str
    method: Literal["cold", "restore", "spare", "move"]
    seconds: float
    phases: Phases = field(default_factory=dict)
    started_at: float = 0.0
    spare: str = ""
    engine: str = ""
    engine_reason: str = ""


@dataclass(frozen=True)
class Start(Request[Started]):
    """Start cold from the image. A container of ours by that name that runs and is ready: done.

    With `image_id` from that very image, whatever its name means by now; without it there: refused.
    """

    verb: ClassVar[str] = "start"
    answer: ClassVar[type] = Started
    placement: Placement
    application: Application
    image_id: str = ""


@dataclass(frozen=True)
class Restore(Request[Started]):
    """Restore a staged generation (or capture, `method` "move") under the placement's name.

    With `spare`, that spare is claimed where it is still there, fits and answers; otherwise it is
    removed and the generation is restored as without it: the answer's method says which.
    """

    verb: ClassVar[str] = "restore"
    answer: ClassVar[type] = Started
    placement: Placement
    application: Application
    digest: Digest
    method: Literal["restore", "move"] = "restore"
    spare: str = ""


@dataclass(frozen=True)
class PrepareSpare(Request[Started]):
    """Restore one more of a generation, hook and readiness included, and freeze it so.

    Its name is derived from the action's id; the placement's is not used. It waits for replicas
    that are being restored on this host, and is refused where memory is short.
    """

    verb: ClassVar[str] = "prepare-spare"
    answer: ClassVar[type] = Started
    placement: Placement
    application: Application
    digest: Digest


@dataclass(frozen=True)
class Remove(Request[Done]):
    """Stop (within the application's stop timeout) and remove a container of ours, by name.

    Absent: done, unchanged. Somebody else's container: Refused, untouched. With `container_id`,
    only that very container is removed.
    """

    verb: ClassVar[str] = "remove"
    answer: ClassVar[type] = Done
    fleet: str
    name: str
    container_id: str = ""
    stop_timeout_seconds: int = 10


@dataclass(frozen=True)
class LogLines:
    """The last lines of a container's output, both streams."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Logs(Request[LogLines]):
    """Read a replica's output."""

    verb: ClassVar[str] = "logs"
    answer: ClassVar[type] = LogLines
    fleet: str
    name: str
    tail: int = 100


# -- generations ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sealed:
    """A sealed manifest and the digest under which the host holds it."""

    digest: Digest
    manifest: Manifest


@dataclass(frozen=True)
class Build(Request[Sealed]):
    """Start cold, warm, prepare, quiesce, checkpoint, seal, prove: a new generation, or nothing.

    Afterwards the generation is complete and staged on this host and no container is left.
    `image_id`: see Start.
    """

    verb: ClassVar[str] = "build"
    answer: ClassVar[type] = Sealed
    placement: Placement  # its name is the pool's; the agent derives those of its containers
    application: Application
    image_id: str = ""


@dataclass(frozen=True)
class Import(Request[Sealed]):
    """Make a generation of an archive that podman exported: read through, sealed, proven.

    `file` is a path on this host, which stays as it is. Afterwards as after Build.
    """

    verb: ClassVar[str] = "import"
    answer: ClassVar[type] = Sealed
    placement: Placement  # its name is the pool's
    application: Application
    file: str


@dataclass(frozen=True)
class Capture(Request[Sealed]):
    """Freeze a running replica into a capture (a generation of one replica) and leave it frozen.

    The stopped container stays, so that `Resume` can thaw it. When it fails the replica runs on,
    and `Resume` proves it ready where it had stopped before.
    """

    verb: ClassVar[str] = "capture"
    answer: ClassVar[type] = Sealed
    fleet: str
    pool: str
    name: str
    application: Application


@dataclass(frozen=True)
class Resume(Request[Started]):
    """Thaw a captured replica where it was frozen and probe it. Ready already: done."""

    verb: ClassVar[str] = "resume"
    answer: ClassVar[type] = Started
    placement: Placement
    application: Application


@dataclass(frozen=True)
class Stage(Request[Done]):
    """Verify a received generation against its digest and unpack it. Staged already: unchanged.

    With an `engine` that restores from unpacked files, these are made as well.
    """

    verb: ClassVar[str] = "stage"
    answer: ClassVar[type] = Done
    digest: Digest
    engine: EngineChoice = "podman"


@dataclass(frozen=True)
class Discard(Request[Done]):
    """Delete a generation or capture from this host. Absent: unchanged."""

    verb: ClassVar[str] = "discard"
    answer: ClassVar[type] = Done
    digest: Digest


# -- files and images -----------------------------------------------------------------------------


@dataclass(frozen=True)
class BlobFacts:
    """A transferable file. `part_bytes` of it have arrived when it is not complete."""

    complete: bool
    bytes: int = 0
    part_bytes: int = 0


@dataclass(frozen=True)
class StatBlob(Request[BlobFacts]):
    """Ask how much of a file is there. `path` is relative to the agent's folder."""

    verb: ClassVar[str] = "stat-blob"
    answer: ClassVar[type] = BlobFacts
    path: str


@dataclass(frozen=True)
class ImageFacts:
    """Whether the host has an image; `path` and `sha256` name its archive once exported."""

    image_id: str  # "" when it is absent
    path: str = ""
    bytes: int = 0
    sha256: str = ""


@dataclass(frozen=True)
class FindImage(Request[ImageFacts]):
    """Look an image up by name, and by content id where one is given."""

    verb: ClassVar[str] = "find-image"
    answer: ClassVar[type] = ImageFacts
    image: str
    image_id: str = ""


@dataclass(frozen=True)
class ExportImage(Request[ImageFacts]):
    """Write the image's archive beside the generations, once, for sending it to another host."""

    verb: ClassVar[str] = "export-image"
    answer: ClassVar[type] = ImageFacts
    image: str


@dataclass(frozen=True)
class ImportImage(Request[ImageFacts]):
    """Load a received image archive and delete it; the image must turn out to be `image_id`."""

    verb: ClassVar[str] = "import-image"
    answer: ClassVar[type] = ImageFacts
    path: str
    image: str
    image_id: str


# -- doctor ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what it is, why it matters and the way out."""

    check: str
    level: Literal["ok", "warning", "error"]
    what: str
    why: str = ""
    way_out: str = ""


@dataclass(frozen=True)
class Findings:
    """All findings of one host, in the order in which they were looked at."""

    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Examine(Request[Findings]):
    """Try what a host needs, CRIU included; `now` is the caller's clock, for the skew."""

    verb: ClassVar[str] = "examine"
    answer: ClassVar[type] = Findings
    now: float
