"""What programs that scale are answered: Nomad's scalers, KEDA, balancers' checks.

Flows in: parsed calls, as in `views`. Flows out: answers. How many replicas it becomes is decided
in `poold.scaling`; every decision's reason goes into the change.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from poold.api.hook_messages import (
    GroupScale,
    JobScaleRequest,
    JobScaleView,
    LoadView,
    ReadyView,
)
from poold.api.messages import one_line
from poold.api.ports import Ports
from poold.api.views import Answer, Call, accepted, pool_of, replica_of
from poold.errors import Refused, Temporary
from poold.model.fleet import Change
from poold.scaling import CHANGES_OF_COUNT, Decision, Limits, decide

_LONGEST_TEXT = 200


async def job(ports: Ports, call: Call) -> Answer:
    """Show a pool as Nomad shows a job's scale."""
    configured, status = pool_of(ports, call.path["pool"])
    there = [r for r in ports.world.replicas(configured.name) if r.host is not None]
    ready = sum(replica.state == "ready" for replica in there)
    group = GroupScale(
        desired=status.desired,
        placed=len(there),
        running=len(there),
        healthy=ready,
        unhealthy=len(there) - ready,
    )
    groups = {str(configured.name): group}
    return Answer(JobScaleView(job=configured.name, stopped=status.desired == 0, groups=groups))


async def scale_job(ports: Ports, call: Call) -> Answer:
    """Wish for a number of replicas, as Nomad's scalers do; within the pool's limits."""
    asked: JobScaleRequest = call.body
    name = pool_of(ports, call.path["pool"])[0].name
    group = asked.target.get("Group", name)
    if group != name:
        raise Refused("pool.unknown", f"cannot find group {one_line(group, 80)!r} of {name}")
    if asked.error or asked.count is None:
        why = one_line(asked.message, _LONGEST_TEXT) or "no Count was given"
        raise Refused("scale.nothing-asked", f"cannot scale {name}: the caller says {why!r}")
    decision = decide_for(ports, name, Asked(count=asked.count))
    if decision.wait_seconds:
        raise held_up(name, decision)
    return accepted(wish_for(ports, call, name, decision, asked.message or "scaler"))


async def load(ports: Ports, call: Call) -> Answer:
    """Show the figures that a pool may be scaled by, or say that they are not known now."""
    configured, status = pool_of(ports, call.path["pool"])
    behind, sessions, queue = status.balancer, None, None
    if behind is not None:
        if behind.problem or behind.read_at is None:
            raise Temporary(
                "balancer.unread",
                f"cannot tell the load of {configured.name}: {behind.problem or 'not read yet'}",
                retry_after_seconds=1,
            )
        sessions = sum(server.sessions or 0 for server in behind.servers)
        queue = behind.queue or 0
    concurrency = None if sessions is None or queue is None else sessions + queue
    each = None if concurrency is None else concurrency / max(1, status.ready)
    return Answer(
        LoadView(
            pool=configured.name,
            desired=status.desired,
            count=len([r for r in ports.world.replicas(configured.name) if r.host is not None]),
            ready=status.ready,
            min=configured.min,
            max=configured.max,
            sessions=sessions,
            queue=queue,
            concurrency=concurrency,
            concurrency_per_ready=each,
        )
    )


async def ready(ports: Ports, call: Call) -> Answer:
    """Answer a balancer's check: 200 while the replica takes traffic, 503 while it does not."""
    found = replica_of(ports, call.path["replica"])
    if found.state != "ready":
        raise Temporary(
            "replica.not-ready-now",
            f"cannot send requests to {found.name}: it is {found.state}",
            retry_after_seconds=1,
        )
    return Answer(ReadyView(name=found.name, address=found.address or ""))


@dataclass(frozen=True)
class Asked:
    """A number, or a difference."""

    count: int | None = None
    delta: int = 0


def decide_for(ports: Ports, name: str, asked: Asked) -> Decision:
    """Decide within a pool's limits."""
    configured, _ = pool_of(ports, name)
    newest = ports.store.changes(pool=name, limit=50)
    last = next((change.created_at for change in newest if change.kind in CHANGES_OF_COUNT), None)
    return decide(
        Limits(least=configured.min, most=configured.max, scaling=configured.scaling),
        wished=ports.control.count(name),
        count=asked.count,
        delta=asked.delta,
        idle_seconds=None if last is None else time.time() - last,
    )


def wish_for(ports: Ports, call: Call, name: str, decision: Decision, why: str) -> Change:
    """Wish for what was decided, with the reason."""
    reason = f"{one_line(why, _LONGEST_TEXT)}: {decision.text}"
    return ports.control.scale(name, replicas=decision.count, actor=call.actor, reason=reason)


def held_up(name: str, decision: Decision) -> Temporary:
    """Say how long a pool waits after its last change."""
    return Temporary(
        "scale.cooling-down",
        f"cannot scale {name}: {decision.text}",
        hint="in_after_seconds and out_after_seconds of its table scaling say how long",
        retry_after_seconds=decision.wait_seconds,
    )
