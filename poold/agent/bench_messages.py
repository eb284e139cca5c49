"""What `poold bench` asks of an agent: the same start, by other ways than poold's own.

A way is timed on its host, from its first command to the first success of the readiness probe at
the published address. Whatever it brings up is removed before the answer is given.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from poold.agent.messages import Placement, Request
from poold.model.application import Application
from poold.model.fleet import Digest, Phases

Way = Literal["prepare", "cold", "article", "podman", "bare", "clean"]


@dataclass(frozen=True)
class Took:
    """One container that came up: seconds from the common beginning to its first success.

    `resident_bytes` is its processes' resident memory at the end of the run.
    """

    seconds: float
    phases: Phases = field(default_factory=dict)
    resident_bytes: int = 0


@dataclass(frozen=True)
class Measured:
    """What a way took, one entry per container; `archive_bytes` of what it restored from."""

    took: tuple[Took, ...] = ()
    archive_bytes: int = 0


@dataclass(frozen=True)
class Measure(Request[Measured]):
    """Bring `burst` containers up at once, by one way, and remove them again.

    "prepare" starts cold and makes the article's archive (`podman container checkpoint -e`, with
    podman's own compression), which "article" restores from; "podman" restores from the staged
    archive of `digest`, which is not compressed, by the same command; "bare" calls the OCI
    runtime's restore by itself on that archive, unpacked, all else made before and not timed;
    "clean" deletes the article's archive.
    """

    verb: ClassVar[str] = "measure"
    answer: ClassVar[type] = Measured
    way: Way
    placement: Placement  # its name is the pool's; the agent derives those of its containers
    application: Application
    digest: Digest
    burst: int = 1
