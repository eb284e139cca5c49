"""A mistake of meaning, and the small questions that several rules ask of a value."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from poold.agent.space import read_reserve
from poold.config.lines import Place

HIGHEST_PORT: Final = 65535
_PORT_RANGE = re.compile(r"(\d{1,5})-(\d{1,5})")


@dataclass(frozen=True, slots=True)
class Mistake:
    """What cannot be. Shown at the first place; the others were part of the judgement."""

    places: tuple[Place, ...]
    message: str


def at(*places: Place, message: str) -> Mistake:
    """Return a mistake that is shown at the first of the places."""
    return Mistake(places, message)


def absolute(path: str, place: Place) -> Iterator[Mistake]:
    """Refuse relative paths: the daemon's working directory means nothing to the operator."""
    if not path.startswith("/"):
        hint = "; ~ is not expanded" if path.startswith("~") else ""
        yield at(place, message=f"cannot be {path!r}: an absolute path is needed{hint}")
    elif "\0" in path or "\n" in path:
        yield at(place, message="cannot have a line break or a zero byte in it")


def port(number: int | None, place: Place) -> Iterator[Mistake]:
    """Refuse what is no TCP port."""
    if number is not None and not 1 <= number <= HIGHEST_PORT:
        yield at(place, message=f"cannot be {number}: a port is from 1 to {HIGHEST_PORT}")


def at_least(low: int, number: float, place: Place) -> Iterator[Mistake]:
    """Refuse a count below `low`."""
    if number < low:
        yield at(place, message=f"cannot be {number}: {low} or more is needed")


def positive(number: float | None, place: Place) -> Iterator[Mistake]:
    """Refuse zero, what is negative, infinite and no number."""
    if number is not None and not 0 < number < float("inf"):
        yield at(place, message=f"cannot be {number}: a finite number above 0 is needed")


def disk_reserve(text: str, place: Place) -> Iterator[Mistake]:
    """Refuse what is neither a size nor a percentage."""
    try:
        read_reserve(text)
    except ValueError as error:
        yield at(place, message=f"cannot be {text!r}: {error}")


def port_range(text: str) -> tuple[int, int] | None:
    """Return the first and the last port of "20000-20999", or None where it is no range."""
    match = _PORT_RANGE.fullmatch(text)
    if not match:
        return None
    first, last = int(match[1]), int(match[2])
    return (first, last) if 1 <= first <= last <= HIGHEST_PORT else None
