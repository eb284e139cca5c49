"""The commands that ask: status, ps, hosts, generations, logs, changes."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence

import click

from poold.cli import completion, options, tables
from poold.cli.ending import finish
from poold.cli.examples import examples
from poold.cli.failures import printable
from poold.cli.output import print_json, print_table
from poold.cli.replica_table import print_replicas, print_spares
from poold.cli.session import Session
from poold.cli.tables import Column
from poold.errors import problem_from_json
from poold.model.compat import class_of, facts_of
from poold.model.fleet import Change, ChangeId, PoolStatus


@click.command(epilog=examples("poold status", "poold status --json"))
@options.question
def status(session: Session, as_json: bool) -> None:
    """Show pools, hosts and what is going on."""
    client = session.client()
    health, pools, hosts = client.health(), client.pools(), client.hosts()
    pending = [change for change in client.changes(limit=100) if change.state == "pending"]
    if as_json:
        print_json({"health": health, "pools": pools, "hosts": hosts, "changes": pending})
        return
    columns = (
        Column("POOL"),
        Column("READY", right=True),
        Column("SPARES", right=True),
        Column("GEN", right=True),
        Column("NOW"),
    )
    rows = [
        (
            pool.name,
            f"{pool.ready}/{pool.desired}",
            _spares(pool),
            "" if pool.generation is None else str(pool.generation),
            pool.sentence,
        )
        for pool in pools
    ]
    behind = [(pool.name, pool.balancer) for pool in pools if pool.balancer is not None]
    print_table(columns, rows, empty="no pool is configured")
    if behind:
        print()
    for name, balancer in behind:
        print(printable(f"{name} behind {balancer.name}: {tables.behind(balancer)}"))
    for pool in pools:
        if (advice := pool.recommended) is not None:
            how = "" if advice.followed else " (dry run)"
            print(printable(f"{pool.name} asks for {advice.count}{how}: {advice.text}"))
    if note := health.get("note"):
        print(f"\n{printable(note)}")
    up = sum(host.state == "up" for host in hosts)
    print(f"\n{up} of {len(hosts)} hosts up")
    for host in hosts:
        if host.state != "up":
            print(printable(f"  {host.name} is {host.state}: {host.reason or 'no reason known'}"))
        if host.closed:
            print(f"  {printable(host.closed)}")
    for change in pending:
        progress = printable(change.progress) or "waiting for its turn"
        print(f"change {change.id}: {printable(_wish(change))}: {progress}")


@click.command(epilog=examples("poold ps", "poold ps hello --wide", "poold ps --json"))
@options.pool_argument(required=False)
@click.option(
    "--wide", is_flag=True, help="Also memory: all, private, its share, and what is merged."
)
@options.question
def ps(session: Session, pool: str | None, wide: bool, as_json: bool) -> None:
    """List replicas and spares, of one pool where it is given."""
    client = session.client()
    replicas, revisions = client.revisions(pool)
    spares = client.spares(pool)
    if as_json:
        print_json({"replicas": replicas, "revisions": revisions, "spares": spares})
        return
    print_replicas(replicas, wide=wide)
    if spares:
        print()
        print_spares(spares)


@click.command(epilog=examples("poold hosts", "poold hosts --json"))
@options.question
def hosts(session: Session, as_json: bool) -> None:
    """List the hosts and how they are."""
    found = session.client().hosts()
    if as_json:
        print_json({"hosts": found})
        return
    now = time.time()
    columns = (
        Column("HOST"),
        Column("STATE"),
        Column("MARK"),
        Column("SEEN", right=True),
        Column("DISK FREE", right=True),
        Column("MEMORY FREE", right=True),
        Column("FACTS"),
        Column("NOTE"),
    )
    rows = [
        (
            host.name,
            host.state,
            host.mark,
            tables.age(host.seen_at, now),
            tables.size(host.disk_free_bytes),
            tables.size(host.memory_free_bytes),
            ", ".join(
                f"{name} {host.facts[name]}"
                for name in ("podman", "runtime", "criu", "kernel")
                if name in host.facts
            ),
            "; ".join(
                text
                for text in (
                    host.reason,
                    host.closed,
                    tables.no_room(host),
                    *(
                        f"generation {each.generation} of {each.pool} is quarantined"
                        for each in host.quarantine
                    ),
                )
                if text
            ),
        )
        for host in found
    ]
    print_table(columns, rows, empty="no host is configured")


@click.command(epilog=examples("poold generations hello", "poold generations hello --json"))
@options.pool_argument()
@options.question
def generations(session: Session, pool: str, as_json: bool) -> None:
    """List a pool's generations, the newest first."""
    client = session.client()
    found, unfit = client.generations(pool), client.unfit(pool)
    status = next((one for one in client.pools() if one.name == pool), None)
    note = status.image_note if status is not None else ""
    if as_json:
        print_json({"generations": found, "unfit": unfit, "image_note": note})
        return
    now = time.time()
    running = Counter(replica.generation for replica in client.replicas(pool))
    columns = (
        Column("GEN", right=True),
        Column("USE"),
        Column("REPLICAS", right=True),
        Column("AGE", right=True),
        Column("COLD START", right=True),
        Column("ARCHIVE", right=True),
        Column("PACKED", right=True),
        Column("BUILT ON"),
        Column("FOR HOSTS LIKE"),
        Column("NOT FOR"),
        Column("DIGEST"),
        Column("IMAGE"),
    )
    rows = [
        (
            str(generation.number),
            _use(status, generation.number),
            str(running[generation.number] or ""),
            tables.age(generation.manifest.created_at, now),
            tables.duration(generation.manifest.cold_seconds or None),
            tables.size(generation.manifest.archive_bytes),
            tables.size(generation.manifest.packed_bytes),
            generation.builder,
            class_of(facts_of(generation.manifest)),
            "; ".join(
                f"{host}: {', '.join(reasons)}"
                for host, reasons in unfit.get(generation.digest, {}).items()
            ),
            generation.digest.removeprefix("sha256:")[:12],
            generation.manifest.image,
        )
        for generation in found
    ]
    print_table(columns, rows, empty=f"no generation yet; poold checkpoint {pool} makes one")
    if note:
        click.echo(f"\n{note}")


def _spares(pool: PoolStatus) -> str:
    """Say how many spares of how many wait; nothing of a pool that wishes for none."""
    ready = sum(spare.state == "ready" for spare in pool.spares)
    return f"{ready}/{pool.spares_wished}" if pool.spares or pool.spares_wished else ""


def _use(pool: PoolStatus | None, number: int) -> str:
    """Say what a generation is to its pool now."""
    if pool is None or pool.generation != number:
        return ""
    return "held" if pool.held == number else "current"


@click.command(epilog=examples("poold logs hello2", "poold logs hello2 --tail 20"))
@options.replica_argument
@click.option(
    "--tail", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Lines."
)
@options.question
def logs(session: Session, replica: str, tail: int, as_json: bool) -> None:
    """Print the last lines of a replica's output; on a terminal without its control characters."""
    lines = session.client().logs(replica, tail)
    if as_json:
        print_json({"lines": lines})
        return
    shown = sys.stdout.isatty()
    for line in lines:
        print(printable(line.expandtabs()) if shown else line)


@click.command(
    epilog=examples("poold changes", "poold changes --pool hello", "poold changes 42 --wait")
)
@click.argument("number", type=click.IntRange(min=1), required=False)
@click.option("--pool", shell_complete=completion.pools, help="Only those of this pool.")
@click.option(
    "--limit", type=click.IntRange(1, 500), default=20, show_default=True, help="How many."
)
@options.wait_options
@options.question
def changes(
    session: Session,
    number: int | None,
    pool: str | None,
    limit: int,
    waits: bool,
    timeout_seconds: float,
    as_json: bool,
) -> int:
    """List changes, the newest first; or show one, and wait for its end."""
    client = session.client()
    if number is None:
        if waits:
            raise click.UsageError("--wait needs a change's number, as in: poold changes 42 --wait")
        _print_changes(client.changes(pool, limit), as_json=as_json)
        return 0
    change = client.change(ChangeId(number))
    if waits:
        return finish(client, change, timeout_seconds=timeout_seconds, as_json=as_json)
    _print_change(change, as_json=as_json)
    return 0


def _print_changes(found: Sequence[Change], *, as_json: bool) -> None:
    if as_json:
        print_json({"changes": found})
        return
    now = time.time()
    columns = (
        Column("CHANGE", right=True),
        Column("AGE", right=True),
        Column("POOL"),
        Column("WISH"),
        Column("STATE"),
        Column("TOOK", right=True),
        Column("BY"),
        Column("WHY"),
        Column("NOTE"),
    )
    rows = [
        (
            str(change.id),
            tables.age(change.created_at, now),
            change.pool,
            _wish(change),
            change.state,
            tables.duration(change.settled_at - change.created_at if change.settled_at else None),
            change.actor,
            change.reason,
            _note(change),
        )
        for change in found
    ]
    print_table(columns, rows, empty="no changes")


def _print_change(change: Change, *, as_json: bool) -> None:
    if as_json:
        print_json(change)
        return
    now = time.time()
    fields = (
        ("change", str(change.id)),
        ("pool", change.pool),
        ("wish", _wish(change)),
        ("by", change.actor),
        ("why", change.reason),
        ("accepted", f"{tables.age(change.created_at, now)} ago"),
        ("state", change.state),
        ("now" if change.state == "pending" else "outcome", _note(change)),
        ("hint", problem_from_json(change.problem).hint if change.problem else ""),
        ("took", tables.duration((change.settled_at or now) - change.created_at)),
        ("phases", tables.phases(change.phases)),
    )
    for name, text in fields:
        if text:
            print(f"{name:<9} {printable(text)}")
    if change.problem:
        for line in problem_from_json(change.problem).detail.splitlines():
            print(f"  | {printable(line)}")


def _wish(change: Change) -> str:
    return tables.wish(change.kind, change.wish)


def _note(change: Change) -> str:
    return problem_from_json(change.problem).message if change.problem else change.progress
