"""What must be told which replicas take traffic. `base` says what each of them can do."""

from __future__ import annotations

from pathlib import Path

from poold.balancers.base import Balancer, Left, Server, Shown, ShownServer
from poold.balancers.haproxy import HaproxyBalancer, Runtime, dial
from poold.model.balancing import Haproxy

__all__ = ["Balancer", "Left", "Server", "Shown", "ShownServer", "balancer_to"]


def balancer_to(configured: Haproxy) -> Balancer:
    """Return the balancer that a table of the configuration describes; nothing is opened yet."""
    runtime = Runtime(
        configured.name,
        dial(configured.socket),
        timeout_seconds=configured.timeout_seconds,
        master=configured.master,
    )
    return HaproxyBalancer(
        runtime, state_file=Path(configured.state_file) if configured.state_file else None
    )
