"""What a plan may consist of.

Values only. The first group changes nothing but the store and is done at once; each of the second
owns its `subject` until its outcome is folded, so that nothing is decided twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from poold.agent.messages import ContainerFact
from poold.model.fleet import ChangeId, Digest, HostName, ReplicaName
from poold.store import Move, Roll


@dataclass(frozen=True, slots=True)
class Introduce:
    """Look through a host for the first time: these containers are wished for from now on."""

    host: HostName
    found: tuple[ContainerFact, ...]


@dataclass(frozen=True, slots=True)
class FirstWish:
    """Apply the configuration's number of replicas, once in a pool's life."""

    names: tuple[ReplicaName, ...]


@dataclass(frozen=True, slots=True)
class Adopt:
    """Write down that a wished replica runs where it was found."""

    host: HostName
    fact: ContainerFact


@dataclass(frozen=True, slots=True)
class Forget:
    """Free a name: its host confirmed that nothing of ours has it."""

    name: ReplicaName
    host: HostName


@dataclass(frozen=True, slots=True)
class Retire:
    """Take a generation out of service."""

    number: int
    digest: Digest
    hosts: tuple[HostName, ...]


@dataclass(frozen=True, slots=True)
class Disown:
    """Have a generation removed from a host that nobody knows of: its action was never told."""

    digest: Digest
    host: HostName


RollTurn = Literal[
    "aimed",  # at another generation than before
    "surged",  # extra replicas are wished for
    "kept",  # an extra replica is one that somebody wished for by now
    "replacing",
    "replaced",
    "relieved",  # extra replicas are not needed any more
    "left",  # and are gone
    "paused",
    "finished",
    "dropped",  # a paused one that says nothing any more
]


@dataclass(frozen=True, slots=True)
class TurnRoll:
    """Write down the next state of a roll; finished or dropped, there is none."""

    turn: RollTurn
    roll: Roll
    text: str


@dataclass(frozen=True, slots=True)
class Serve:
    """Remember that a generation of this application and image is current now.

    `rolls` says why a roll begins; "": none does.
    """

    fingerprint: str
    image_id: str
    rolls: str


@dataclass(frozen=True, slots=True)
class Release:
    """End a hold: the configuration is not the one that it was for."""

    number: int


@dataclass(frozen=True, slots=True)
class Learn:
    """Write down of what generations were made that an older poold numbered."""

    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pardon:
    """Let a quarantined generation be tried on a host again."""

    digest: Digest
    host: HostName
    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class TakeDown:
    """Stop and remove one very container of ours."""

    name: str
    host: HostName
    container_id: str
    reason: str
    stray: bool = False  # the name lives elsewhere, where it may be acted on at the same time

    @property
    def subject(self) -> str:
        """What is owned by this action."""
        return stray_subject(self.name, self.host) if self.stray else replica_subject(self.name)


@dataclass(frozen=True, slots=True)
class BringUp:
    """Bring a name up on its host by one rung of the ladder, `cold` or a generation.

    `failed_rungs` are those that failed before and `reason` says how. `spare` is one of that
    generation which waits on the host: it is claimed rather than another one restored. A cold start
    is of the very image with `image_id`; "": of what the image's name means.
    """

    name: ReplicaName
    host: HostName
    digest: Digest | None
    generation: int | None
    failed_rungs: tuple[str, ...] = ()
    reason: str = ""
    spare: str = ""
    image_id: str = ""

    @property
    def rung(self) -> str:
        """The rung's stable name."""
        return COLD if self.digest is None else restore_rung(self.digest)

    @property
    def subject(self) -> str:
        """What is owned by this action."""
        return replica_subject(self.name)


@dataclass(frozen=True, slots=True)
class Thaw:
    """Thaw a replica that was left frozen by a move of which nothing else is known."""

    name: ReplicaName
    host: HostName

    @property
    def subject(self) -> str:
        """What is owned by this action."""
        return replica_subject(self.name)


@dataclass(frozen=True, slots=True)
class MakeSpare:
    """Restore one more of a generation on a host, and freeze it until somebody needs it."""

    host: HostName
    digest: Digest
    generation: int

    @property
    def subject(self) -> str:
        """What is owned by this action: one at a time on a host."""
        return spare_subject(self.host)


@dataclass(frozen=True, slots=True)
class TakeArchive:
    """Make a generation of an archive that lies on a host, for a change."""

    host: HostName
    file: str
    change: ChangeId

    @property
    def subject(self) -> str:
        """What is owned by this action."""
        return import_subject(self.change)


@dataclass(frozen=True, slots=True)
class MakeGeneration:
    """Build, prove and number a new generation.

    `apart` from the pool's builder: on a host that cannot take what the builder makes, of the same
    image, whose id that is.
    """

    builder: HostName
    fingerprint: str
    apart: bool = False
    image_id: str = ""

    @property
    def subject(self) -> str:
        """What is owned by this action."""
        return build_subject(self.fingerprint, self.builder if self.apart else None)


@dataclass(frozen=True, slots=True)
class SendImage:
    """Give a host the application's image while its first generation is being built."""

    image: str
    source: HostName
    target: HostName

    @property
    def subject(self) -> str:
        """What is owned by this action."""
        return image_subject(self.image, self.target)


@dataclass(frozen=True, slots=True)
class SendGeneration:
    """Make a host hold a generation, image included, verified and unpacked."""

    number: int
    digest: Digest
    source: HostName
    target: HostName

    @property
    def subject(self) -> str:
        """What is owned by this action."""
        return generation_subject(self.digest, self.target)


@dataclass(frozen=True, slots=True)
class DropGeneration:
    """Delete a retired generation or a capture from a host."""

    digest: Digest
    host: HostName

    @property
    def subject(self) -> str:
        """What is owned by this action."""
        return generation_subject(self.digest, self.host)


@dataclass(frozen=True, slots=True)
class AdvanceMove:
    """Do the next step of a move."""

    name: ReplicaName

    @property
    def subject(self) -> str:
        """What is owned by this action."""
        return replica_subject(self.name)


Local = (
    Introduce | FirstWish | Adopt | Forget | Retire | Disown | TurnRoll | Serve | Release
    | Learn | Pardon
)  # fmt: skip
Remote = (
    TakeDown
    | BringUp
    | Thaw
    | MakeSpare
    | TakeArchive
    | MakeGeneration
    | SendImage
    | SendGeneration
    | DropGeneration
    | AdvanceMove
)
Action = Local | Remote

COLD = "cold"


def hosts_of(action: Remote, moves: Iterable[Move]) -> frozenset[HostName]:
    """Return the hosts that an action is done at, both of a move."""
    match action:
        case MakeGeneration():
            return frozenset({action.builder})
        case SendImage() | SendGeneration():
            return frozenset({action.source, action.target})
        case AdvanceMove():
            mine = [move for move in moves if move.name == action.name]
            return frozenset(host for move in mine for host in (move.source, move.target))
        case _:
            return frozenset({action.host})


def restore_rung(digest: Digest) -> str:
    """Return the name of the rung that restores a generation."""
    return f"restore:{digest}"


def replica_subject(name: str) -> str:
    """Return what an action on a replica (or any container) owns."""
    return f"replica:{name}"


def stray_subject(name: str, host: HostName) -> str:
    """Return what the removal of a fenced host's container owns: not the name itself."""
    return f"stray:{name}@{host}"


def spare_subject(host: HostName) -> str:
    """Return what preparing a spare owns: a host, for its pool."""
    return f"spare:{host}"


def import_subject(change: ChangeId) -> str:
    """Return what an import owns: its change. Like a build it is about to tell of a generation."""
    return f"build:import-{change}"


def build_subject(fingerprint: str, apart: HostName | None = None) -> str:
    """Return what a build owns; `apart`: the host that gets a generation of its own."""
    return f"build:{fingerprint}" + (f"@{apart}" if apart else "")


def image_subject(image: str, host: HostName) -> str:
    """Return what an action on a host's copy of an image owns."""
    return f"image:{image}@{host}"


def generation_subject(digest: Digest, host: HostName) -> str:
    """Return what an action on a host's copy of a generation owns."""
    return f"generation:{digest}@{host}"


def avoid_key(name: str, host: str) -> str:
    """Return the key under which is remembered that a replica could not come up on a host."""
    return f"avoid:{name}@{host}"


def removal_key(name: str) -> str:
    """Return the key under which a failed removal waits; it does not hold back other actions."""
    return f"removal:{name}"


def crash_key(name: str) -> str:
    """Return the key under which a replica that dies at once waits for its next life."""
    return f"crash:{name}"
