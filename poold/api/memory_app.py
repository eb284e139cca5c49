"""The API over a fleet in memory: what tests and `python -m poold.api` serve."""

from __future__ import annotations

from aiohttp import web

from poold.api.app import build_app
from poold.api.memory import MemoryFleet
from poold.api.memory_hosts import MemoryHosts
from poold.api.memory_rollout import MemoryRollout
from poold.api.ports import ControlPort, StorePort


def app_over(
    fleet: MemoryFleet,
    *,
    token: str | None = None,
    control: ControlPort | None = None,
    store: StorePort | None = None,
) -> web.Application:
    """Put the API together over a fleet in memory, with another control or store if given."""
    return build_app(
        control=control or fleet,
        host_control=MemoryHosts(fleet),
        rollout=MemoryRollout(fleet),
        store=store or fleet,
        world=fleet,
        config=lambda: fleet.config,
        logs=fleet.logs,
        examine=fleet.examine,
        metrics=lambda: (b"# nothing measured\n", "text/plain; version=0.0.4"),
        token=lambda: token,
        explain=fleet.explain,
    )
