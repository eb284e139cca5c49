"""What must be told which replicas take traffic. `base` says what each of them can do.

What each guarantees when a replica leaves (the README has it in the same words):

- `haproxy`: no new request from the moment that poold tells it; stopped once nothing is under way,
  at the latest after `drain_seconds`; what that cuts is counted.
- `file`, `command`, `webhook`, `caddy`: no new request from the moment that it took what poold told
  it; stopped `drain_seconds` later, whatever is under way; what that cuts is not counted.
- `pull`: no new request from the moment that it asks poold the next time; stopped `drain_seconds`
  after it left the set, whatever is under way; what that cuts is not counted.
"""

from __future__ import annotations

from pathlib import Path

from poold.balancers.base import Balancer, Left, Server, Shown, ShownServer
from poold.balancers.haproxy import HaproxyBalancer, Runtime, dial
from poold.balancers.http import CaddyTeller, HookTeller
from poold.balancers.programs import CommandTeller, FileTeller
from poold.balancers.pulled import PullTeller
from poold.balancers.told import Teller, ToldBalancer
from poold.model.balancing import AnyBalancer, Caddy, Commanded, Haproxy, Hooked, Pulled, Rendered

__all__ = ["Balancer", "Left", "Server", "Shown", "ShownServer", "balancer_to"]


def balancer_to(configured: AnyBalancer) -> Balancer:
    """Return the balancer that a table of the configuration describes; nothing is opened yet."""
    if not isinstance(configured, Haproxy):
        return ToldBalancer(configured.name, _teller(configured), identity=repr(configured))
    runtime = Runtime(
        configured.name,
        dial(configured.socket),
        timeout_seconds=configured.timeout_seconds,
        master=configured.master,
    )
    return HaproxyBalancer(
        runtime,
        state_file=Path(configured.state_file) if configured.state_file else None,
        is_local=configured.socket.startswith("/"),
    )


def _teller(configured: Rendered | Commanded | Hooked | Caddy | Pulled) -> Teller:
    match configured:
        case Rendered(name=name, template=template, path=path, command=command):
            return FileTeller(
                name=name,
                template=Path(template),
                path=path,
                command=command,
                timeout_seconds=configured.timeout_seconds,
            )
        case Commanded(name=name, command=command, timeout_seconds=seconds):
            return CommandTeller(name=name, command=command, timeout_seconds=seconds)
        case Hooked(name=name, url=url, secret_file=secret, timeout_seconds=seconds):
            return HookTeller(name=name, url=url, secret_file=secret, timeout_seconds=seconds)
        case Caddy(name=name, url=url, timeout_seconds=seconds):
            return CaddyTeller(name=name, url=url, timeout_seconds=seconds)
        case Pulled():
            return PullTeller()
