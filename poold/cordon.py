"""What may be said of hosts: that nothing new goes there, that one is dead, that one is forgotten.

In: calls of the API. Out: changes that are settled when they are accepted, or a Refused that says
why not. It writes marks and frees names; what follows from that the loop decides.

Freeing a name breaks promise 1 if its replica still runs. So nothing is freed on a guess: somebody
asserts that the host is powered off, and a host that is in reach proves him wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from poold.agent.failpoints import failpoint
from poold.errors import Refused
from poold.model.fleet import Change, ChangeKind, Host, HostName, HostStatus, PoolName
from poold.store import Store

LOG = logging.getLogger(__name__)

NO_POOL = PoolName("")


class Configured(Protocol):
    """The part of the configuration that is needed here."""

    @property
    def hosts(self) -> Mapping[HostName, Host]:
        """The configured hosts."""


class Hosts(Protocol):
    """The part of the world that is needed here."""

    def host(self, name: HostName, /) -> HostStatus | None:
        """Return how a host is, None for one that is not configured."""

    def in_reach(self, name: HostName, /) -> bool:
        """Whether the host's agent answers, whatever its listings say."""

    def found_on(self, name: HostName, /) -> frozenset[str]:
        """Return the names of our containers that a host had when it was listed last."""


class Cordon:
    """Accepts or refuses; every method either raises Refused or has written a change."""

    def __init__(self, *, store: Store, world: Hosts, config: Callable[[], Configured]) -> None:
        self._store = store
        self._world = world
        self._config = config

    def cordon(self, host: str, *, actor: str, reason: str = "") -> Change:
        """Have no new replica placed on a host; those that run there stay."""
        name = self._configured(host, "cordon")
        with self._store.transaction():
            mark = self._store.hosts.of(name)
            if mark is not None and mark.mark == "fenced":
                raise Refused(
                    "host.fenced",
                    f"cannot cordon {host}: it is fenced, so nothing is placed there anyway",
                    hint=f"poold host uncordon {host} ends that",
                )
            if mark is None:
                self._store.hosts.put(name, "cordoned", actor=actor, reason=reason)
            text = f"nothing new is placed on {host}; what runs there stays"
            change = self._accept("cordon", {"host": name}, text, actor, reason)
        return self._told(change)

    def uncordon(self, host: str, *, actor: str, reason: str = "") -> Change:
        """Have replicas placed on a host again; a fenced one has to be back and cleaned up."""
        name = self._configured(host, "uncordon")
        with self._store.transaction():
            mark = self._store.hosts.of(name)
            if mark is not None and mark.mark == "fenced":
                self._refuse_before_clean(name)
            self._store.hosts.drop(name)
            text = f"replicas are placed on {host} again" + self._pardoned(name)
            change = self._accept("uncordon", {"host": name}, text, actor, reason)
        return self._told(change)

    def pardon(self, host: str, *, pool: str = "", actor: str, reason: str = "") -> Change:
        """Have quarantined generations, all or a pool's, tried on a host again at once."""
        name = self._configured(host, "pardon")
        with self._store.transaction():
            text = self._pardoned(name, pool).removeprefix("; ")
            text = text or f"no generation is quarantined on {host}"
            change = self._accept("pardon", {"host": name, "pool": pool}, text, actor, reason)
        return self._told(change)

    def _pardoned(self, host: HostName, pool: str = "") -> str:
        entries = [q for q in self._store.quarantine.all(pool or None) if q.host == host]
        self._store.quarantine.drop(pool=pool or None, host=host)
        names = ", ".join(f"generation {q.generation} of {q.pool}" for q in entries)
        return f"; {names} may be tried there again" if names else ""

    def fence(self, host: str, *, confirmed: bool, actor: str, reason: str = "") -> Change:
        """Take it that a host that is out of reach is dead, so that its names are free.

        `confirmed`: the caller asserts that it is powered off, or at least that none of our
        containers runs there. Until `uncordon` nothing is placed on it.
        """
        name = self._configured(host, "fence")
        status = self._world.host(name)
        if self._world.in_reach(name) or status is None or status.state == "up":
            raise Refused(
                "host.up",
                f"cannot fence {host}: it is in reach, so it is not dead",
                hint=f"power it off first; poold host cordon {host} keeps new replicas away",
            )
        if status.state == "connecting":
            raise Refused(
                "host.not-ready",
                f"cannot fence {host}: whether it is in reach is not known yet",
                hint="try again in a few seconds",
            )
        names = self._store.hosts.names(name)
        self._refuse_unconfirmed("fence", host, names, confirmed=confirmed)
        with self._store.transaction():
            released = self._store.hosts.release(name)
            self._store.hosts.put(name, "fenced", actor=actor, reason=reason)
            wish = {"host": name, "freed": released.names, "unpinned": released.unpinned}
            text = f"{host} is taken for dead; freed: {', '.join(released.names) or 'no names'}"
            change = self._accept("fence", wish, text, actor, reason)
        return self._told(change)

    def remove(self, host: str, *, confirmed: bool, actor: str, reason: str = "") -> Change:
        """Forget a host that left the configuration, so that its names are free."""
        name = HostName(host)
        if name in self._config().hosts:
            raise Refused(
                "host.configured",
                f"cannot remove {host}: it is in the configuration",
                hint="take it out there and systemctl reload poold; to free the names of a dead "
                f"host: poold host fence {host}",
            )
        if name not in self._store.hosts.known():
            raise self._unknown(host)
        moving = [m.name for m in self._store.moves() if name in (m.source, m.target)]
        names = (*self._store.hosts.names(name), *moving)
        if names:
            self._refuse_unconfirmed("remove", host, names, confirmed=confirmed)
        with self._store.transaction():
            released = self._store.hosts.forget(name)
            if moving:  # a move does not go on with a host that nobody can ask
                self._store.hosts.put(name, "fenced", actor=actor, reason=reason)
            wish = {"host": name, "freed": released.names, "unpinned": released.unpinned}
            text = f"{host} is forgotten; freed: {', '.join(released.names) or 'no names'}"
            change = self._accept("remove-host", wish, text, actor, reason)
        return self._told(change)

    # -- checks -----------------------------------------------------------------------------------

    def _configured(self, host: str, verb: str) -> HostName:
        name = HostName(host)
        if name in self._config().hosts:
            return name
        if name in self._store.hosts.known():
            raise Refused(
                "host.unknown",
                f"cannot {verb} {host}: it left the configuration",
                hint=f"poold host remove {host} forgets it",
            )
        raise self._unknown(host)

    def _unknown(self, host: str) -> Refused:
        return Refused(
            "host.unknown",
            f"cannot find the host {host}",
            hint=f"configured are: {', '.join(sorted(self._config().hosts)) or 'none'}",
        )

    def _refuse_unconfirmed(
        self, verb: str, host: str, names: tuple[str, ...], *, confirmed: bool
    ) -> None:
        if confirmed:
            return
        freed = f"the names {', '.join(names)} would be free" if names else "it would be cut loose"
        raise Refused(
            "host.unconfirmed",
            f"cannot {verb} {host}: {freed}, and a replica that still runs there would live twice",
            hint='once it is powered off: --yes ("confirmed": true)',
        )

    def _refuse_before_clean(self, name: HostName) -> None:
        status = self._world.host(name)
        if status is None or status.state != "up":
            raise Refused(
                "host.not-ready",
                f"cannot uncordon {name}: it is fenced and was not looked through since",
                hint="it has to come back first; a host that never will is taken out of the "
                f"configuration, then: poold host remove {name}",
            )
        strays = sorted(self._world.found_on(name) - set(self._store.hosts.names(name)))
        if strays:
            raise Refused(
                "host.not-ready",
                f"cannot uncordon {name}: {', '.join(strays)} must go from there first",
                hint="they are being removed; poold hosts shows how the host is",
            )

    # -- acceptance -------------------------------------------------------------------------------

    def _accept(
        self,
        kind: ChangeKind,
        wish: Mapping[str, object],
        text: str,
        actor: str,
        reason: str,
    ) -> Change:
        """Write down what is done already: there is nothing to wait for."""
        change = self._store.accept(
            pool=NO_POOL, kind=kind, wish=wish, actor=actor, reason=reason, relieves=True
        )
        self._store.end_change(change.id, "settled", progress=text)
        failpoint("wish.before_commit", kind)
        self._store.after_commit(partial(self._say, change, text))
        return self._store.change(change.id) or change

    def _say(self, change: Change, text: str) -> None:
        failpoint("wish.accepted", change.kind)
        LOG.info("%s", text, extra={"action": change.kind, "change": change.id})

    def _told(self, change: Change) -> Change:
        """Wake the loop in this very moment: what it still asks of the host must not arrive."""
        for pool in {*self._store.known_pools(), NO_POOL}:
            self._store.notify(pool)
        return change
