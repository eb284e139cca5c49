"""Archives that are to become generations: which are taken now. Pure.

In: the snapshot. Out: one action for each import that can begin. Its change ends with the action's
outcome (`fold`), in one transaction.
"""

from __future__ import annotations

from collections.abc import Iterator

from poold.model.fleet import Change, ChangeId, HostName
from poold.reconcile.actions import TakeArchive, import_subject
from poold.reconcile.snapshot import Snapshot


def planned(snapshot: Snapshot, now: float) -> Iterator[TakeArchive]:
    """Yield imports whose host is there, and that do not wait after a failure."""
    for change in _imports(snapshot):
        host = snapshot.hosts.get(_host(change))
        retry = snapshot.retries.get(import_subject(change.id))
        if host is None or not host.up or host.fenced or import_subject(change.id) in snapshot.busy:
            continue
        if retry is None or retry.at <= now:
            yield TakeArchive(host.name, str(change.wish["file"]), change.id)


def held_up(snapshot: Snapshot) -> Iterator[str]:
    """Say why an import does not go on."""
    for change in _imports(snapshot):
        host = snapshot.hosts.get(_host(change))
        retry = snapshot.retries.get(import_subject(change.id))
        if host is None or not host.up:
            why = host.reason if host else "it left the configuration"
            yield f"the import waits for {_host(change)}: {why or 'it was not heard yet'}"
        elif host.fenced:
            yield f"the import waits for {host.name}: {host.closed}"
        elif retry is not None and import_subject(change.id) not in snapshot.busy:
            yield f"the import is tried again: {retry.message}"


def change_of(subject: str) -> ChangeId:
    """Return the change that owns an import's subject."""
    return ChangeId(int(subject.rpartition("-")[2]))


def _imports(snapshot: Snapshot) -> Iterator[Change]:
    return (change for change in snapshot.changes if change.kind == "import")


def _host(change: Change) -> HostName:
    return HostName(str(change.wish["host"]))
