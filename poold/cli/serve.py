"""`poold serve`: the daemon in the foreground, as systemd wants it."""

from __future__ import annotations

import click

from poold.cli.session import DEFAULT_CONFIG, Session


@click.command()
@click.option(
    "--config",
    "typed",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help=f"The configuration (POOLD_CONFIG; {DEFAULT_CONFIG}); `poold config check` judges it.",
)
@click.make_pass_decorator(Session, ensure=True)
def serve(session: Session, typed: str | None) -> None:
    """Run the daemon in the foreground until SIGTERM.

    Replicas run on when it stops, and are found again when it starts. Exit status 2 says that the
    configuration or the state directory cannot be used: trying again would not help.
    """
    import asyncio

    from poold import config, daemon

    session.config = typed or session.config
    path = session.served_config()
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
