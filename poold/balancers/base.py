"""What poold asks of a load balancer: one verb, level-triggered.

In: a pool and the whole set of its replicas that may take traffic. Out: what the balancer shows
once it was brought closer to that, read back from it. It refuses to know why a replica is in the
set or not, and nothing here remembers a set: whoever calls again with the same one repairs what
was changed by hand, by a reload or by a restart.

How `reconcile` uses it (promise 4), in `traffic` (pure), `publishing` (a task a pool) and `plan`:

- The task calls `publish` when the set changed, and every second. It never waits for hosts, and no
  host's action waits for it: a balancer that hangs must not hold up a restore.
- The set: replicas shown as `ready`, and those of hosts that the daemon does not reach, at the
  address they had. Whoever is to be taken down, rolled or captured for a move is first left out of
  the set: that alone begins its draining.
- What `publish` returned last is in the snapshot. A removal of a replica that runs and answers is
  planned only when the last reading that succeeded was of a set without it and does not show its
  address; until then it is shown as `removing: draining, 3 sessions`. Who is dead or hangs is not
  waited for. Nor is a balancer that could not be read for longer than the pool's drain deadline:
  what it shows is not known, and that is said; or one that shows a replica for `LETTING_GO_SECONDS`
  more than that, because it takes no command.
- Draining never ends by itself (a long poll): the balancer's own deadline ends it, and `Left` says
  how many sessions that cut.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, Protocol

from poold.errors import Problem
from poold.model.balancing import BalancerName
from poold.model.fleet import Pool

State = Literal["up", "down", "draining", "maintenance"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A replica that may take traffic. `address` is an IP address, without brackets."""

    name: str
    address: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownServer:
    """What a balancer has of a pool now. Counts that it did not tell are None."""

    name: str  # of the balancer's entry: a replica's, or a slot's
    address: str
    port: int
    state: State
    weight: int
    leaving: bool = False  # not in the set: it drains, or waits to be removed
    sessions: int | None = None
    queue: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """An entry that is gone since the last call, and how its draining ended."""

    name: str
    address: str
    port: int
    seconds: float  # since it was first not in the set any more
    sessions_cut: int  # that were there when the drain deadline ended them


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a balancer shows of a pool, read back after what was done; `problems`: what was not."""

    servers: tuple[ShownServer, ...]
    left: tuple[Left, ...] = ()
    problems: tuple[Problem, ...] = ()
    commands: int = 0  # sent to come here: 0 when it showed the set already
    queue: int | None = None  # requests that wait for any of the pool's servers
    settling: bool = False  # whom it listed before it was first told is not known, and has time

    def lists(self, address: str, port: int) -> bool:
        """Return whether anything there still leads to that address."""
        return any((shown.address, shown.port) == (address, port) for shown in self.servers)


class Balancer(Protocol):
    """A load balancer. Calls for different pools may run at the same time."""

    @property
    def name(self) -> BalancerName:
        """What the configuration calls it."""

    async def identity(self) -> str:
        """Return what tells it from others now, in whatever way it is reached.

        Equal for two ways to one balancer. Raises a Problem where it cannot be asked.
        """

    async def publish(self, pool: Pool, servers: Collection[Server]) -> Shown:
        """Bring what it shows of the pool closer to the set, once, and return what it shows then.

        Ends within a bounded time, does not wait for a server to drain, and may be repeated at any
        time. Raises a Problem ("balancer.…") when what it shows is not known; what only could not
        be changed is in `problems`. Cancelled, whatever was done stays; the next call goes on.
        """
