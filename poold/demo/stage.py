"""Sets the demo's stage: the lab, the daemon in its network, the story within, the table.

The story needs the lab's network, which only a process inside it has; so the stage starts this
module again in there (`python -m poold.demo.stage`), with what it needs as one JSON argument.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tomli

from poold.client import Client, Where
from poold.demo import report
from poold.demo.article import Article
from poold.demo.story import COUNT_PATH, Story, say
from poold.errors import Permanent, Problem
from poold.lab import Lab

_POOLS = {"wildfly": "hello", "tomcat": "tomcat"}
_DAEMON_DEADLINE_SECONDS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What the story within the lab's network must know."""

    lab_name: str
    app: str
    runs: int
    output: str | None
    picture: str | None


def run(
    *, app: str, runs: int, output: Path | None, picture: Path | None, lab_name: str, down: bool
) -> None:
    """Bring the lab up, start the daemon, tell the story and say how to go on by hand."""
    began = time.monotonic()
    lab = Lab(lab_name)
    say(f"0. a lab of two hosts, a and b; {app}'s image is on a only")
    scene = Scene(
        lab_name=lab_name,
        app=app,
        runs=runs,
        output=str(output.absolute()) if output else None,
        picture=str(picture.absolute()) if picture else None,
    )
    try:
        lab.down()  # a demo begins with nothing
        lab.up(hosts=2, image_names=[app], images_on=["a"])
        say(f"   up after {time.monotonic() - began:.0f} s")
        start_daemon(lab)
        inside = [sys.executable, "-m", "poold.demo.stage", json.dumps(asdict(scene))]
        ended = subprocess.run(lab.run_argv(inside), check=False)
    finally:
        if down:
            lab.down()
    if ended.returncode:
        raise SystemExit(ended.returncode)
    say(f"\nAll of it took {time.monotonic() - began:.0f} s.")
    if not down:
        _say_how_to_go_on(lab, _POOLS[app])


def start_daemon(lab: Lab) -> None:
    """Start `poold serve` in the lab's network, where `lab.down` ends it; wait for its API."""
    log = lab.state_dir / "poold.log"
    command = [sys.executable, "-m", "poold", "serve", "--config", str(lab.config_path)]
    with log.open("ab") as lines:
        daemon = subprocess.Popen(
            lab.run_argv(command),
            stdin=subprocess.DEVNULL,
            stdout=lines,
            stderr=lines,
            start_new_session=True,
        )
    client = client_of(lab)
    deadline = time.monotonic() + _DAEMON_DEADLINE_SECONDS
    while time.monotonic() < deadline and daemon.poll() is None:
        with contextlib.suppress(Problem):
            client.health()
            daemon.returncode = 0  # it is meant to outlive this process
            return
        time.sleep(0.05)
    raise Permanent(
        "demo.no-daemon",
        f"cannot start the daemon in lab {lab.name!r}",
        hint=f"read {log}",
        detail=log.read_text(encoding="utf-8", errors="replace")[-2000:],
    )


def client_of(lab: Lab) -> Client:
    """Return a client of the daemon that serves a lab."""
    settings = tomli.loads(lab.config_path.read_text(encoding="utf-8"))
    return Client(Where(socket=settings["daemon"]["socket"]))


def _tell(scene: Scene) -> None:
    """Run inside the lab's network."""
    lab = Lab(scene.lab_name)
    settings = tomli.loads(lab.config_path.read_text(encoding="utf-8"))
    pool = _POOLS[scene.app]
    table: dict[str, Any] = settings["pools"][pool]
    host = table["builder"]
    article = Article(
        run=lab.exec,
        host=host,
        address=lab.address(host),
        image=table["image"],
        port=table["port"],
        ready_path=table["readiness"]["path"],
        count_path=COUNT_PATH,
        criu_lines=_criu_lines(table["checkpoint"]["scan_paths"]),
    )
    other = f"{pool}-tmpfs"
    story = Story(
        app=scene.app,
        pool=pool,
        client=client_of(lab),
        article=article,
        runs=scene.runs,
        tmpfs_pool=other if other in settings["pools"] else None,
    )
    results = story.tell()
    if scene.output:
        _write(Path(scene.output), json.dumps(report.as_json(results), indent=2) + "\n")
    if scene.picture:
        _write(Path(scene.picture), report.svg(results))
    _print_table(results)


def _criu_lines(scan_paths: list[str]) -> tuple[str, ...]:
    """Return what CRIU must be told on a lab host, whoever calls it."""
    lines = ["manage-cgroups ignore", "network-lock skip", "tcp-close"]
    if scan_paths:
        lines += ["force-irmap", *(f"irmap-scan-path {path}" for path in scan_paths)]
    return tuple(lines)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _print_table(results: report.Results) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{results.app}: seconds from the call to the first answer")
    for heading in ("", "median", "each run", "phases (medians)"):
        table.add_column(heading)
    for row in report.rows(results):
        table.add_row(*row)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    counters = ", ".join(
        f"{one.name} on {one.host}: {one.counters[0]}, {one.counters[1]}"
        for one in results.replicas
    )
    move = results.move
    console.print(f"counters  {counters}")
    console.print(
        f"moved     {move.name}: {move.before} on {move.source}, {move.after} on {move.target}"
    )
    if (other := results.on_tmpfs) is not None:
        console.print(
            f"on tmpfs  {other.pool}: cold {other.cold_seconds:.2f} s, restored in "
            f"{other.restore_seconds:.2f} s, {other.checkpoint_bytes / 1e6:.0f} MB; "
            f"with the root file system {results.checkpoint_bytes / 1e6:.0f} MB"
        )
    ratios = report.ratios(results)
    console.print(
        f"poold is {ratios['cold_to_restore']:.1f} times faster than a cold start and "
        f"{ratios['article_to_restore']:.1f} times faster than the article's commands"
    )


def _say_how_to_go_on(lab: Lab, pool: str) -> None:
    poold = Path(sys.argv[0])
    here = os.path.relpath(poold) if poold.is_absolute() else str(poold)
    chosen = f"--name {lab.name}"
    say(
        f"""
The lab is left running, with its daemon. Go on by hand:
  export POOLD_CONFIG={lab.config_path}
  {here} status
  {here} scale {pool} 5 --wait
  {here} lab run {chosen} -- curl -s http://{lab.address("a")}:20000{COUNT_PATH}
  {here} lab exec {chosen} a -- podman ps
Remove it:
  {here} lab down {chosen}"""
    )


@contextlib.contextmanager
def _failures_as_text() -> Iterator[None]:
    try:
        yield
    except Problem as problem:
        say(f"{problem.message}\n{problem.hint}\n{problem.detail}".rstrip())
        raise SystemExit(1) from None


if __name__ == "__main__":
    with _failures_as_text():
        _tell(Scene(**json.loads(sys.argv[1])))
