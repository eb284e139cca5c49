"""`poold bench`: how fast a start is on your own pool, by every way, measured in turn."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from poold.cli import completion, options
from poold.cli.examples import examples
from poold.cli.failures import DONE, printable
from poold.cli.output import print_json, print_table
from poold.cli.session import Session
from poold.cli.tables import Column
from poold.errors import Refused

if TYPE_CHECKING:  # imported when it is needed, for speed
    from poold.bench.figures import Ratio, Row, Run
    from poold.config import Config
    from poold.model.fleet import Host, Pool

PATHS = ("cold", "article", "podman-tar", "bare", "poold", "spare")


@click.command(
    epilog=examples(
        "poold bench hello",
        "poold bench hello --host b --runs 20 --burst 1 --burst 8 --picture bench.svg",
        "poold bench hello --only article --only poold --json > bench.json",
    )
)
@click.argument("pool", shell_complete=completion.pools)
@click.option(
    "--host", "host_name", metavar="HOST", shell_complete=completion.hosts,
    help="Where to measure; the pool's builder.",
)  # fmt: skip
@click.option("--runs", default=7, show_default=True, type=click.IntRange(1, 1000))
@click.option(
    "--burst", "bursts", multiple=True, type=click.IntRange(1, 64), default=(1,),
    show_default=True, help="How many at once; may be given again.",
)  # fmt: skip
@click.option(
    "--only", "paths", multiple=True, type=click.Choice(PATHS), help="Leave the other ways out."
)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="JSON file.")
@click.option("--picture", type=click.Path(path_type=Path, dir_okay=False), help="SVG file.")
@options.question
def bench(
    session: Session,
    pool: str,
    host_name: str | None,
    runs: int,
    bursts: tuple[int, ...],
    paths: tuple[str, ...],
    output: Path | None,
    picture: Path | None,
    as_json: bool,
) -> int:
    r"""Measure starts of POOL: cold, by the article's commands, and by poold, in turn.

    \b
    cold        podman run
    article     podman container restore -i, with podman's default archive
    podman-tar  the same with an uncompressed archive
    bare        runc restore alone, everything else made beforehand
    poold       a wish at poold's API; shown as the engine that did it
    spare       the same where a spare waits, up to as many at once as the pool has

    Needs the daemon, and its configuration: the host is reached from here as well, to type podman's
    commands there. Every start is removed again; replicas that serve are left alone, but they do
    share the machine. Seconds are from the call to the first answer at the published address.
    """
    from poold import config
    from poold.bench import figures
    from poold.bench.picture import svg

    settings = config.load(session.served_config())
    found, host = _pool(settings, pool), _host(settings, pool, host_name)
    taken = _measure(session, settings, found, host, paths or PATHS, runs, sorted(set(bursts)))
    rows = figures.rows(pool, taken)
    compared = figures.ratios(rows)
    about = {"pool": pool, "host": host.name, "image": found.application.image}
    answer = figures.as_json(rows, compared, about)
    if output is not None:
        import json

        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(answer, indent=2) + "\n", encoding="utf-8")
    if picture is not None:
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_text(svg(rows), encoding="utf-8")
    if as_json:
        print_json(answer)
    else:
        _print(rows, compared)
    return DONE


def _pool(settings: Config, name: str) -> Pool:
    for pool in settings.pools.values():
        if pool.name == name:
            return pool
    known = ", ".join(sorted(settings.pools)) or "none"
    raise Refused(
        "pool.unknown",
        f"cannot measure {name}: the configuration has no such pool",
        hint=f"its pools: {known}",
    )


def _host(settings: Config, pool: str, name: str | None) -> Host:
    found = _pool(settings, pool)
    if name is not None and name not in found.hosts:
        raise Refused(
            "host.not-in-pool",
            f"cannot measure on {name}: it is no host of {pool}",
            hint=f"its hosts: {', '.join(found.hosts)}",
        )
    wanted = name or found.builder
    return next(host for host in settings.hosts.values() if host.name == wanted)


def _measure(
    session: Session,
    settings: Config,
    pool: Pool,
    host: Host,
    paths: Sequence[str],
    runs: int,
    bursts: Sequence[int],
) -> list[Run]:
    import asyncio
    import logging

    from poold.bench.run import compare
    from poold.bench.ways import Bench
    from poold.hosts import link_to

    for talker in ("poold", "asyncssh"):  # what matters of what they say is in the problems
        logging.getLogger(talker).addHandler(logging.NullHandler())
    client = session.client()
    generations = client.generations(pool.name)
    if not generations:
        raise Refused(
            "bench.no-generation",
            f"cannot measure {pool.name}: it has no warm checkpoint yet",
            hint=f"poold checkpoint {pool.name} --wait",
        )

    async def measured() -> list[Run]:
        link = link_to(host)
        await link.open()
        try:
            await link.wait_up(_REACH_SECONDS)
            ours = Bench(
                pool=pool,
                host=host,
                fleet=settings.daemon.fleet,
                digest=generations[0].digest,
                link=link,
                client=client,
                say=_say,
            )
            return await compare(ours, paths=paths, runs=runs, bursts=bursts)
        finally:
            await asyncio.shield(link.close())

    return asyncio.run(measured())


_REACH_SECONDS = 15.0


def _say(text: str) -> None:
    print(f"  {printable(text)}", file=sys.stderr, flush=True)


def _print(rows: Sequence[Row], compared: Sequence[Ratio]) -> None:
    from poold.bench.figures import BASELINES

    times = {(each.path, each.burst, each.against): each for each in compared}
    columns = [
        Column("WAY"), Column("AT ONCE"), Column("MEDIAN"), Column("P95"), Column("P99"),
        *(Column(f"{against.upper()} / IT") for against in BASELINES), Column("PHASES"),
    ]  # fmt: skip
    lines = []
    for row in rows:
        ratios = (times.get((row.path, row.burst, against)) for against in BASELINES)
        lines.append(
            [
                row.path,
                str(row.burst),
                f"{row.median:.3f} s",
                f"{row.p95:.3f} s",
                f"{row.p99:.3f} s",
                *(f"{r.ratio:.2f} [{r.low:.2f}, {r.high:.2f}]" if r else "" for r in ratios),
                ", ".join(f"{name} {seconds:.3f}" for name, seconds in row.phases.items()),
            ]
        )
    print_table(columns, lines, empty="nothing was measured")
