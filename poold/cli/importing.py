"""The command that makes a generation of an archive that podman exported."""

from __future__ import annotations

from pathlib import Path

import click

from poold.cli import completion, options
from poold.cli.examples import examples
from poold.cli.session import Session
from poold.cli.wish import accepted
from poold.client import Client
from poold.errors import Refused


@click.command(
    "import",
    epilog=examples(
        "poold import /root/hello.tar.zst --pool hello --wait",
        "poold import /root/hello.tar.gz --pool hello --host b",
    ),
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--pool", help="Default: the only one there is.", shell_complete=completion.pools)
@click.option(
    "--host",
    help="Where FILE is, one of the pool's hosts; default: its builder.",
    shell_complete=completion.hosts,
)
@options.wish
def import_(
    session: Session,
    file: Path,
    pool: str | None,
    host: str | None,
    waits: bool,
    timeout_seconds: float,
    reason: str,
    as_json: bool,
) -> int:
    """Make a generation of FILE, which `podman container checkpoint -e` wrote on a host.

    It is read through, written anew as one of the pool's, restored once and sealed; FILE stays as
    it is. The container has to be of the pool's image and may have nothing that the pool's own have
    not: volumes, capabilities, devices, namespaces.
    """
    client = session.client()
    change = client.import_archive(
        pool or _only(client), file=str(file.absolute()), host=host, reason=reason
    )
    return accepted(client, change, waits=waits, timeout_seconds=timeout_seconds, as_json=as_json)


def _only(client: Client) -> str:
    names = [pool.name for pool in client.pools()]
    if len(names) != 1:
        raise Refused(
            "import.which-pool",
            "cannot tell which pool the archive is for",
            hint=f"--pool, one of: {', '.join(names) or 'none is configured'}",
        )
    return names[0]
