"""`poold demo`: the article's story on a lab of two hosts, with a table at its end."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option("--app", type=click.Choice(["wildfly", "tomcat"]), default="wildfly")
@click.option("--runs", default=5, show_default=True, type=click.IntRange(min=1))
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="JSON file.")
@click.option("--picture", type=click.Path(path_type=Path, dir_okay=False), help="SVG file.")
@click.option("--name", default="demo", show_default=True, help="The lab's name.")
@click.option("--down", is_flag=True, help="Remove the lab afterwards.")
def demo(
    app: str, runs: int, output: Path | None, picture: Path | None, name: str, down: bool
) -> None:
    """Show what poold does, with the real programs, and measure it.

    Starts the application cold on lab host a, checkpoints it, restores three replicas of it on two
    hosts, moves one while it runs, and compares poold's restore with a cold start and with podman's
    commands typed by hand. Needs root. The lab is left running, to go on by hand.
    """
    from poold.demo import stage

    stage.run(app=app, runs=runs, output=output, picture=picture, lab_name=name, down=down)
