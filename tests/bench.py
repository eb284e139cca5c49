"""`make bench`: every way to start WildFly and Tomcat, on a lab of its own, in one run.

Leaves build/bench.json with the rows and ratios of both, and build/bench.svg.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from poold import config
from poold.bench.figures import Row
from poold.bench.picture import svg
from poold.demo.stage import client_of, start_daemon
from poold.errors import problem_from_json
from poold.lab import Lab

POOLS = {"wildfly": "hello", "tomcat": "tomcat"}


def main() -> None:
    """Measure each application in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--apps", default="wildfly,tomcat")
    parser.add_argument("--runs", default=7, type=int)
    parser.add_argument("--bursts", default="1,2,4,8")
    parser.add_argument("--output", type=Path, default=Path("build/bench.json"))
    options = parser.parse_args()
    apps = options.apps.split(",")
    lab = Lab(f"bench-{os.getpid()}")
    try:
        lab.up(hosts=2, image_names=apps, images_on=["a"])
        _choose_engines(lab)
        start_daemon(lab)
        told = [_measured(lab, app, options.runs, options.bursts.split(",")) for app in apps]
    finally:
        lab.down()
    rows = [row for one in told for row in one["rows"]]
    ratios = [ratio for one in told for ratio in one["ratios"]]
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({"rows": rows, "ratios": ratios}, indent=2) + "\n")
    drawn = svg([Row(**{**row, "seconds": tuple(row["seconds"])}) for row in rows])
    options.output.with_suffix(".svg").write_text(drawn)


def _choose_engines(lab: Lab) -> None:
    """Let every pool use the fast engine and a spare, and add one beside it that uses podman."""
    settings = config.load(lab.config_path)
    pools = {}
    for name, pool in settings.pools.items():
        fast = replace(pool.application, engine="auto")
        pools[name] = replace(pool, application=fast, spares=1)
        other = f"{name}-podman"
        pools[other] = replace(pool, name=other, replica_name=f"{other}{{n}}")
    lab.config_path.write_text(config.to_toml(replace(settings, pools=pools)))


def _measured(lab: Lab, app: str, runs: int, bursts: list[str]) -> dict[str, list[dict]]:
    """Measure the application's pool by every way, and then its podman pool by poold's alone."""
    told = _bench(lab, POOLS[app], runs, bursts)
    other = _bench(lab, f"{POOLS[app]}-podman", runs, bursts, "--only", "poold")
    rows, ratios = told["rows"] + other["rows"], told["ratios"] + other["ratios"]
    for entry in (*rows, *ratios):
        entry["app"] = app
    return {"rows": rows, "ratios": ratios}


def _bench(lab: Lab, pool: str, runs: int, bursts: list[str], *words: str) -> dict:
    """Bring a pool up, let `poold bench` measure it, and scale it down again."""
    _settle(lab, client_of(lab).scale(pool, replicas=1))
    argv = [sys.executable, "-m", "poold", "bench", pool, "--config", str(lab.config_path)]
    argv += ["--runs", str(runs), "--json", *words]
    for burst in bursts:
        argv += ["--burst", burst]
    done = subprocess.run(lab.run_argv(argv), check=True, stdout=subprocess.PIPE, text=True)
    _settle(lab, client_of(lab).scale(pool, replicas=0))
    return json.loads(done.stdout)


def _settle(lab: Lab, change) -> None:
    while change.state == "pending":
        change = client_of(lab).change(change.id, wait_seconds=20, after_seq=change.seq)
    if change.state == "failed":
        raise problem_from_json(change.problem)


if __name__ == "__main__":
    main()
