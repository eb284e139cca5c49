"""How a replica comes up on a host: which rung next, and what is worth waiting for.

Pure. The current generation, the previous one of the same application, cold; a rung that failed is
not tried again until the replica was ready or all of them failed.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from poold.model.compat import why_not_on
from poold.model.fleet import Generation, HostName
from poold.reconcile.actions import COLD, build_subject, generation_subject, restore_rung
from poold.reconcile.quarantine import barred
from poold.reconcile.snapshot import HostView, Snapshot

SEND_ATTEMPTS = 3  # transfers that failed for passing reasons, before a rung does without
BUILD_ATTEMPTS = 2
GENERATIONS_TRIED = 2


@dataclass(frozen=True, slots=True)
class Rung:
    """Try this now: a generation, or None for cold; `reason` says why it is not the first."""

    generation: Generation | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Wait:
    """Something better than a cold start is on its way."""

    reason: str


@dataclass(frozen=True, slots=True)
class Exhausted:
    """Every rung failed."""


def next_rung(
    snapshot: Snapshot, host: HostView, failed: Collection[str], now: float
) -> Rung | Wait | Exhausted:
    """Choose the rung for a replica on `host`.

    A staged previous generation is taken rather than waited for a newer one under way.
    """
    usable = snapshot.usable_on(host)[:GENERATIONS_TRIED]
    waits: list[Wait] = []
    missed: list[str] = []
    for generation in usable:
        if restore_rung(generation.digest) in failed:
            continue
        kept_off = barred(snapshot, host.name, generation.digest, now)
        if kept_off is not None:
            missed.append(f"generation {generation.number} is quarantined: {kept_off.message}")
            continue
        if generation.digest in host.staged:
            return Rung(generation, "; ".join(missed))
        hope = _arrival(snapshot, host, generation)
        if isinstance(hope, Wait):
            waits.append(hope)
        else:
            missed.append(hope)
    if waits:
        return waits[0]
    if not usable and snapshot.usable():
        missed.append(why_none_fits(snapshot, host))
    elif not usable:
        build = _first_build(snapshot)
        if isinstance(build, Wait):
            return build
        missed.append(build)
    return Exhausted() if COLD in failed else Rung(None, "; ".join(missed))


def source_of(snapshot: Snapshot, generation: Generation, target: HostName) -> HostName | None:
    """Return a host to fetch a generation from: the target itself, the builder, any other."""
    holders = [
        h.name
        for h in snapshot.hosts.values()
        if h.up and not h.fenced and generation.digest in h.held
    ]
    return min(holders, key=lambda h: (h != target, h != generation.builder, h), default=None)


def why_none_fits(snapshot: Snapshot, host: HostView) -> str:
    """Say why no generation can be restored on a host, and what is done about it."""
    assert snapshot.pool is not None  # noqa: S101 - there are generations of its application
    current = snapshot.usable()[0]
    reasons = ", ".join(why_not_on(current.manifest, host.facts))
    text = f"generation {current.number} does not fit {host.name} ({reasons})"
    retry = snapshot.retries.get(build_subject(snapshot.pool.application.fingerprint(), host.name))
    if retry is not None:
        return f"{text}, and building one there failed: {retry.message}"
    if snapshot.hold is not None:
        return f"{text}, and the pool is held at generation {snapshot.hold.number}"
    return f"{text}; one is built there"


def awaits_own(snapshot: Snapshot, host: HostView) -> bool:
    """Whether a generation is going to be built on a host that no generation fits."""
    if snapshot.pool is None or snapshot.usable_on(host) or not snapshot.usable():
        return False
    subject = build_subject(snapshot.pool.application.fingerprint(), host.name)
    retry = snapshot.retries.get(subject)
    failed = retry is not None and retry.definite
    return snapshot.hold is None and not host.closed and not failed


def _arrival(snapshot: Snapshot, host: HostView, generation: Generation) -> Wait | str:
    """Say what is waited for, or in words why the generation will not come soon."""
    subject = generation_subject(generation.digest, host.name)
    label = f"generation {generation.number}"
    retry = snapshot.retries.get(subject)
    if retry is not None and (retry.definite or retry.failures >= SEND_ATTEMPTS):
        return f"{label} could not be sent to {host.name}: {retry.message}"
    if subject in snapshot.busy or source_of(snapshot, generation, host.name) is not None:
        return Wait(f"waiting for {label} on {host.name}")
    connecting = sorted(
        h.name for h in snapshot.hosts.values() if h.state == "connecting" and not h.fenced
    )
    if connecting:
        return Wait(f"waiting for {', '.join(connecting)}, which may have {label}")
    return f"no host that can be reached has {label}"


def _first_build(snapshot: Snapshot) -> Wait | str:
    """Say that a first generation is on its way, or in words why it will not come soon."""
    pool = snapshot.pool
    if pool is None:
        return "the pool left the configuration"
    builder = snapshot.hosts.get(pool.builder)
    if builder is None or builder.state == "unknown" or builder.fenced:
        return f"no generation yet and the builder {pool.builder} cannot be reached"
    retry = snapshot.retries.get(build_subject(pool.application.fingerprint()))
    if retry is not None and (retry.definite or retry.failures >= BUILD_ATTEMPTS):
        return f"building a generation failed: {retry.message}"
    return Wait(f"waiting for the first generation, built on {pool.builder}")
