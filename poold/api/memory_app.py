"""The API over a fleet in memory: what tests and `python -m poold.api` serve."""

from __future__ import annotations

from aiohttp import web

from poold.api.app import build_app
from poold.api.memory import MemoryFleet
from poold.api.memory_hosts import MemoryHosts
from poold.api.memory_rollout import MemoryRollout
from poold.api.ports import ControlPort, HostControlPort, RolloutPort, StorePort


def app_over(
    fleet: MemoryFleet,
    *,
    token: str | None = None,
    control: ControlPort | None = None,
    store: StorePort | None = None,
    host_control: HostControlPort | None = None,
    rollout: RolloutPort | None = None,
) -> web.Application:
    """Put the API together over a fleet in memory, with other parts where they are given."""
    return build_app(
        control=control or fleet,
        rollout=rollout or MemoryRollout(fleet),
        host_control=host_control or MemoryHosts(fleet),
        store=store or fleet,
        world=fleet,
        config=lambda: fleet.config,
        logs=fleet.logs,
        examine=fleet.examine,
        metrics=lambda: (b"# nothing measured\n", "text/plain; version=0.0.4"),
        token=lambda: token,
        explain=fleet.explain,
    )
