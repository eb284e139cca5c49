"""The bodies of requests and answers, as they are on the wire.

Flows in: JSON, refused with a sentence when a field is unknown, misses or has the wrong form.
Flows out: values for the encoder and for the OpenAPI document. Fleet values (Replica, Change, …)
are answered as the model has them.
"""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta, Struct

from poold.agent.messages import Finding
from poold.model.balancing import BalancerStatus
from poold.model.events import AcceptedCall, Event
from poold.model.fleet import (
    Change,
    Digest,
    Generation,
    HostName,
    HostStatus,
    PoolName,
    PoolStatus,
    Replica,
    RollStatus,
    Spare,
)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_LONGEST_REASON = 500

Name = Annotated[str, Meta(extra_json_schema={"pattern": f"^{NAME.pattern}$"})]
Reason = Annotated[
    str,
    Meta(
        description="Why, for whoever reads the change later; one line.",
        extra_json_schema={"maxLength": _LONGEST_REASON},
    ),
]
Count = Annotated[int, Meta(ge=0, le=100_000)]
Difference = Annotated[int, Meta(ge=-100_000, le=100_000)]


def check_name(what: str, name: str) -> None:
    """Refuse (ValueError) what cannot be the name of anything here."""
    if not NAME.fullmatch(name):
        raise ValueError(
            f"{what} {name[:80]!r} is no name: letters, digits, '_', '.', '-', at most 63 of them,"
            " a letter or digit first"
        )


def check_reason(reason: str) -> None:
    """Refuse (ValueError) a reason that would break a line of a log or a table."""
    if len(reason) > _LONGEST_REASON:
        raise ValueError(f"reason is longer than {_LONGEST_REASON} characters")
    if _CONTROL_CHARACTER.search(reason):
        raise ValueError("reason contains a control character or a line break")


def one_line(text: str, longest: int) -> str:
    """Return what somebody else wrote, so that it breaks no line of a log or a table."""
    clean = _CONTROL_CHARACTER.sub(" ", text[: 2 * longest]).strip()
    return clean if len(clean) <= longest else f"{clean[: longest - 1]}…"


class ScaleRequest(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """How many replicas are wished: `replicas` of them, or `delta` more (fewer when negative).

    `count` is another word for `replicas`.
    """

    replicas: Count | None = None
    count: Count | None = None
    delta: Difference | None = None
    reason: Reason = ""

    def __post_init__(self) -> None:
        check_reason(self.reason)
        given = (self.replicas, self.count, self.delta)
        if sum(each is not None for each in given) != 1:
            raise ValueError("exactly one of replicas, count and delta is needed")


class RestoreRequest(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """One more replica; the name and the host are chosen where they are not given."""

    name: Name | None = None
    host: Name | None = None
    reason: Reason = ""

    def __post_init__(self) -> None:
        check_reason(self.reason)
        for what, name in (("name", self.name), ("host", self.host)):
            if name is not None:
                check_name(what, name)


class MoveRequest(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The host that the running replica is to go to."""

    to: Name
    reason: Reason = ""

    def __post_init__(self) -> None:
        check_reason(self.reason)
        check_name("to", self.to)


class CheckpointRequest(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A new generation is wished; the body may be left out."""

    reason: Reason = ""

    def __post_init__(self) -> None:
        check_reason(self.reason)


class ImportRequest(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A generation is wished of an archive that podman exported.

    `file` is an absolute path on `host`, which is one of the pool's; left out: on its builder.
    """

    file: Annotated[str, Meta(min_length=2, max_length=4096)]
    host: Name | None = None
    reason: Reason = ""

    def __post_init__(self) -> None:
        if not self.file.startswith("/") or not self.file.isprintable():
            raise ValueError("file: an absolute path is needed")
        check_reason(self.reason)


class RollRequest(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """All replicas shall be of one generation; the body may be left out.

    `to` is its number; `surge` more than wished may run meanwhile and `unavailable` fewer than
    wished be ready, as the pool's `roll` table says where they are left out.
    """

    to: Annotated[int, Meta(ge=1, le=2**31)] | None = None
    surge: Count | None = None
    unavailable: Count | None = None
    reason: Reason = ""

    def __post_init__(self) -> None:
        check_reason(self.reason)


class HostRequest(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Something is said of a host; the body may be left out."""

    reason: Reason = ""

    def __post_init__(self) -> None:
        check_reason(self.reason)


class PardonRequest(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Quarantined generations may be tried on a host again: those of a pool, or all ("")."""

    pool: str = ""
    reason: Reason = ""

    def __post_init__(self) -> None:
        check_reason(self.reason)
        if self.pool:
            check_name("pool", self.pool)


class LetGoRequest(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A host's names shall be free; `confirmed` asserts that nothing of ours runs there."""

    confirmed: bool = False
    reason: Reason = ""

    def __post_init__(self) -> None:
        check_reason(self.reason)


class PoolView(Struct, frozen=True, kw_only=True):
    """A pool: what is configured, what is wished, how it is. The environment is not shown."""

    name: PoolName
    desired: int
    ready: int
    generation: int | None
    sentence: str
    image: str
    port: int
    hosts: tuple[HostName, ...]
    builder: HostName
    min: int
    max: int
    keep_generations: int
    keep_days: float | None
    keep_bytes: int | None
    held: int | None
    roll: RollStatus | None
    balancer: BalancerStatus | None  # who is behind it
    image_note: str  # where the image's name means another image by now; mostly nothing
    revision: int  # of what is wished; the ETag has it too
    replicas: tuple[Replica, ...]
    spares_wished: int = 0  # on all hosts together
    spares: tuple[Spare, ...] = ()


class ScaleView(Struct, frozen=True, kw_only=True):
    """How many replicas are wished, there, ready and allowed."""

    pool: PoolName
    desired: int
    count: int
    ready: int
    min: int
    max: int
    revision: int  # of what is wished; the ETag has it too


class PoolList(Struct, frozen=True):
    """All pools."""

    pools: tuple[PoolStatus, ...]


class ReplicaList(Struct, frozen=True):
    """Replicas, by name; and of each pool with one the revision of what is wished."""

    replicas: tuple[Replica, ...]
    revisions: dict[PoolName, int] = {}
    spares: tuple[Spare, ...] = ()  # what has no number yet


class HostList(Struct, frozen=True):
    """All hosts."""

    hosts: tuple[HostStatus, ...]


class GenerationList(Struct, frozen=True):
    """A pool's generations, the newest first.

    `unfit` has by digest, for each of the pool's hosts that cannot take it, the reasons.
    """

    generations: tuple[Generation, ...]
    unfit: dict[Digest, dict[HostName, tuple[str, ...]]] = {}


class ChangeList(Struct, frozen=True):
    """Changes, the newest first."""

    changes: tuple[Change, ...]


class EventList(Struct, frozen=True, kw_only=True):
    """Events, oldest first; `first` is the oldest that is kept (0: none), `last` the newest id."""

    events: tuple[Event, ...]
    first: int
    last: int


class CallList(Struct, frozen=True):
    """Accepted changing calls, the newest first."""

    calls: tuple[AcceptedCall, ...]


class LogView(Struct, frozen=True):
    """The last lines of a replica's output."""

    lines: tuple[str, ...]


class DoctorView(Struct, frozen=True):
    """What was found, by host; what concerns the daemon itself stands under "daemon"."""

    hosts: dict[str, tuple[Finding, ...]]


class Health(Struct, frozen=True, kw_only=True):
    """The daemon lives; `sentence` says how its fleet is, `note` what concerns itself."""

    status: str
    version: str
    sentence: str
    note: str = ""


class ProblemView(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A failure as RFC 9457 has it: `code` is for programs, `detail` and `hint` for people."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    kind: str
    hint: str = ""
    evidence: str = ""  # several lines, such as the tail of CRIU's log
    retry_after_seconds: float | None = None
