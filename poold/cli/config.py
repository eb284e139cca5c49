"""`poold config`: judge a configuration file, or show it with the defaults filled in.

Works on the file alone: no daemon is asked, and nothing on this machine is looked at.
"""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import click
import msgspec

from poold.config import Config, InvalidConfig, load, to_json, to_toml
from poold.errors import Refused

_INVALID = 2
_FILE = click.argument("file", type=click.Path(path_type=Path))


@click.group()
def config() -> None:
    """Check a configuration file, or show it with its defaults."""


@config.command()
@_FILE
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check(file: Path, *, as_json: bool) -> None:
    """Check FILE and report every mistake at once.

    Prints "FILE: ok, 2 hosts, 3 pools", or each mistake as FILE:LINE: KEY: MESSAGE.
    Exit status: 0 when the daemon would take the file, 2 when it would not.
    """
    try:
        found = load(file)
    except Refused as refusal:
        if as_json:
            click.echo(_verdict(file, refusal))
        else:
            click.echo(_complaints(refusal))
        _leave()
    if as_json:
        click.echo(_verdict(file, found))
    else:
        hosts, pools = _count(len(found.hosts), "host"), _count(len(found.pools), "pool")
        click.echo(f"{file}: ok, {hosts}, {pools}")


@config.command()
@_FILE
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of TOML.")
@click.option(
    "--show-secrets",
    is_flag=True,
    help="Do not mask the values of env, nor the headers and bodies of warm-up requests.",
)
def show(file: Path, *, as_json: bool, show_secrets: bool) -> None:
    """Show FILE with every default filled in.

    The output is a configuration itself and reads as the same one, except where it is masked.
    Exit status: 0, or 2 when FILE cannot be used.
    """
    try:
        found = load(file)
    except Refused as refusal:
        click.echo(_complaints(refusal), err=True)
        _leave()
    if as_json:
        click.echo(to_json(found, show_secrets=show_secrets))
    else:
        click.echo(to_toml(found, show_secrets=show_secrets), nl=False)


def _verdict(file: Path, outcome: Config | Refused) -> bytes:
    problems: list[dict[str, object]] = []
    if isinstance(outcome, InvalidConfig):
        problems = [
            {"path": problem.path, "line": problem.line, "message": problem.message}
            for problem in outcome.problems
        ]
    elif isinstance(outcome, Refused):
        problems = [{"path": "", "line": None, "message": outcome.message}]
    counts = (
        {"hosts": len(outcome.hosts), "pools": len(outcome.pools)}
        if isinstance(outcome, Config)
        else {}
    )
    verdict = {"file": str(file), "ok": not problems, **counts, "problems": problems}
    return msgspec.json.format(msgspec.json.encode(verdict))


def _complaints(refusal: Refused) -> str:
    return "\n".join(refusal.lines()) if isinstance(refusal, InvalidConfig) else str(refusal)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _leave() -> NoReturn:
    raise click.exceptions.Exit(_INVALID)
