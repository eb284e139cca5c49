"""The revision of what is wished of a pool or said of a host: its ETag, and what If-Match asks for.

Flows in: a call's path. Flows out: the number as it is now. It rises with everything wished,
whoever wishes it; what becomes of replicas and hosts leaves it as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from poold.api.ports import Ports
from poold.errors import Refused

_CODES = {"pool": "pool.changed", "host": "host.changed"}
_LOOK_AGAIN = {
    "pool": "poold explain {name} (GET /v1/pools/{name}/scale)",
    "host": "poold host show {name} (GET /v1/hosts/{name})",
}


@dataclass(frozen=True)
class Revision:
    """Of what it is, and the number."""

    of: Literal["pool", "host"]
    name: str
    number: int

    @property
    def tag(self) -> str:
        """The ETag, a strong one (RFC 9110)."""
        return f'"{self.number}"'

    def check(self, if_match: str) -> None:
        """Refuse what was decided on another revision than this one."""
        offered = {tag.strip() for tag in if_match.split(",")}
        if not offered & {"*", self.tag, str(self.number)}:
            look = _LOOK_AGAIN[self.of].format(name=self.name)
            raise Refused(
                _CODES[self.of],
                f"cannot accept this: {self.name} is at revision {self.number} now, not at "
                f"{if_match[:80]}: something else was wished meanwhile",
                hint=f"look again and decide anew: {look}",
            )


def of_pool(ports: Ports, pool: str) -> Revision:
    """Return the revision of what is wished of a pool."""
    return Revision("pool", pool, ports.store.calls.revision(pool))


def of_host(ports: Ports, host: str) -> Revision:
    """Return the revision of what is said of a host."""
    return Revision("host", host, ports.store.calls.host_revision(host))


def of_path(ports: Ports, path: Mapping[str, str]) -> Revision | None:
    """Return the revision that a call is about; None where a replica that it names is not wished.

    Nor has a path with none of these one.
    """
    if "pool" in path:
        return of_pool(ports, path["pool"])
    if "host" in path:
        return of_host(ports, path["host"])
    pool = ports.store.calls.pool_of(path["replica"]) if "replica" in path else None
    return of_pool(ports, pool) if pool is not None else None
