"""`poold host`: what an operator says of a host. Its change is settled when it is accepted."""

from __future__ import annotations

import sys
import time

import click

from poold.cli import completion, options, tables
from poold.cli.examples import examples
from poold.cli.failures import printable
from poold.cli.output import print_json
from poold.cli.session import Session
from poold.cli.tables import no_room
from poold.errors import Refused, problem_from_json
from poold.model.compat import CPU_FLAGS
from poold.model.fleet import Change

_HOST = click.argument("host", shell_complete=completion.hosts)
_REASON = click.option(
    "--reason", default="", metavar="TEXT", help="Why, for who reads the change later."
)
_YES = click.option("--yes", "confirmed", is_flag=True, help="It is powered off: do not ask.")


@click.group()
def host() -> None:
    """Show a host, or say something of it."""


@host.command(epilog=examples("poold host show b"))
@_HOST
@options.question
def show(session: Session, host: str, as_json: bool) -> None:
    """Show how HOST is, and which generations are quarantined there and why."""
    found = next((each for each in session.client().hosts() if each.name == host), None)
    if found is None:
        raise Refused("host.unknown", f"cannot find the host {host}", hint="poold hosts lists them")
    if as_json:
        print_json(found)
        return
    now = time.time()
    seen = tables.age(found.seen_at, now)
    disk, memory = tables.size(found.disk_free_bytes), tables.size(found.memory_free_bytes)
    if found.disk_reserve_bytes:
        disk += f" ({tables.size(found.disk_reserve_bytes)} of it in reserve)"
    fields = (
        ("host", found.name),
        ("state", found.state),
        ("mark", found.mark),
        ("revision", str(found.revision)),
        ("note", "; ".join(text for text in (found.reason, found.closed, no_room(found)) if text)),
        ("seen", f"{seen} ago" if seen else ""),
        ("free", f"disk {disk or 'unknown'}, memory {memory or 'unknown'}"),
        *((name, text) for name, text in sorted(found.facts.items()) if name != CPU_FLAGS),
    )
    for name, text in fields:
        if text:
            print(f"{name:<9} {printable(text)}")
    for entry in found.quarantine:
        left = tables.age(now, entry.until)
        print(f"\ngeneration {entry.generation} of {entry.pool} is quarantined for {left} more, "
              f"after {tables.times(entry.failures)}:")  # fmt: skip
        problem = problem_from_json(entry.problem)
        for line in (str(problem), *problem.detail.splitlines()):
            print(f"  {printable(line)}")


@host.command(epilog=examples("poold host pardon b", "poold host pardon b --pool hello"))
@_HOST
@click.option("--pool", default="", shell_complete=completion.pools, help="Only of this pool.")
@_REASON
@options.changing
@options.question
def pardon(session: Session, host: str, pool: str, reason: str, as_json: bool) -> None:
    """Let generations that are quarantined on HOST be tried there again at once."""
    _say(session.client().pardon(host, pool=pool, reason=reason), as_json=as_json)


@host.command(epilog=examples("poold host cordon b --reason 'new kernel'"))
@_HOST
@_REASON
@options.changing
@options.question
def cordon(session: Session, host: str, reason: str, as_json: bool) -> None:
    """Place nothing new on HOST; what runs there stays."""
    _say(session.client().cordon(host, reason=reason), as_json=as_json)


@host.command(epilog=examples("poold host uncordon b"))
@_HOST
@_REASON
@options.changing
@options.question
def uncordon(session: Session, host: str, reason: str, as_json: bool) -> None:
    """Place replicas on HOST again, be it cordoned or fenced.

    A fenced host has to be back, and rid of what lives elsewhere now.
    """
    _say(session.client().uncordon(host, reason=reason), as_json=as_json)


@host.command(epilog=examples("poold host fence b --yes"))
@_HOST
@_YES
@_REASON
@options.changing
@options.question
def fence(session: Session, host: str, confirmed: bool, reason: str, as_json: bool) -> None:
    """Take it that HOST, which is out of reach, is dead: its replicas come up elsewhere.

    You assert that it is powered off: a replica that still runs there would live twice. When it
    comes back, what lives elsewhere is removed there first, and nothing is placed on it until
    uncordon.
    """
    client = session.client()
    question = f"Is {host} powered off? Its replicas are going to be started elsewhere"
    sure = confirmed or _asked(question, as_json=as_json)
    _say(client.fence(host, confirmed=sure, reason=reason), as_json=as_json)


@host.command(epilog=examples("poold host remove b --yes"))
@_HOST
@_YES
@_REASON
@options.changing
@options.question
def remove(session: Session, host: str, confirmed: bool, reason: str, as_json: bool) -> None:
    """Forget HOST, which left the configuration: its replicas come up elsewhere.

    Where it may still have replicas, you assert that none of them runs there any more.
    """
    client = session.client()
    question = f"Does nothing of poold run on {host} any more?"
    sure = confirmed or _asked(question, as_json=as_json)
    _say(client.remove_host(host, confirmed=sure, reason=reason), as_json=as_json)


def _asked(question: str, *, as_json: bool) -> bool:
    """Ask who sits at a terminal; everybody else has to say --yes."""
    if as_json or not sys.stdin.isatty():
        return False
    return click.confirm(question, err=True)


def _say(change: Change, *, as_json: bool) -> None:
    if as_json:
        print_json(change)
    else:
        print(printable(change.progress))
