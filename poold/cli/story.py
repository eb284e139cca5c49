"""The commands that tell what happened and why: explain, events, audit."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import click
import msgspec

from poold.cli import completion, options, tables
from poold.cli.examples import examples
from poold.cli.failures import INTERRUPTED, printable
from poold.cli.output import print_json, print_table
from poold.cli.session import Session
from poold.cli.tables import Column
from poold.client import Client
from poold.errors import Temporary
from poold.model.events import Because, Event, Explanation

_RECONNECT_SECONDS = 1.0


@click.command(epilog=examples("poold explain hello", "poold explain hello --json"))
@options.pool_argument()
@options.question
def explain(session: Session, pool: str, as_json: bool) -> None:
    """Say why a pool is as it is and what it waits for."""
    found = session.client().explain(pool)
    if as_json:
        print_json(found)
        return
    print(printable(found.sentence))
    _print_section("waits for", found.waits_for)
    for topic in dict.fromkeys(one.topic for one in found.because):
        of_topic = [one for one in found.because if one.topic == topic]
        _print_section(topic, (line for one in of_topic for line in (one.text, *_told(one))))
    _print_section("lately", lately(found))


def lately(found: Explanation) -> Iterator[str]:
    """Tell the events; of the newest that left any, the evidence: the others are in the events."""
    failed = [one.id for one in found.events if _left_by(one)]
    for one in found.events:
        yield f"{tables.age(one.at, found.at)} ago: {one.text}"
        if failed and one.id == failed[-1] and not any(_told(each) for each in found.because):
            yield from _quoted(_left_by(one))


def _left_by(event: Event) -> str:
    problem = event.data.get("problem")
    return str(problem.get("detail", "")) if isinstance(problem, dict) else ""


def _told(because: Because) -> list[str]:
    return _quoted(because.evidence)


def _quoted(evidence: str) -> list[str]:
    return [f"  | {line}" for line in evidence.splitlines()]


def _print_section(heading: str, lines: Iterable[str]) -> None:
    for line in lines:
        print(f"{heading:<11} {printable(line)}")
        heading = ""


@click.command(
    epilog=examples("poold events", "poold events --pool hello --follow", "poold events --json")
)
@click.option("--follow", "-f", "follows", is_flag=True, help="Go on; across daemon restarts.")
@click.option("--pool", shell_complete=completion.pools, help="Only those of this pool.")
@click.option("--after", type=click.IntRange(min=0), help="Only those after this event's id.")
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many."
)
@options.question
def events(
    session: Session,
    follows: bool,
    pool: str | None,
    after: int | None,
    limit: int,
    as_json: bool,
) -> int:
    """List what happened, oldest first; with --follow go on with what happens.

    Followed as JSON they are one object a line.
    """
    client = session.client()
    found, last = client.events(pool, after=after, limit=limit)
    if as_json and not follows:
        print_json({"events": found})
        return 0
    for event in found:
        _print_event(event, as_json=as_json)
    if not found and not follows:
        print("no events")
    if follows:
        try:
            for event in Following(client, pool).events(last):
                _print_event(event, as_json=as_json)
        except KeyboardInterrupt:
            return INTERRUPTED
    return 0


def _print_event(event: Event, *, as_json: bool) -> None:
    if as_json:
        print(msgspec.json.encode(event).decode(), flush=True)
        return
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.at))
    print(f"{at}  {event.kind:<20} {printable(event.text)}", flush=True)


@dataclass(frozen=True)
class Following:
    """Events without an end: a stream that ended or broke off is taken up where it was.

    `sleep` is injected for tests.
    """

    client: Client
    pool: str | None
    sleep: Callable[[float], None] = time.sleep

    def events(self, after: int) -> Iterator[Event]:
        """Give every event after an id once, in order."""
        away = False
        while True:
            try:
                for event in self.client.follow(self.pool, after=after):
                    after, away = event.id, False
                    yield event
            except Temporary as problem:
                if not away:
                    print(f"{printable(problem.message)}; trying again", file=sys.stderr)
                away = True
            self.sleep(_RECONNECT_SECONDS)


@click.command(epilog=examples("poold audit", "poold audit --pool hello --json"))
@click.option("--pool", shell_complete=completion.pools, help="Only those of this pool.")
@click.option(
    "--limit", type=click.IntRange(1, 500), default=20, show_default=True, help="How many."
)
@options.question
def audit(session: Session, pool: str | None, limit: int, as_json: bool) -> None:
    """List accepted changing calls, the newest first: who, what, from where, why."""
    found = session.client().calls(pool, limit)
    if as_json:
        print_json({"calls": found})
        return
    columns = (
        Column("WHEN"),
        Column("WHO"),
        Column("FROM"),
        Column("WHAT"),
        Column("CHANGE", right=True),
        Column("WHY"),
    )
    rows = [
        (
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(call.at)),
            call.actor,
            call.origin,
            f"{call.operation} {call.path.removeprefix('/v1/')} {_asked(call.request)}".rstrip(),
            "" if call.change is None else str(call.change),
            call.reason,
        )
        for call in found
    ]
    print_table(columns, rows, empty="nothing was asked for yet")


def _asked(request: dict[str, object]) -> str:
    return " ".join(f"{name}={value}" for name, value in request.items() if name != "reason")
