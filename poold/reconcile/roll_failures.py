"""What pauses a roll: a replica that does not come up from the target, or by no way at all.

Pure. In: a snapshot and the roll. Out: a sentence, "" where nothing failed.
"""

from __future__ import annotations

from poold.model.fleet import Generation, Pool, ReplicaName
from poold.reconcile.actions import build_subject, replica_subject, restore_rung
from poold.reconcile.ladder import Exhausted, Rung, awaits_own, next_rung
from poold.reconcile.roll_standing import by_number, is_old, is_ready, mine, target_on
from poold.reconcile.snapshot import Snapshot
from poold.store import Roll


def build_failure(snapshot: Snapshot, pool: Pool, roll: Roll) -> str:
    """Say why no generation to roll to comes, since the roll was asked for."""
    retry = snapshot.retries.get(build_subject(pool.application.fingerprint()))
    since = min((c.created_at for c in snapshot.changes if c.id == roll.change), default=0.0)
    if retry is None or not retry.definite or retry.failed_at < since:
        return ""
    return f"no generation could be made: {retry.message}"


def failure(snapshot: Snapshot, roll: Roll, target: Generation, now: float) -> str:
    """Say which replica did not come up from the target, or cannot."""
    assigned = snapshot.assigned()
    for name in sorted(snapshot.wished(), key=by_number):
        found = assigned.get(name)
        if found is None:
            continue
        host = snapshot.hosts.get(found.host)
        if host is not None and awaits_own(snapshot, host):
            continue
        wanted = target_on(snapshot, found.host, target)
        if restore_rung(wanted.digest) in found.failed_rungs:
            return f"{name} did not come up on {found.host}: {found.reason}"
        started = found.started
        stepped_down = started is not None and is_old(snapshot, found, target)
        was_replaced = name in roll.replacing and started is not None and (
            started.container_id != roll.replacing[name]
        )  # fmt: skip
        if stepped_down and (name in roll.extras or was_replaced):
            how = f"from generation {found.generation}" if found.generation else "cold"
            why = f": {found.reason}" if found.reason else ""
            return f"{name} came up {how} on {found.host}{why}"
        if stepped_down and host is not None and host.up:
            rung = next_rung(snapshot, host, (), now)
            if isinstance(rung, Rung) and rung.generation is not wanted and rung.reason:
                return f"{name} cannot be replaced on {host.name}: {rung.reason}"
    return ""


def stuck(snapshot: Snapshot, now: float) -> str:
    """Say which of the pool's replicas cannot come up by any way, so that waiting is of no use."""
    for name in mine(snapshot):
        if is_ready(snapshot, name):
            continue
        why = _cannot_come_up(snapshot, name, now)
        if why:
            return f"{name} is not ready: {why}"
    return ""


def _cannot_come_up(snapshot: Snapshot, name: ReplicaName, now: float) -> str:
    found, pin = snapshot.assigned().get(name), snapshot.wished()[name].host
    where = found.host if found is not None else pin
    names = (where,) if where else snapshot.pool.hosts if snapshot.pool is not None else ()
    views = [view for host in names if (view := snapshot.hosts.get(host)) is not None]
    if any(not view.up or name in view.unsure for view in views):
        return ""
    if views and all(view.foreign(name) for view in views):
        have = ", ".join(sorted(view.name for view in views))
        return f"a container on {have} that is not ours has its name"
    retry = snapshot.retries.get(replica_subject(name))
    if found is None or not views or retry is None or retry.at <= now:
        return ""
    is_over = isinstance(next_rung(snapshot, views[0], found.failed_rungs, now), Exhausted)
    return retry.message if is_over else ""
