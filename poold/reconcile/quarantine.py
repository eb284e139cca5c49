"""Generations that cannot be restored on some host: which failures say so, and for how long.

Pure, time is handed in. In: a failed restore, or a snapshot. Out: what is to be remembered, and
whom to pardon. A replica's own failed rungs keep only itself from trying again; this keeps all the
other names on that host from finding out the same, each by a restore that fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from poold.errors import Permanent, Problem
from poold.model.fleet import Digest, Generation, HostName, Quarantine
from poold.reconcile.actions import Pardon
from poold.reconcile.snapshot import Snapshot

BASE_SECONDS, CAP_SECONDS = 300.0, 6 * 3600.0

# CRIU, or the process that it thawed, said that this image does not come to life on this host. Not
# here: a readiness probe or a command that was too slow (load), a hook that failed (what it calls
# may be away), a missing image, volume or network and a full disk (a cold start needs them too), a
# damaged archive (it is deleted and sent again).
BLAMED = frozenset({"replica.exited", "generation.other-machine"})

_MATTERS = ("criu", "engine", "kernel", "machine", "runtime")  # facts of a host


def blames_generation(problem: Problem) -> bool:
    """Whether a failed restore will fail for any name on that host, until it changes."""
    return isinstance(problem, Permanent) and (
        problem.code.startswith("criu.") or problem.code in BLAMED
    )


def what_it_is(boot_id: str, facts: Mapping[str, str]) -> dict[str, str]:
    """Return what of a host decides whether CRIU can restore there."""
    return {"boot": boot_id, **{name: facts[name] for name in _MATTERS if name in facts}}


def quarantined(
    generation: Generation,
    host: HostName,
    problem: Problem,
    *,
    before: Quarantine | None,
    begun_at: float,
    now: float,
    found_with: dict[str, str],
) -> Quarantine:
    """Return what to remember of a restore that failed.

    One that had begun before the quarantine did (others tried at the same time) is not counted as
    another failure: it is no news.
    """
    if before is not None and begun_at <= before.since:
        return before
    failures = before.failures + 1 if before else 1
    seconds = min(CAP_SECONDS, BASE_SECONDS * 2.0 ** min(failures - 1, 20))
    return Quarantine(
        pool=generation.pool,
        generation=generation.number,
        digest=generation.digest,
        host=host,
        since=now,
        until=now + seconds,
        failures=failures,
        problem=problem.to_json(),
        found_with=found_with,
    )


def barred(snapshot: Snapshot, host: HostName, digest: Digest, now: float) -> Quarantine | None:
    """Return why a generation is not to be tried on a host now."""
    found = snapshot.quarantine.get((host, digest))
    return found if found is not None and found.until > now else None


def pardons(snapshot: Snapshot) -> Iterator[Pardon]:
    """Find those that say nothing any more: their host is not what it was."""
    for (host, digest), entry in sorted(snapshot.quarantine.items()):
        view = snapshot.hosts.get(host)
        if view is None or not view.up:
            continue
        is_now = what_it_is(view.boot_id, view.facts)
        changed = [
            "it rebooted" if name == "boot" else f"its {name} is {is_now[name]} now"
            for name, was in entry.found_with.items()
            if is_now.get(name, was) != was
        ]
        if changed:
            yield Pardon(digest, host, entry.generation, ", ".join(changed))
