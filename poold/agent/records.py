"""What the agent remembers of each replica on its host: one small file a name.

Flows in: a record when a replica became ready, was frozen or went away. Flows out: records; a file
that cannot be read counts as absent, for the container itself is the truth and a record only adds
what podman does not know: ready or not, from which generation, where it is published.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Literal, Optional

from poold.agent.codec import decode
from poold.agent.folders import Folders, safe_name, write_whole
from poold.agent.messages import Started
from poold.errors import Problem
from poold.model.fleet import Phases


@dataclass(frozen=True)
class Record:
    """A replica, as of the last action that changed it.

    `frozen` says that a capture began and the replica was not proven ready since, whether its
    container runs or not; `capture` is the capture's digest once that is sealed. `spare` says that
    it is frozen ahead of need, ready, under a name that nobody wished for.
    """

    name: str
    fleet: str
    pool: str
    container_id: str
    method: Literal["cold", "restore", "spare", "move"]
    address: str
    published: dict[str, int]  # container port -> host port
    started_at: float
    seconds: float
    digest: str = ""
    phases: Phases = field(default_factory=dict)
    frozen: bool = False
    capture: str = ""
    spare: bool = False
    engine: str = ""
    engine_reason: str = ""

    @property
    def started(self) -> Started:
        """The answer that its action gave."""
        return Started(
            self.name, self.container_id, self.address, self.method, self.seconds, self.phases,
            self.started_at, engine=self.engine, engine_reason=self.engine_reason,
        )  # fmt: skip


class Records:
    """The folder of records."""

    def __init__(self, folders: Folders) -> None:
        self._folder = folders.replicas
        self._listeners: list[Callable[[str, Optional[Record]], None]] = []

    def listen(self, changed: Callable[[str, Optional[Record]], None]) -> None:
        """Call `changed` with each name that this process writes (its record) or forgets (None)."""
        self._listeners.append(changed)

    def read(self, name: str) -> Optional[Record]:
        """Return the record of that name, if there is a readable one."""
        with contextlib.suppress(OSError, ValueError, Problem):
            return decode(
                Record, json.loads((self._folder / f"{safe_name(name)}.json").read_bytes())
            )
        return None

    def all(self) -> dict[str, Record]:
        """Return every readable record by name."""
        names = [path.stem for path in sorted(self._folder.glob("*.json"))]
        return {name: record for name in names if (record := self.read(name)) is not None}

    def write(self, record: Record) -> None:
        """Remember; replaces what was known under that name."""
        data = json.dumps(asdict(record)).encode()
        write_whole(self._folder / f"{safe_name(record.name)}.json", data)
        for changed in self._listeners:
            changed(record.name, record)

    def forget(self, name: str, *, unless: Optional[Callable[[Record], bool]] = None) -> None:
        """Delete a record; absent is fine. `unless` is asked right before, without a gap."""
        record = self.read(name)
        if record is not None and unless is not None and unless(record):
            return
        with contextlib.suppress(OSError):
            (self._folder / f"{safe_name(name)}.json").unlink()
        for changed in self._listeners:
            changed(name, None)
