"""`poold serve`: the daemon in the foreground, as systemd wants it."""

from __future__ import annotations

from pathlib import Path

import click

DEFAULT_CONFIG = "/etc/poold/poold.toml"


@click.command()
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=DEFAULT_CONFIG,
    show_default=True,
    envvar="POOLD_CONFIG",
    help="The configuration; `poold config check` looks it over beforehand.",
)
def serve(path: Path) -> None:
    """Run the daemon in the foreground until SIGTERM.

    Replicas run on when it stops, and are found again when it starts. Exit status 2 says that the
    configuration or the state directory cannot be used: trying again would not help.
    """
    import asyncio

    from poold import config, daemon

    settings = config.load(path).daemon
    _log_to_standard_error(settings.log_level)
    asyncio.run(daemon.serve(path))


def _log_to_standard_error(level: str) -> None:
    """Log terse lines; systemd and containers add the time themselves."""
    import logging
    import os
    import sys

    under_systemd = "JOURNAL_STREAM" in os.environ
    line = "%(name)s: %(message)s" if under_systemd else "%(asctime)s %(name)s: %(message)s"
    logging.basicConfig(level=level.upper(), stream=sys.stderr, format=line)
    logging.getLogger("asyncssh").setLevel(logging.WARNING)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
