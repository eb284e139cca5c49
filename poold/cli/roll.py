"""`poold roll` and `poold rollback`: which generation a pool's replicas come up from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from poold.cli import completion, options
from poold.cli.examples import examples
from poold.cli.session import Session
from poold.cli.wish import accepted

F = TypeVar("F", bound=Callable[..., Any])


def _limits(function: F) -> F:
    """Let a command take what may be missing and what may be too much meanwhile."""
    surge = click.option(
        "--surge",
        type=click.IntRange(min=0),
        metavar="N",
        help="Extra replicas while it lasts; the pool's roll.surge where it is left out.",
    )
    unavailable = click.option(
        "--unavailable",
        type=click.IntRange(min=0),
        metavar="N",
        help="How many may be missing at a time; the pool's roll.unavailable where left out.",
    )
    return surge(unavailable(function))


_TO = click.option(
    "--to",
    type=click.IntRange(min=1),
    metavar="GENERATION",
    shell_complete=completion.generations,
    help="A generation's number; chosen where it is left out.",
)


@click.command(
    epilog=examples(
        "poold roll hello --wait",
        "poold roll hello --surge 2 --wait",
        "poold roll hello --surge 0 --unavailable 1",
    )
)
@options.pool_argument()
@_TO
@_limits
@options.wish
def roll(
    session: Session,
    pool: str,
    to: int | None,
    surge: int | None,
    unavailable: int | None,
    waits: bool,
    timeout_seconds: float,
    reason: str,
    as_json: bool,
) -> int:
    """Replace the replicas of POOL by those of the newest generation, one after the other.

    The first one that does not come up from it pauses the roll: say it again to go on. Where the
    configured application has no generation yet, it is made first. With --to another generation
    the pool is held there, as by rollback.
    """
    client = session.client()
    change = client.roll(pool, to=to, surge=surge, unavailable=unavailable, reason=reason)
    return accepted(client, change, waits=waits, timeout_seconds=timeout_seconds, as_json=as_json)


@click.command(epilog=examples("poold rollback hello --wait", "poold rollback hello --to 6"))
@options.pool_argument()
@_TO
@_limits
@options.wish
def rollback(
    session: Session,
    pool: str,
    to: int | None,
    surge: int | None,
    unavailable: int | None,
    waits: bool,
    timeout_seconds: float,
    reason: str,
    as_json: bool,
) -> int:
    """Replace the replicas of POOL by those of the generation before, and hold the pool there.

    Its image and settings are used for cold starts as well, whatever the configuration says, until
    poold roll, or until the configuration's application changes.
    """
    client = session.client()
    change = client.rollback(pool, to=to, surge=surge, unavailable=unavailable, reason=reason)
    return accepted(client, change, waits=waits, timeout_seconds=timeout_seconds, as_json=as_json)
