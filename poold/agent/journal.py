"""What became of each action, on the host, so that no action is ever done twice.

Flows in: an action's id and its outcome. Flows out: whether it is new, running elsewhere, done
(with its outcome) or was interrupted. One file an action in the run folder, `actions/<id>.json`.
While an action runs, the process that runs it holds a lock (flock) on the file: a record that says
"running" without a lock belongs to a process that died. Nothing is fsynced: a reboot empties the
run folder where that lies on tmpfs, and a record of another boot is never trusted where it does
not. It refuses to know what actions do.

`Journal.running` is what the actions get as `running`: the ids of all actions that run on this
host now, in this process or another; work/<id> of any other id may be removed.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

from poold.errors import Permanent, Refused, Temporary

KEEP_SECONDS = 86400.0
KEEP_RECORDS = 2000
_PRUNE_EVERY = 64  # claims
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


def read_boot_id() -> str:
    """Return the kernel's id of this boot; containers and replicas do not outlive it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


@dataclass(frozen=True)
class Outcome:
    """How an action ended: the JSON of its result or of its problem."""

    result: Any = None
    problem: Optional[dict[str, Any]] = None

    def to_json(self) -> dict[str, Any]:
        """Return the form kept in the record."""
        if self.problem is not None:
            return {"problem": self.problem}
        return {"result": self.result}


class Busy:
    """Another process runs the action, or is looking at its record right now: ask again."""


class Claim:
    """The right to do an action, held by this process until `finish` or its death."""

    def __init__(self, descriptor: int, header: dict[str, Any]) -> None:
        self._descriptor = descriptor
        self._header = header

    def finish(self, outcome: Outcome) -> None:
        """Record the outcome and give the right up."""
        try:
            record = {**self._header, "state": "done", **outcome.to_json()}
            _write(self._descriptor, {**record, "ended_at": time.time()})
        finally:
            os.close(self._descriptor)


class Journal:
    """The records of one host, shared by all agent processes on it."""

    def __init__(self, run: Path, boot_id: str) -> None:
        """`run` is the run folder; a record of another boot than `boot_id` is never trusted."""
        self._folder = run / "actions"
        self._boot_id = boot_id
        self._claims = 0
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def claim(self, action: str, question: str) -> Union[Claim, Outcome, Busy]:
        """Take the right to do an action, or learn why not; returns at once.

        `question` says what is asked (a digest of verb and body): the same id for something else
        is refused. Raises Temporary("action.interrupted") when the process that ran it died, and
        Temporary("host.rebooted") when that was before the last boot.
        """
        _check_id(action)
        self._claims += 1
        if self._claims % _PRUNE_EVERY == 1:
            self.prune()
        path = self._folder / f"{action}.json"
        descriptor = _open_locked(path)
        if descriptor is None:
            return Busy()
        try:
            record = _read(descriptor)
            if record is None:
                header = {"action": action, "question": question, "boot_id": self._boot_id}
                _begin(path, descriptor, header)
                claim = Claim(descriptor, header)
                descriptor = -1
                return claim
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        return self._recorded(action, question, record)

    def _recorded(self, action: str, question: str, record: dict[str, Any]) -> Outcome:
        if record.get("question", question) != question:
            raise Refused(
                "action.id-reused", f"cannot do action {action}: its id was used for another one"
            )
        if record.get("boot_id", self._boot_id) != self._boot_id:
            raise Temporary(
                "host.rebooted", f"cannot tell what became of action {action}: the host rebooted"
            )
        if record.get("state") != "done":
            raise Temporary(
                "action.interrupted",
                f"cannot tell what became of action {action}: the agent that ran it died",
                hint="observe the host, then ask again under a new id",
            )
        return Outcome(record.get("result"), record.get("problem"))

    def running(self) -> tuple[str, ...]:
        """Return the ids of the actions that run on this host now, in whichever process."""
        return tuple(path.stem for path in self._records() if _is_locked(path))

    def prune(self, *, now: Optional[float] = None) -> None:
        """Forget what ended more than a day ago, and the oldest beyond a number of records."""
        oldest = (time.time() if now is None else now) - KEEP_SECONDS
        dated = sorted((_modified(path), path) for path in self._records())
        surplus = max(0, len(dated) - KEEP_RECORDS)
        for index, (modified, path) in enumerate(dated):
            if index < surplus or modified < oldest:
                _remove_unlocked(path)

    def _records(self) -> list[Path]:
        return [path for path in self._folder.iterdir() if path.suffix == ".json"]


def _begin(path: Path, descriptor: int, header: dict[str, Any]) -> None:
    try:
        _write(descriptor, {**header, "state": "running", "started_at": time.time()})
    except OSError as error:
        path.unlink()  # nothing was done yet: it may be asked again
        raise Temporary(
            "agent.journal", f"cannot write the record {path}: {error.strerror}"
        ) from error


def _check_id(action: str) -> None:
    if not _ID.fullmatch(action):
        raise Refused("action.bad-id", f"cannot do action {action!r:.140}: not an id")


def _open_locked(path: Path) -> Optional[int]:
    """Open a record under its lock, or return None when somebody else holds it.

    A record can be pruned between open and lock: then the lock is on a file without a name.
    """
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise Permanent(
                "agent.journal", f"cannot open the record {path}: {error.strerror}"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:
                return descriptor
            os.close(descriptor)
        except BlockingIOError:
            os.close(descriptor)
            return None


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _remove_unlocked(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    except OSError:
        pass  # it runs, or somebody else removed it
    finally:
        os.close(descriptor)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _read(descriptor: int) -> Optional[dict[str, Any]]:
    """Return the record, None when it is new; one torn by its writer's death says nothing."""
    text = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    if not text:
        return None
    try:
        record = json.loads(text)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _write(descriptor: int, record: dict[str, Any]) -> None:
    """Replace the record in place: its lock belongs to this very file, so no rename.

    Never empty on the way: an empty record is a new one, and the action would be done again.
    Dying in the middle leaves a torn record, which reads as interrupted.
    """
    text = json.dumps(record).encode()
    offset = 0
    while offset < len(text):
        offset += os.pwrite(descriptor, text[offset:], offset)
    os.ftruncate(descriptor, len(text))
