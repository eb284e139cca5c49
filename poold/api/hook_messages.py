"""What programs that scale send and get, in their own formats.

Flows in: JSON of Nomad's job scaling; fields that poold does not need are let
pass. Flows out: values for the encoder and for the OpenAPI document.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

from poold.api.messages import Count
from poold.model.fleet import PoolName


class JobScaleRequest(Struct, frozen=True, kw_only=True):
    """Nomad's job scaling. With `Error` a scaler tells why it could not decide: nothing is done."""

    count: Count | None = field(name="Count", default=None)
    message: str = field(name="Message", default="")
    error: bool = field(name="Error", default=False)
    target: dict[str, str] = field(name="Target", default_factory=dict)
    meta: dict[str, Any] = field(name="Meta", default_factory=dict)


class GroupScale(Struct, frozen=True, kw_only=True):
    """How many are wished, there, and ready."""

    desired: int = field(name="Desired")
    placed: int = field(name="Placed")
    running: int = field(name="Running")
    healthy: int = field(name="Healthy")
    unhealthy: int = field(name="Unhealthy")


class JobScaleView(Struct, frozen=True, kw_only=True):
    """A pool as Nomad shows a job with one group of the same name."""

    job: str = field(name="JobID")
    stopped: bool = field(name="JobStopped")
    groups: dict[str, GroupScale] = field(name="TaskGroups")


class LoadView(Struct, frozen=True, kw_only=True):
    """Figures to scale by; those of the balancer are null where a pool has none."""

    pool: PoolName
    desired: int
    count: int
    ready: int
    min: int
    max: int
    sessions: int | None
    queue: int | None
    concurrency: int | None  # sessions and queue together
    concurrency_per_ready: float | None


class ReadyView(Struct, frozen=True, kw_only=True):
    """A replica takes traffic."""

    name: str
    address: str
