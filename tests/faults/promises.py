"""The design's eleven promises as functions: a view of the fleet in, what breaks one out.

Each returns sentences, none when it is kept. Pure: who looked, and when, is the view's matter.
What is only true of a fleet at rest is asked of a quiet view only.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator

from view import Container, HostSeen, View

from poold.model.fleet import Replica, Spare

NOT_APPLICABLE = "not applicable: there are no balancers yet"
_TEMPORARY = ("poold-build-", "poold-proof-")
_SPARE = "poold-spare-"


def promise_1_at_most_one(view: View) -> list[str]:
    """At most one live container per name across all hosts; unknown hosts' names stay reserved."""
    alive: dict[str, list[str]] = defaultdict(list)
    for host in view.hosts:
        for container in _ours(view, host):
            if container.running and not container.name.startswith(_TEMPORARY):
                alive[container.name].append(host.name)
    found = [
        f"{name} runs on {' and on '.join(hosts)}"
        for name, hosts in sorted(alive.items())
        if len(hosts) > 1
    ]
    return found + [
        f"{one.name} is unknown on {one.host}, and its name is not reserved there"
        for one in view.replicas
        if one.state == "unknown" and view.books.assignments.get(one.name) != one.host
    ]


def promise_2_accounted(view: View) -> list[str]:
    """Everything that poold made is known to it, or gone."""
    if not view.quiet:
        return []
    of_api: tuple[Replica | Spare, ...] = (*view.replicas, *view.spares)
    found = [f"{one.name} is {one.state}" for one in of_api if one.state != "ready"]
    digests = {generation.digest.partition(":")[2] for generation in view.generations}
    for host in view.hosts:
        known = {one.name: one for one in of_api if one.host == host.name}
        found += [f"{host.name}: {what}" for what in _left_on(view, host, known)]
        strange = host.generations.keys() - digests
        found += [f"{host.name}: generation {each[:12]} is not known" for each in sorted(strange)]
    found += [f"garbage {digest[:19]} on {host}" for digest, host in sorted(view.books.garbage)]
    return found


def _left_on(view: View, host: HostSeen, known: dict[str, Replica | Spare]) -> Iterator[str]:
    ours = {each.name: each for each in _ours(view, host)}
    for name in sorted(ours.keys() ^ known.keys()):
        yield f"container {name} is {'not known' if name in ours else 'not there'}"
    for name in sorted(ours.keys() & known.keys()):
        if not ours[name].running or ours[name].id != known[name].container_id:
            yield f"container {name} is {ours[name]}, known as {known[name].container_id}"
        if ours[name].frozen != name.startswith(_SPARE):  # no spare serves, every replica does
            yield f"container {name} is {'frozen' if ours[name].frozen else 'not frozen'}"
    running = {each.id for each in host.containers if each.running}
    for what, count in (
        ("network namespaces", host.namespaces),
        ("mounted root file systems", host.mounts),
        ("conmon processes", host.conmons),
    ):
        slots = 0 if what.startswith("conmon") else len(host.slots)
        if count is not None and count != len(running) + slots:
            yield f"{count} {what} for {len(running)} containers and {slots} slots"
    if host.runtime is not None and host.runtime != running:
        yield f"the engine and its runtime differ about {sorted(host.runtime ^ running)}"
    expected = {int((one.address or ":0").rpartition(":")[2]) for one in known.values()}
    expected |= {port for slot in host.slots for port in slot.ports}
    for what, ports in (("listened on", host.listening), ("forwarded", host.forwarded)):
        if surplus := {port for port in ports if port in view.publish_ports} - expected:
            yield f"ports {sorted(surplus)} are {what} for nobody known"
    if set(host.records) != known.keys():
        yield f"records of {sorted(set(host.records) ^ known.keys())} differ"
    for what, names in (
        ("running actions", host.actions), ("scratch", host.work),
        ("image archives", _strange_images(host)), ("half files", host.parts),
        ("slots of no agent", [each.id for each in host.slots if not each.kept]),
    ):  # fmt: skip
        if names:
            yield f"{what}: {sorted(names)}"


def _strange_images(host: HostSeen) -> list[str]:
    """Return archives that no image's id names; the others are kept an hour for the next host."""
    return [name for name in host.images if not re.fullmatch(r"(images/)?[0-9a-f]{64}\.tar", name)]


def promise_3_only_verified(view: View) -> list[str]:
    """Only what is sealed, whole and proven runs or may be restored."""
    found = []
    proven = {digest for _, digest in view.books.generations.items()}
    for host in view.hosts:
        for name, each in sorted(host.generations.items()):
            if each["staged"] and not (each["manifest"] and each.get("archive")):
                found.append(f"{host.name}: {name[:12]} is staged and is not what was sealed")
        for name, record in sorted(host.records.items()):
            digest = record.get("digest", "")
            moved = record.get("method") == "move"  # from a capture, which has no number
            if digest and not moved and digest not in proven:
                found.append(f"{host.name}: {name} was restored from {digest[:19]}, never proven")
    return found


def promise_4_balancers(view: View) -> list[str]:
    """List only ready replicas in balancers; `NOT_APPLICABLE` until there is one."""
    return []


def promise_5_durable(view: View) -> list[str]:
    """After a 2xx the wish is in the store, as it was accepted, and stays."""
    found = []
    for change in view.accepted:
        kept = view.books.changes.get(change.id)
        if kept is None:
            found.append(f"change {change.id} ({change.kind}) was accepted and is lost")
        elif (kept[0], dict(kept[2])) != (change.kind, change.wish):
            found.append(f"change {change.id} was accepted as {change.wish} and is {kept[2]}")
    if view.wished is not None and view.wished != view.books.wishes:
        differing = sorted(view.wished ^ view.books.wishes)
        found.append(f"what was accepted and what is wished differ about {differing}")
    return found


def promise_6_ends(view: View) -> list[str]:
    """Every action and change ends: done, undone or failed with a reason, within a deadline."""
    found = []
    for what, begun in (
        *((f"change {number}", at) for number, at in view.books.pending.items()),
        *view.books.intents.items(),
    ):
        if view.quiet or view.now - begun > view.deadline_seconds:
            found.append(f"{what} has not ended after {view.now - begun:.1f} s")
    if view.quiet:
        found += [f"the move of {name} has not ended" for name in sorted(view.books.moves)]
    for number, problem in view.books.problems.items():
        if problem is None or not str(problem.get("message", "")).startswith("cannot "):
            found.append(f"change {number} failed without a reason: {problem}")
    return found


def promise_7_immutable(view: View) -> list[str]:
    """Never change a generation, and keep an old good one until the new one is proven."""
    found = [
        f"{host.name}: the manifest of {name[:12]} is not the one of its address"
        for host in view.hosts
        for name, each in sorted(host.generations.items())
        if each["staged"] and not each["manifest"]
    ]
    if view.before is None:
        return found
    for (pool, number), digest in view.before.books.generations.items():
        if (now := view.books.generations.get((pool, number))) != digest:
            found.append(f"generation {number} of {pool} was {digest[:19]} and is {now}")
    pools = {generation.pool for generation in view.before.generations}
    lost = pools - {generation.pool for generation in view.generations}
    return found + [f"{pool} had a proven generation and has none" for pool in sorted(lost)]


def promise_8_untouched(view: View) -> list[str]:
    """Leave running replicas as they are when a daemon dies: the very containers, still running."""
    return list(_touched(view, view.kept))


def promise_9_no_secrets(view: View) -> list[str]:
    """No secret in logs, metrics, argv, or files others can read."""
    found = []
    texts = [("what the daemon tells", text) for text in view.told]
    texts += [(f"{host.name}: argv", line) for host in view.hosts for line in host.argv]
    for where, text in texts:
        if any(secret in text for secret in view.secrets):
            found.append(f"a secret is in {where}: {text[:60]!r}")
    for host in view.hosts:
        found += [f"{host.name}: others may read {path}" for path in host.readable_by_others]
    return found + [f"others may read {path}" for path in view.books.readable_by_others]


def promise_10_one_writer(view: View) -> list[str]:
    """Have the store locked by the daemon that runs."""
    return [] if view.books.locked else ["the store is not locked while a daemon runs"]


def promise_11_foreign(view: View) -> list[str]:
    """Containers that poold did not make stay as they are, whatever their names."""
    return list(_touched(view, view.foreign))


PROMISES: tuple[Callable[[View], list[str]], ...] = (
    promise_1_at_most_one,
    promise_2_accounted,
    promise_3_only_verified,
    promise_4_balancers,
    promise_5_durable,
    promise_6_ends,
    promise_7_immutable,
    promise_8_untouched,
    promise_9_no_secrets,
    promise_10_one_writer,
    promise_11_foreign,
)


def broken(view: View) -> list[str]:
    """Return what breaks any promise, each with the promise's name."""
    return [f"{promise.__name__}: {what}" for promise in PROMISES for what in promise(view)]


def _ours(view: View, host: HostSeen) -> list[Container]:
    return [each for each in host.containers if each.fleet == view.fleet]


def _touched(view: View, kept: tuple) -> Iterator[str]:
    for one in kept:
        host = view.host(one.host)
        if host is None or not host.engine:
            continue
        now = next((each for each in host.containers if each.id == one.container_id), None)
        if now is None or not now.running or now.name != one.name:
            state = "gone" if now is None else f"{now.name} {now.state}"
            yield f"{one.name} on {one.host} ran as {one.container_id[:12]} and is {state}"
