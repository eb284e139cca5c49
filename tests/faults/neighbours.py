"""A container of somebody else on each host of a lab, there for all tests: nobody may touch it.

It bears a name that pools may want. Its image is its own, so that a test may take away the one of
the pools. Out: what must still be as it was at each look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from view import HostSeen, Kept

from poold.lab import Lab

NAME = "app16"
_PLANT = f"""
set -e
cd /
files="usr/bin/sleep $(ldd usr/bin/sleep | grep -o '/[^ ]*' | sed 's,^/,,')"
tar --create --dereference $files | podman import --quiet - localhost/neighbour >/dev/null
podman run --detach --name {NAME} localhost/neighbour /usr/bin/sleep infinity
"""


@dataclass(slots=True)
class Neighbour:
    """One of them, and the life of its host in which it was seen to run."""

    kept: Kept
    boot_id: str = ""


_PLANTED: dict[str, tuple[Neighbour, ...]] = {}  # by lab


def plant(lab: Lab, hosts: Sequence[str]) -> None:
    """Run one on each host."""
    _PLANTED[lab.name] = tuple(
        Neighbour(
            Kept(
                name=NAME,
                host=host,
                container_id=lab.exec(host, "sh", "-c", _PLANT).split()[-1],
            )
        )
        for host in hosts
    )


def of(lab: Lab) -> tuple[Neighbour, ...]:
    """Return those of a lab; none where none were planted."""
    return _PLANTED.get(lab.name, ())


def started_again(lab: Lab, seen: HostSeen) -> bool:
    """Start what stopped with its host, as its owner would; True where there was something."""
    again = False
    for one in of(lab):
        if one.kept.host != seen.name or not seen.engine:
            continue
        found = next((each for each in seen.containers if each.id == one.kept.container_id), None)
        if found is not None and not found.running and seen.boot_id != one.boot_id:
            lab.exec(seen.name, "podman", "start", found.id)
            again = True
        one.boot_id = seen.boot_id
    return again
