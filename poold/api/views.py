"""What each route answers. No HTTP here: a call comes in, an answer goes out, or a problem.

Flows in: a parsed and validated call. Flows out: a value with its status. It does not know
sockets, headers or tokens.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from typing import Any

from poold import __version__
from poold.api import revision
from poold.api.messages import (
    CallList,
    ChangeList,
    CheckpointRequest,
    DoctorView,
    GenerationList,
    Health,
    HostList,
    HostRequest,
    ImportRequest,
    LetGoRequest,
    LogView,
    MoveRequest,
    PardonRequest,
    PoolList,
    PoolView,
    ReplicaList,
    RestoreRequest,
    RollRequest,
    ScaleRequest,
    ScaleView,
)
from poold.api.ports import Ports
from poold.api.waiting import unless_stopping
from poold.errors import Refused
from poold.model.compat import why_not_on
from poold.model.fleet import Change, ChangeId, HostStatus, Pool, PoolName, PoolStatus, Replica


@dataclass(frozen=True)
class Call:
    """One request: parts of the path, declared query parameters, the body's value, who asks."""

    path: dict[str, str] = field(default_factory=dict)
    query: dict[str, Any] = field(default_factory=dict)
    body: Any = None
    actor: str = ""
    origin: str = ""
    headers: dict[str, str] = field(default_factory=dict)  # the declared ones that were sent


@dataclass(frozen=True)
class Answer:
    """A value to encode as JSON; bytes go out as they are, under `content_type`."""

    value: object
    status: int = 200
    location: str = ""
    content_type: str = "application/json"
    etag: str = ""
    recorded: bool = True  # False: the call changed nothing and leaves no trail


@dataclass(frozen=True)
class Stream:
    """Text that goes out as it comes, until the chunks end, the caller goes or the daemon stops."""

    chunks: AsyncGenerator[bytes, None]
    content_type: str


async def health(ports: Ports, call: Call) -> Answer:  # noqa: ARG001
    """Say that the daemon lives, and how its fleet is."""
    sentence, note = ports.world.sentence(), ports.world.note()
    return Answer(Health(status="ok", version=__version__, sentence=sentence, note=note))


async def metrics(ports: Ports, call: Call) -> Answer:  # noqa: ARG001
    """Expose the metrics in Prometheus' text format."""
    body, content_type = ports.metrics()
    return Answer(body, content_type=content_type)


async def doctor(ports: Ports, call: Call) -> Answer:  # noqa: ARG001
    """Examine every host; CRIU is tried, so it takes seconds."""
    return Answer(DoctorView(await ports.examine()))


async def pools(ports: Ports, call: Call) -> Answer:  # noqa: ARG001
    """List the pools."""
    return Answer(
        PoolList(
            tuple(
                replace(status, revision=revision.of_pool(ports, status.name).number)
                for status in ports.world.pools()
            )
        )
    )


async def pool(ports: Ports, call: Call) -> Answer:
    """Show one pool with its replicas."""
    configured, status = pool_of(ports, call.path["pool"])
    now = revision.of_pool(ports, configured.name)
    return Answer(
        PoolView(
            name=configured.name,
            desired=status.desired,
            ready=status.ready,
            generation=status.generation,
            sentence=status.sentence,
            image=configured.application.image,
            port=configured.application.port,
            hosts=configured.hosts,
            builder=configured.builder,
            min=configured.min,
            max=configured.max,
            keep_generations=configured.keep_generations,
            keep_days=configured.keep_days,
            keep_bytes=configured.keep_bytes,
            held=status.held,
            roll=status.roll,
            balancer=status.balancer,
            image_note=status.image_note,
            revision=now.number,
            spares_wished=status.spares_wished,
            spares=status.spares,
            replicas=ports.world.weighed(configured.name),
        ),
        etag=now.tag,
    )


async def scale(ports: Ports, call: Call) -> Answer:
    """Show how many replicas are wished, ready and allowed."""
    configured, status = pool_of(ports, call.path["pool"])
    now = revision.of_pool(ports, configured.name)
    return Answer(
        ScaleView(
            pool=configured.name,
            desired=status.desired,
            count=len([r for r in ports.world.replicas(configured.name) if r.host is not None]),
            ready=status.ready,
            min=configured.min,
            max=configured.max,
            revision=now.number,
        ),
        etag=now.tag,
    )


async def put_scale(ports: Ports, call: Call) -> Answer:
    """Wish for a number of replicas."""
    asked: ScaleRequest = call.body
    return accepted(
        ports.control.scale(
            call.path["pool"],
            replicas=asked.replicas if asked.count is None else asked.count,
            delta=asked.delta,
            actor=call.actor,
            reason=asked.reason,
        )
    )


async def restore(ports: Ports, call: Call) -> Answer:
    """Wish for one more replica, by name and host where they are given."""
    asked: RestoreRequest = call.body
    return accepted(
        ports.control.restore(
            call.path["pool"],
            name=asked.name,
            host=asked.host,
            actor=call.actor,
            reason=asked.reason,
        )
    )


async def checkpoint(ports: Ports, call: Call) -> Answer:
    """Wish for a new generation."""
    asked: CheckpointRequest = call.body
    return accepted(
        ports.control.checkpoint(call.path["pool"], actor=call.actor, reason=asked.reason)
    )


async def import_archive(ports: Ports, call: Call) -> Answer:
    """Wish for a generation made of an archive that podman exported."""
    asked: ImportRequest = call.body
    return accepted(
        ports.control.import_archive(
            call.path["pool"],
            file=asked.file,
            host=asked.host,
            actor=call.actor,
            reason=asked.reason,
        )
    )


async def roll(ports: Ports, call: Call) -> Answer:
    """Wish for all replicas to be of the newest generation that fits, or of another one."""
    return accepted(ports.rollout.roll(call.path["pool"], **_roll(call)))


async def rollback(ports: Ports, call: Call) -> Answer:
    """Wish for all replicas to be of an older generation, and to stay with it."""
    return accepted(ports.rollout.rollback(call.path["pool"], **_roll(call)))


def _roll(call: Call) -> dict[str, Any]:
    asked: RollRequest = call.body
    return {
        "to": asked.to,
        "surge": asked.surge,
        "unavailable": asked.unavailable,
        "actor": call.actor,
        "reason": asked.reason,
    }


async def generations(ports: Ports, call: Call) -> Answer:
    """List a pool's generations, the newest first."""
    configured, _ = pool_of(ports, call.path["pool"])
    found = ports.store.generations(configured.name)
    facts = {h.name: h.facts for h in ports.world.hosts() if h.name in configured.hosts}
    unfit = {
        each.digest: {
            host: reasons
            for host, its_facts in facts.items()
            if (reasons := why_not_on(each.manifest, its_facts))
        }
        for each in found
    }
    return Answer(GenerationList(found, unfit))


async def replicas(ports: Ports, call: Call) -> Answer:
    """List the replicas, of one pool where it is given."""
    wanted = call.query["pool"]
    if wanted is not None:
        pool_of(ports, wanted)
    found = ports.world.weighed(wanted)
    named = {one.pool for one in found} | ({PoolName(wanted)} if wanted is not None else set())
    revisions = {pool: revision.of_pool(ports, pool).number for pool in sorted(named)}
    waiting = (one.spares for one in ports.world.pools() if wanted in (None, one.name))
    return Answer(ReplicaList(found, revisions, tuple(each for some in waiting for each in some)))


async def replica(ports: Ports, call: Call) -> Answer:
    """Show one replica."""
    return Answer(replica_of(ports, call.path["replica"]))


async def remove(ports: Ports, call: Call) -> Answer:
    """Wish for one replica less: this one."""
    return accepted(
        ports.control.remove(
            call.path["replica"], actor=call.actor, reason=call.query["reason"] or ""
        )
    )


async def move(ports: Ports, call: Call) -> Answer:
    """Wish for a running replica to go on running on another host."""
    asked: MoveRequest = call.body
    return accepted(
        ports.control.move(call.path["replica"], to=asked.to, actor=call.actor, reason=asked.reason)
    )


async def logs(ports: Ports, call: Call) -> Answer:
    """Read the last lines of a replica's output from its host."""
    name = replica_of(ports, call.path["replica"]).name
    return Answer(LogView(await ports.logs(name, call.query["tail"])))


async def hosts(ports: Ports, call: Call) -> Answer:  # noqa: ARG001
    """List the hosts and how they are."""
    return Answer(HostList(tuple(_revised(ports, host) for host in ports.world.hosts())))


async def host(ports: Ports, call: Call) -> Answer:
    """Show one host."""
    name = call.path["host"]
    for found in ports.world.hosts():
        if found.name == name:
            return Answer(_revised(ports, found), etag=revision.of_host(ports, name).tag)
    raise Refused(
        "host.unknown",
        f"cannot find host {name}",
        hint="poold hosts lists the hosts (GET /v1/hosts)",
    )


def _revised(ports: Ports, host: HostStatus) -> HostStatus:
    return replace(host, revision=revision.of_host(ports, host.name).number)


async def cordon(ports: Ports, call: Call) -> Answer:
    """Have no new replica placed on a host."""
    asked: HostRequest = call.body
    host = call.path["host"]
    return accepted(ports.host_control.cordon(host, actor=call.actor, reason=asked.reason))


async def uncordon(ports: Ports, call: Call) -> Answer:
    """Have replicas placed on a host again."""
    asked: HostRequest = call.body
    host = call.path["host"]
    return accepted(ports.host_control.uncordon(host, actor=call.actor, reason=asked.reason))


async def pardon(ports: Ports, call: Call) -> Answer:
    """Have quarantined generations tried on a host again, of one pool where it is given."""
    asked: PardonRequest = call.body
    return accepted(
        ports.host_control.pardon(
            call.path["host"], pool=asked.pool, actor=call.actor, reason=asked.reason
        )
    )


async def fence(ports: Ports, call: Call) -> Answer:
    """Take it that a host out of reach is dead."""
    asked: LetGoRequest = call.body
    return accepted(
        ports.host_control.fence(
            call.path["host"],
            confirmed=asked.confirmed,
            actor=call.actor,
            reason=asked.reason,
        )
    )


async def remove_host(ports: Ports, call: Call) -> Answer:
    """Forget a host that left the configuration."""
    asked: LetGoRequest = call.body
    return accepted(
        ports.host_control.remove(
            call.path["host"],
            confirmed=asked.confirmed,
            actor=call.actor,
            reason=asked.reason,
        )
    )


async def changes(ports: Ports, call: Call) -> Answer:
    """List changes, the newest first."""
    found = ports.store.changes(pool=call.query["pool"], limit=call.query["limit"])
    return Answer(ChangeList(found))


async def change(ports: Ports, call: Call) -> Answer:
    """Show one change; with `wait`, answer when there is news of it or the time is up.

    News is a seq above `after`; without `after` it is the change's end.
    """
    number = ChangeId(int(call.path["change"]))
    found = ports.store.change(number)
    if found is None:
        raise Refused(
            "change.unknown",
            f"cannot find change {number}",
            hint="poold changes lists the newest (GET /v1/changes)",
        )
    return Answer(await _news(ports, found, call.query["after"], call.query["wait"]))


async def _news(ports: Ports, known: Change, after: int | None, wait_seconds: float) -> Change:
    """Wait, at most `wait_seconds` and not beyond the daemon's stop, for something to tell."""
    news = _follow(ports, known, after, wait_seconds)
    return await unless_stopping(news, ports.stopping) or known


async def _follow(ports: Ports, known: Change, after: int | None, wait_seconds: float) -> Change:
    clock = asyncio.get_running_loop().time
    deadline = clock() + wait_seconds
    while known.state == "pending" and (after is None or known.seq <= after):
        left_seconds = deadline - clock()
        if left_seconds <= 0:
            break
        known = await ports.store.wait_change(
            known.id, after_seq=known.seq, timeout_seconds=left_seconds
        )
    return known


async def audit(ports: Ports, call: Call) -> Answer:
    """List accepted changing calls, the newest first."""
    found = ports.store.calls.newest(pool=call.query["pool"], limit=call.query["limit"])
    return Answer(CallList(found))


async def explain(ports: Ports, call: Call) -> Answer:
    """Say why a pool is as it is and what it waits for."""
    configured, _ = pool_of(ports, call.path["pool"])
    return Answer(ports.explain(configured.name))


def accepted(change: Change) -> Answer:
    """202 for what is under way, 200 where there was nothing left to do."""
    return Answer(
        change,
        status=202 if change.state == "pending" else 200,
        location=f"/v1/changes/{change.id}",
    )


def pool_of(ports: Ports, name: str) -> tuple[Pool, PoolStatus]:
    """Return a pool that is configured, and how it is, or refuse."""
    configured = ports.config().pools.get(PoolName(name))
    if configured is None:
        raise Refused(
            "pool.unknown",
            f"cannot find pool {name}",
            hint="poold status lists the pools (GET /v1/pools)",
        )
    status = next((status for status in ports.world.pools() if status.name == name), None)
    if status is None:  # configured, not looked at yet
        status = PoolStatus(configured.name, configured.replicas, 0, None, "not looked at yet")
    return configured, status


def replica_of(ports: Ports, name: str) -> Replica:
    """Return a replica that is known, or refuse."""
    for found in ports.world.weighed():
        if found.name == name:
            return found
    raise Refused(
        "replica.unknown",
        f"cannot find replica {name}",
        hint="poold ps lists the replicas (GET /v1/replicas)",
    )
