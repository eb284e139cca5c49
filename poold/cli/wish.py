"""The commands that change something: scale, restore, rm, move, checkpoint."""

from __future__ import annotations

import re

import click

from poold.cli import completion, options
from poold.cli.ending import finish
from poold.cli.examples import examples
from poold.cli.failures import DONE
from poold.cli.output import print_json
from poold.cli.session import Session
from poold.client import Client
from poold.model.fleet import Change


class _Count(click.ParamType[dict[str, int]]):
    """A number of replicas, or a difference when it begins with a sign."""

    name = "N|+N|-N"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, int]:
        text = str(value)
        if not re.fullmatch(r"[+-]?[0-9]{1,6}", text, re.ASCII):
            self.fail(f"{text!r} is no number: as in 3, +1, -1", param, ctx)
        return {"delta" if text[0] in "+-" else "replicas": int(text)}


# A negative difference looks like an option: unknown options are taken for arguments here.
_SIGNED = {"ignore_unknown_options": True}


@click.command(
    context_settings=_SIGNED,
    epilog=examples(
        "poold scale hello 3 --wait", "poold scale hello +1", "poold scale hello -2 --reason night"
    ),
)
@options.pool_argument()
@click.argument("count", metavar="N|+N|-N", type=_Count())
@options.wish
def scale(
    session: Session,
    pool: str,
    count: dict[str, int],
    waits: bool,
    timeout_seconds: float,
    reason: str,
    as_json: bool,
) -> int:
    """Wish for N replicas, or for N more or fewer."""
    client = session.client()
    change = client.scale(
        pool, replicas=count.get("replicas"), delta=count.get("delta"), reason=reason
    )
    return accepted(client, change, waits=waits, timeout_seconds=timeout_seconds, as_json=as_json)


@click.command(
    epilog=examples(
        "poold restore hello --wait", "poold restore hello --name hello7 --host b --wait"
    )
)
@options.pool_argument()
@click.option("--name", help="The replica's name; chosen where it is left out.")
@click.option(
    "--host",
    shell_complete=completion.hosts,
    help="Where it is to run; chosen where it is left out.",
)
@options.wish
def restore(
    session: Session,
    pool: str,
    name: str | None,
    host: str | None,
    waits: bool,
    timeout_seconds: float,
    reason: str,
    as_json: bool,
) -> int:
    """Wish for one more replica, from the warm checkpoint."""
    client = session.client()
    change = client.restore(pool, name=name, host=host, reason=reason)
    return accepted(client, change, waits=waits, timeout_seconds=timeout_seconds, as_json=as_json)


@click.command(epilog=examples("poold rm hello2 --wait"))
@options.replica_argument
@options.wish
def rm(
    session: Session,
    replica: str,
    waits: bool,
    timeout_seconds: float,
    reason: str,
    as_json: bool,
) -> int:
    """Wish for one replica less: this one."""
    client = session.client()
    change = client.remove(replica, reason=reason)
    return accepted(client, change, waits=waits, timeout_seconds=timeout_seconds, as_json=as_json)


@click.command(epilog=examples("poold move hello1 --to b --wait"))
@options.replica_argument
@click.option(
    "--to", required=True, metavar="HOST", shell_complete=completion.hosts, help="Where to."
)
@options.wish
def move(
    session: Session,
    replica: str,
    to: str,
    waits: bool,
    timeout_seconds: float,
    reason: str,
    as_json: bool,
) -> int:
    """Let a running replica go on running on another host, with all its state.

    It is frozen, sent and thawed there under its own name. Until it has answered there, nothing
    of it is thrown away here.
    """
    client = session.client()
    change = client.move(replica, to=to, reason=reason)
    return accepted(client, change, waits=waits, timeout_seconds=timeout_seconds, as_json=as_json)


@click.command(epilog=examples("poold checkpoint hello --wait"))
@options.pool_argument()
@options.wish
def checkpoint(
    session: Session,
    pool: str,
    waits: bool,
    timeout_seconds: float,
    reason: str,
    as_json: bool,
) -> int:
    """Wish for a new generation: start cold, warm up, freeze, prove."""
    client = session.client()
    change = client.checkpoint(pool, reason=reason)
    return accepted(client, change, waits=waits, timeout_seconds=timeout_seconds, as_json=as_json)


def accepted(
    client: Client, change: Change, *, waits: bool, timeout_seconds: float, as_json: bool
) -> int:
    """Say that the wish is kept, or wait for its end; return the exit code."""
    if waits or change.state != "pending":
        return finish(client, change, timeout_seconds=timeout_seconds, as_json=as_json)
    if as_json:
        print_json(change)
    else:
        print(f"accepted as change {change.id}; poold changes {change.id} --wait")
    return DONE
