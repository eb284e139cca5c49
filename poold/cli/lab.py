"""`poold lab`: throw-away hosts on this machine, for trying poold out and for its tests."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import TYPE_CHECKING

import click

from poold.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Callable

_PASS_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False}
_named = click.option(
    "--name",
    default="default",
    envvar="POOLD_LAB",
    show_default=True,
    show_envvar=True,
    metavar="LAB",
    help="Which lab: several can be up side by side.",
)
_images = click.option(
    "--images",
    default="wildfly,tomcat",
    show_default=True,
    callback=lambda _context, _option, value: _words(value),
    help="Images to have, separated by commas; '' for none.",
)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


@click.group(name="lab")
def lab() -> None:
    """Run throw-away hosts on this machine, to try poold out and to test it.

    Each is a small Debian with systemd, sshd, podman and CRIU, in namespaces of its own, on a
    network that only the lab has. Needs root.

    Read from the environment: POOLD_LAB (the lab's name), POOLD_LAB_CACHE (/var/cache/poold-lab),
    POOLD_LAB_STATE (/var/lib/poold-lab; hosts' disks, not on tmpfs or an overlay),
    POOLD_LAB_MIRROR (Debian's mirror, else the one in apt's sources).
    """


@lab.command()
@_named
@_images
def setup(name: str, images: tuple[str, ...]) -> None:
    """Fill the cache: the hosts' base system and the images.

    `up` does the same for what it needs. The first time takes a few minutes.
    """
    Lab(name).setup(images)


@lab.command()
@_named
@_images
@click.option("--hosts", default=2, show_default=True, help="How many hosts: a, b, c, …")
@click.option(
    "--images-on",
    default="a",
    show_default=True,
    callback=lambda _context, _option, value: _words(value),
    help="Hosts that have the images already, separated by commas.",
)
def up(name: str, images: tuple[str, ...], hosts: int, images_on: tuple[str, ...]) -> None:
    """Bring hosts up, and write keys and a configuration for poold.

    Again: boots hosts that died, adds what is missing, leaves the rest alone.
    """
    chosen = Lab(name)
    chosen.up(hosts=hosts, image_names=images, images_on=images_on)
    for host in chosen.status():
        click.echo(f"{host.name}  {host.address}")
    click.echo(f"configuration: {chosen.config_path}")


@lab.command(name="ls")
@_named
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_hosts(name: str, as_json: bool) -> None:
    """List the hosts: address, whether it runs, whether its link is cut."""
    chosen = Lab(name)
    hosts = chosen.status()
    if as_json:
        places = {
            "name": name,
            "config": str(chosen.config_path),
            "key": str(chosen.key_path),
            "known_hosts": str(chosen.known_hosts_path),
            "netns": str(chosen.netns_path),
        }
        rows = [dataclasses.asdict(host) for host in hosts]
        click.echo(json.dumps({**places, "hosts": rows}, indent=2))
        return
    if not hosts:
        click.echo(f"lab {name!r} is not up; labs here: {', '.join(Lab.names()) or 'none'}")
    for host in hosts:
        state = "running" if host.running else "dead"
        click.echo(f"{host.name}  {host.address}  {state}{'  cut' if host.cut else ''}")


@lab.command(name="exec", context_settings=_PASS_ON)
@_named
@click.argument("host")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(name: str, host: str, command: tuple[str, ...]) -> None:
    """Run a command on a host; its exit status is this command's."""
    if command[0] == "--":
        command = command[1:]
    chosen = Lab(name)
    argv = chosen.exec_argv(host, command)
    os.execvpe(argv[0], argv, chosen.host(host).environment())  # noqa: S606


@lab.command(context_settings=_PASS_ON)
@_named
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(name: str, command: tuple[str, ...]) -> None:
    """Run a command of this machine inside the lab's network.

    Meant for the daemon and for load generators: `down` ends what is still running.
    """
    argv = Lab(name).run_argv(command)
    os.execvp(argv[0], argv)  # noqa: S606


def _host_command(call: Callable[[Lab, str], None], name: str, text: str) -> None:
    @lab.command(name=name, help=text)
    @_named
    @click.argument("host")
    def command(name: str, host: str) -> None:
        call(Lab(name), host)


_host_command(Lab.kill, "kill", "Let a host die at once, with everything on it.")
_host_command(Lab.reboot, "reboot", "Power-cycle a host, dead or alive.")
_host_command(Lab.cut, "cut", "Pull a host's cable: nothing reaches it, it runs on.")
_host_command(Lab.mend, "mend", "Plug a host's cable in again.")


@lab.command()
@_named
@click.option("--all", "every", is_flag=True, help="All labs on this machine.")
def down(name: str, every: bool) -> None:
    """End the lab and remove everything of it; the cache stays."""
    for one in Lab.names() if every else [name]:
        Lab(one).down()
