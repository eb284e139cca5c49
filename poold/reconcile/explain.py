"""Why a pool is as it is, and what it waits for, in short sentences: pure.

In: a snapshot, the plan made of it, and the time. Out: an explanation. It says only what the plan
decides by; it decides nothing itself.
"""

from __future__ import annotations

from collections.abc import Iterator

from poold.model.compat import why_not_on
from poold.model.events import Because, Event, Explanation
from poold.model.fleet import Change, Generation, Pool, Replica
from poold.reconcile import images, rolling
from poold.reconcile.actions import (
    build_subject,
    generation_subject,
    image_subject,
    removal_key,
    replica_subject,
    spare_subject,
)
from poold.reconcile.ladder import why_none_fits
from poold.reconcile.plan import Plan
from poold.reconcile.quarantine import barred
from poold.reconcile.roll_standing import outdated
from poold.reconcile.shares import shares, spares_of
from poold.reconcile.shown import describe
from poold.reconcile.snapshot import HostView, Retry, Snapshot
from poold.reconcile.spares import is_short_of_memory


def explain(
    snapshot: Snapshot, decided: Plan, now: float, *, revision: int, events: tuple[Event, ...]
) -> Explanation:
    """Explain one pool; `events` are its newest, `revision` is that of its wish."""
    because = (
        _wish(snapshot, revision),
        *_generation(snapshot, now),
        *_roll(snapshot, now),
        *(_replica(snapshot, replica, now) for replica in decided.replicas),
        *_balancer(snapshot, decided),
        *_hosts(snapshot, now),
        *(_change(change, now) for change in snapshot.changes),
    )
    return Explanation(
        pool=snapshot.name,
        at=now,
        sentence=decided.sentence,
        revision=revision,
        waits_for=tuple(_waits_for(snapshot, decided, because)),
        because=because,
        events=events,
    )


def _waits_for(snapshot: Snapshot, decided: Plan, because: tuple[Because, ...]) -> Iterator[str]:
    """Name what is under way, and what stands still and why."""
    doing = {**snapshot.busy, **{action.subject: describe(action) for action in decided.actions}}
    yield from (text for _, text in sorted(doing.items()))
    acted_on = set(doing)
    unmoved = {
        replica.name
        for replica in decided.replicas
        if replica.state != "ready" and replica_subject(replica.name) not in acted_on
    }
    for one in because:
        if (
            (one.topic == "replica" and one.subject in unmoved)
            or (one.topic == "roll" and one.state != "due")
            or (
                one.topic in ("generation", "host")
                and one.again_at is not None
                and one.state != "quarantined"  # what may be done without it is done
            )
        ):
            yield one.text
    if snapshot.pool is not None and not snapshot.first_wished:
        yield _introduction(snapshot, snapshot.pool)


# -- what is wished -------------------------------------------------------------------------------


def _wish(snapshot: Snapshot, revision: int) -> Because:
    wished = sorted(snapshot.wished(), key=lambda name: (len(name), name))
    pins = [f"{w.name} on {w.host}" for w in snapshot.wishes if w.host is not None]
    if snapshot.pool is None:
        text = f"{snapshot.name} left the configuration: what runs is left running"
    elif not snapshot.first_wished:
        text = _introduction(snapshot, snapshot.pool)
    else:
        names = f": {', '.join(wished)}" if wished else ""
        text = f"{_count(len(wished), 'replica')} wished{names} (revision {revision})"
        text += f"; wished on a host: {', '.join(pins)}" if pins else ""
    return Because("wish", snapshot.name, str(len(wished)), text)


def _introduction(snapshot: Snapshot, pool: Pool) -> str:
    missing = sorted(set(pool.hosts) - snapshot.introduced)
    who = f" ({', '.join(missing)})" if missing else ""
    return f"replicas that run already are looked for first, on every host{who}"


# -- the generation -------------------------------------------------------------------------------


def _generation(snapshot: Snapshot, now: float) -> Iterator[Because]:
    pool = snapshot.pool
    if pool is None:
        return
    usable = snapshot.usable()
    if usable:
        yield _current(snapshot, pool, usable[0], now)
        yield from _apart(snapshot, pool, usable[0], now)
        if another := images.renamed(snapshot):
            number = str(another.generation.number)
            yield Because("generation", number, "image-changed", another.sentence)
    subject = build_subject(pool.application.fingerprint())
    busy, retry = snapshot.busy.get(subject), snapshot.retries.get(subject)
    if busy is not None:
        yield Because("generation", "next", "building", f"a generation is made: {busy}")
    elif retry is not None:
        text = f"making a generation failed: {_again(retry, now)}"
        yield Because("generation", "next", "failed", text, _due(retry, now), retry.evidence)
    elif not usable:
        yield Because("generation", "next", "none", _why_none(snapshot, pool))


def _current(snapshot: Snapshot, pool: Pool, generation: Generation, now: float) -> Because:
    staged: list[str] = []
    missing: list[str] = []
    for name in pool.hosts:
        view = snapshot.hosts.get(name)
        if view is not None and generation not in snapshot.usable_on(view):
            continue
        known = view is not None and generation.digest in view.staged
        (staged if known else missing).append(name)
    text = (
        f"generation {generation.number} is current: proven {_span(now - generation.proven_at)}"
        f" ago on {generation.builder}, staged on {', '.join(staged) or 'no host known now'}"
    )
    text += f", not on {', '.join(missing)}" if missing else ""
    return Because("generation", str(generation.number), "current", text)


def _apart(snapshot: Snapshot, pool: Pool, current: Generation, now: float) -> Iterator[Because]:
    """Say which hosts cannot take the current generation, and what they have instead."""
    for name in pool.hosts:
        view = snapshot.hosts.get(name)
        if view is None or not view.up:
            continue
        own = snapshot.usable_on(view)
        if current in own:
            continue
        subject = build_subject(pool.application.fingerprint(), name)
        retry = snapshot.retries.get(subject)
        due = _due(retry, now) if retry is not None and subject not in snapshot.busy else None
        if own:
            why = ", ".join(why_not_on(current.manifest, view.facts))
            text = f"{name} takes generation {own[0].number} instead: {why}"
            yield Because("generation", str(own[0].number), "apart", text, due)
        else:
            yield Because("generation", name, "none", why_none_fits(snapshot, view), due)


def _why_none(snapshot: Snapshot, pool: Pool) -> str:
    what = "no generation fits the configuration" if snapshot.generations else "no generation yet"
    builder = snapshot.hosts.get(pool.builder)
    if builder is None or not builder.up:
        return f"{what}, and its builder {pool.builder} is not reached"
    if builder.fenced:
        return f"{what}, and nothing is built on {pool.builder}: {builder.closed}"
    if not snapshot.wishes:
        return f"{what}: nobody wished for a replica or a checkpoint"
    return f"{what}: {pool.builder} is to make one"


def _roll(snapshot: Snapshot, now: float) -> Iterator[Because]:
    hold, how = snapshot.hold, rolling.status(snapshot)
    if hold is not None:
        text = (
            f"held at generation {hold.number} by {hold.actor} for {_span(now - hold.at)}: until"
            f" poold roll {snapshot.name}, or another application in the configuration"
        )
        yield Because("generation", str(hold.number), "held", text)
    usable = snapshot.usable()
    old = outdated(snapshot, usable[0]) if usable and how is None else ()
    if old:
        text = (
            f"{', '.join(old)} did not come up from generation {usable[0].number}, which is"
            f" current: poold roll {snapshot.name} replaces {'it' if len(old) == 1 else 'them'}"
        )
        yield Because("roll", snapshot.name, "due", text)
    if how is None:
        return
    to = "" if how.generation is None else f" to generation {how.generation}"
    text = f"the roll{to}, change {how.change}, is {how.state}: {how.done} of {how.of}"
    if how.state == "paused":
        ways = f"poold roll {snapshot.name} goes on, poold rollback {snapshot.name} goes back"
        text += f"; {how.reason}; {ways}"
    elif why := rolling.waits_for(snapshot, now):
        text += f"; {why}"
    yield Because("roll", snapshot.name, how.state, text)


# -- replicas -------------------------------------------------------------------------------------


def _replica(snapshot: Snapshot, replica: Replica, now: float) -> Because:
    where = f" on {replica.host}" if replica.host else ""
    text = f"{replica.name} is {replica.state}{where}"
    if replica.state == "ready":
        text += _how(replica)
    if replica.reason:
        text += f": {replica.reason}"
    elif replica.state == "waiting":
        text += ": its turn has not come"
    key = replica_subject(replica.name)
    if replica.state == "removing":
        key = removal_key(replica.name)
    retry = snapshot.retries.get(key)
    if retry is None or replica.state == "ready" or key in snapshot.busy:
        return Because("replica", replica.name, replica.state, text)
    known = retry.message in text
    text += f"; {_next(retry, now)}" if known else f"; {_again(retry, now)}"
    due = _due(retry, now)
    return Because("replica", replica.name, replica.state, text, due, retry.evidence)


def _balancer(snapshot: Snapshot, decided: Plan) -> Iterator[Because]:
    """Say who is behind the balancer, by the replicas' names, and what is the matter with it."""
    pool, known = snapshot.pool, snapshot.traffic
    if pool is None or pool.balancer is None or known is None:
        return
    if known.problem:
        yield Because("balancer", pool.balancer.name, "failed", known.problem)
    elif known.shown is None:
        yield Because("balancer", pool.balancer.name, "unread", "it was not asked yet")
    names = {replica.address: replica.name for replica in decided.replicas}
    for one in known.shown.servers if known.shown else ():
        where = f"[{one.address}]" if ":" in one.address else one.address
        name = names.get(f"{where}:{one.port}", "")
        text = one.name + (f" ({name})" if name not in ("", one.name) else "")
        text += f" at {where}:{one.port} is {one.state}"
        if one.sessions is not None:
            text += f" with {_count(one.sessions, 'session')}"
        text += f", {one.queue} queued" if one.queue else ""
        yield Because("balancer", one.name, "leaving" if one.leaving else one.state, text)


def _how(replica: Replica) -> str:
    by = f" by the engine {replica.engine}" if replica.engine else ""
    if replica.method == "move":
        return f", moved there{by}"
    if replica.method == "spare":
        number = f" of generation {replica.generation}" if replica.generation else ""
        return f", by claiming a spare{number}"
    if replica.method == "restore":
        number = f" {replica.generation}" if replica.generation else ""
        return f", restored from generation{number}{by}"
    return ", started cold" if replica.method == "cold" else ""


# -- hosts ----------------------------------------------------------------------------------------


def _hosts(snapshot: Snapshot, now: float) -> Iterator[Because]:
    pool = snapshot.pool
    holders = {assignment.host for assignment in snapshot.assignments}
    named = {*(pool.hosts if pool else ()), *holders}
    for name in sorted(named):
        view = snapshot.hosts.get(name)
        if view is None:
            text = f"the host {name} left the configuration; its names stay reserved"
            yield Because("host", name, "unknown", text)
            continue
        yield _host(snapshot, view, now)
        yield from _sends(snapshot, view, now)
        yield from _no_spare(snapshot, view, now)
        yield from _quarantine(snapshot, view, now)


def _host(snapshot: Snapshot, view: HostView, now: float) -> Because:
    names = sorted(a.name for a in snapshot.assignments if a.host == view.name)
    count = _count(len(names), "replica")
    if not view.up:
        why = f": {view.reason}" if view.reason else ""
        kept = f"; {', '.join(names)} may run there and keep their names" if names else ""
        return Because("host", view.name, view.state, f"{view.name} is {view.state}{why}{kept}")
    total = len(names) + view.others
    full = ", which is all it may have" if total >= view.max_replicas else ""
    text = f"{view.name} is up: {count} of this pool, {view.others} of others{full}"
    text += f"; nothing new is placed there: {view.closed}" if view.closed else ""
    waiting = len(spares_of(snapshot, view))
    wished = shares(snapshot, snapshot.pool, now).get(view.name, 0) if snapshot.pool else 0
    text += f"; {waiting} of {_count(wished, 'spare')}" if waiting or wished else ""
    foreign = sorted(c.name for c in view.containers if not c.ours)
    text += f"; not ours, but named like ours: {', '.join(foreign)}" if foreign else ""
    return Because("host", view.name, "up", text)


def _sends(snapshot: Snapshot, view: HostView, now: float) -> Iterator[Because]:
    """Say what could not be brought to a host."""
    what = {
        generation_subject(g.digest, view.name): f"generation {g.number}"
        for g in snapshot.generations
    }
    if snapshot.pool is not None:
        what[image_subject(snapshot.pool.application.image, view.name)] = "the image"
    for subject, name in what.items():
        retry = snapshot.retries.get(subject)
        if retry is not None and subject not in snapshot.busy:
            text = f"bringing {name} to {view.name} failed: {_again(retry, now)}"
            due = _due(retry, now)
            yield Because("host", view.name, "failed", text, due, retry.evidence)


def _no_spare(snapshot: Snapshot, view: HostView, now: float) -> Iterator[Because]:
    """Say why a spare could not be made."""
    subject = spare_subject(view.name)
    retry = snapshot.retries.get(subject)
    if retry is not None and subject not in snapshot.busy:
        text = f"preparing a spare on {view.name} failed: {_again(retry, now)}"
        yield Because("host", view.name, "failed", text, _due(retry, now), retry.evidence)
    elif snapshot.pool and snapshot.pool.spares and is_short_of_memory(snapshot, view, now, more=1):
        text = f"no more spares are made on {view.name}: memory is short there"
        yield Because("host", view.name, "short", text)


def _quarantine(snapshot: Snapshot, view: HostView, now: float) -> Iterator[Because]:
    """Say what is not tried on a host, and until when."""
    for (host, digest), entry in snapshot.quarantine.items():
        if host == view.name and barred(snapshot, host, digest, now) is not None:
            text = (
                f"generation {entry.generation} is quarantined on {host} for"
                f" {_span(entry.until - now)} more: {entry.message}"
            )
            evidence = str(entry.problem.get("detail", ""))
            yield Because("host", host, "quarantined", text, entry.until, evidence)


# -- changes --------------------------------------------------------------------------------------


def _change(change: Change, now: float) -> Because:
    why = f" ({change.reason})" if change.reason else ""
    text = (
        f"change {change.id}, {change.kind} by {change.actor}{why}, is pending for"
        f" {_span(now - change.created_at)}: {change.progress or 'waiting for its turn'}"
    )
    return Because("change", str(change.id), change.state, text)


# -- words ----------------------------------------------------------------------------------------


def _again(retry: Retry, now: float) -> str:
    return f"{retry.message}; {_next(retry, now)}"


def _next(retry: Retry, now: float) -> str:
    times = "" if retry.failures == 1 else f", failed {retry.failures} times"
    if retry.at <= now:
        return f"to be tried again now{times}"
    return f"tried again in {_span(retry.at - now)}{times}"


def _due(retry: Retry, now: float) -> float | None:
    return retry.at if retry.at > now else None


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _span(seconds: float) -> str:
    seconds = max(0, round(seconds))
    for unit, size, limit in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < limit:
            return f"{seconds // size} {unit}"
    return f"{seconds // 86400} d"
