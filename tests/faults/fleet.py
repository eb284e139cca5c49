"""A simulated fleet: how long deciding takes, what the daemon weighs, and how both grow.

    python tests/faults/fleet.py --output build/fleet.json

Hosts are agents in memory that hold 25 replicas each; pools have 50 replicas over all hosts. Each
size is measured in a process of its own. Times are of the processor, the least of several: the
machine's noise only adds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from poold.agent.messages import (
    ContainerFact,
    Done,
    GenerationFact,
    Observation,
    Observe,
    Remove,
    Request,
    Restore,
    Sealed,
    Started,
)
from poold.config import Config, DaemonConfig
from poold.metrics import Metrics
from poold.model.application import Application
from poold.model.fleet import Generation, Host, HostStatus, Manifest, Pool
from poold.reconcile.loop import Loop
from poold.reconcile.plan import plan
from poold.reconcile.snapshot import HostView, Snapshot
from poold.reconcile.world import World
from poold.store import Assignment, Store, Wish

PER_HOST, PER_POOL = 25, 50
SIZES = (50, 100, 200)
APPLICATION = Application(image="hello:1", port=8080)
MANIFEST = Manifest(
    pool="hello", build="b1", fingerprint=APPLICATION.fingerprint(), image="hello:1",
    image_id="1" * 64, archive_sha256="2" * 64, archive_bytes=1 << 28, packed_sha256="3" * 64,
    packed_bytes=1 << 26, engine="memory 1", runtime="none", criu="none", kernel="6",
    machine="x86_64", cpu_flags=("sse2",), created_at=1.0,
)  # fmt: skip
DIGEST = MANIFEST.digest()


class MemoryAgent:
    """A host whose agent answers at once, from memory; a `HostLink`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.status = HostStatus(name, "up", boot_id="1")
        self.facts: dict[str, ContainerFact] = {}

    async def open(self) -> None:
        """Be up already."""

    async def close(self) -> None:
        """Stay up."""

    async def wait_up(self, timeout_seconds: float) -> None:
        """Be up already."""

    def listen(self, heard: Callable[[Any], None]) -> None:
        """Have nothing to tell."""

    async def call(self, request: Request[Any], **_: Any) -> Any:
        """Answer."""
        if isinstance(request, Observe):
            held = GenerationFact(DIGEST, "hello", staged=True, bytes=1 << 28)
            return Observation("1", time.time(), tuple(self.facts.values()), (held,))
        if isinstance(request, Restore):
            placement = request.placement
            self.facts[placement.name] = fact(placement.name, placement.pool)
            return started(placement.name)
        if isinstance(request, Remove):
            self.facts.pop(request.name, None)
        return Done()


def fact(name: str, pool: str) -> ContainerFact:
    """Return a ready replica as an agent lists it."""
    return ContainerFact(
        name=name, container_id=f"c-{name}", ours=True, pool=pool, role="replica", running=True,
        status="running", digest=DIGEST, method="restore", address="10.0.0.1:20000", ready=True,
    )  # fmt: skip


def started(name: str) -> Started:
    """Return a ready replica as its action answered it."""
    return Started(name, f"c-{name}", "10.0.0.1:20000", "restore", 0.1, {"restore": 0.1}, 1.0)


def least(times: int, doing: Callable[[], object]) -> float:
    """Return the least seconds that something took of the processor: others may use it too."""
    found = []
    for _ in range(times):
        begun = time.process_time()
        doing()
        found.append(time.process_time() - begun)
    return min(found)


# -- one pool, pure -------------------------------------------------------------------------------


def one_pool(hosts: int) -> Snapshot:
    """Return a fleet of one pool at rest."""
    names = [f"h{number}" for number in range(1, hosts + 1)]
    count = hosts * PER_HOST
    pool = Pool(
        name="hello", application=APPLICATION, hosts=tuple(names), builder=names[0],
        replica_name="hello{n}", max=count,
    )  # fmt: skip
    where = {pool.replica(n): names[n % hosts] for n in range(1, count + 1)}
    containers: dict[str, list[ContainerFact]] = {name: [] for name in names}
    for replica, host in where.items():
        containers[host].append(fact(replica, "hello"))
    return Snapshot(
        name="hello",
        pool=pool,
        introduced=frozenset(names),
        wishes=tuple(Wish(name=replica, pool="hello") for replica in where),
        assignments=tuple(
            assignment(replica, "hello", host) for replica, host in where.items()
        ),
        generations=(
            Generation("hello", 1, DIGEST, MANIFEST, names[0], 1.0),
        ),
        hosts={
            name: HostView(
                name=name, state="up", containers=tuple(containers[name]),
                held=frozenset({DIGEST}), staged=frozenset({DIGEST}),
            )
            for name in names
        },
    )  # fmt: skip


def assignment(replica: str, pool: str, host: str) -> Assignment:
    """Return where a ready replica was put."""
    return Assignment(
        name=replica, pool=pool, host=host, since=1.0, rung=f"restore:{DIGEST}", generation=1,
        started=started(replica),
    )  # fmt: skip


def plans(hosts: int, times: int = 3) -> dict[str, float]:
    """Return the seconds of one plan: of a fleet at rest, with a host lost, of an empty one."""
    rest = one_pool(hosts)
    assert plan(rest, 100.0).actions == ()
    lost = replace(rest, hosts={**rest.hosts, "h1": HostView(name="h1", state="unknown")})
    empty = replace(
        rest,
        assignments=(),
        hosts={name: replace(view, containers=()) for name, view in rest.hosts.items()},
    )
    assert len(plan(empty, 100.0).actions) == hosts * PER_HOST
    return {
        "plan_at_rest_seconds": _least_plan(rest, times),
        "plan_host_lost_seconds": _least_plan(lost, times),
        "plan_all_missing_seconds": _least_plan(empty, times),
    }


def _least_plan(snapshot: Snapshot, times: int) -> float:
    """Plan for copies that remember nothing of an earlier plan, as the loop does."""
    copies = [
        replace(snapshot, hosts={name: replace(view) for name, view in snapshot.hosts.items()})
        for _ in range(times)
    ]
    return least(times, lambda: plan(copies.pop(), 100.0))


# -- a whole daemon -------------------------------------------------------------------------------


async def daemon(hosts: int, state_dir: Path) -> dict[str, float]:
    """Run the deciding parts over a fleet at rest; return what one pass and a wish take."""
    agents = {f"h{number}": MemoryAgent(f"h{number}") for number in range(1, hosts + 1)}
    names = list(agents)
    pools = {
        f"p{number}x": Pool(
            name=f"p{number}x", application=APPLICATION, hosts=tuple(names), builder=names[0],
            replica_name=f"p{number}x{{n}}", max=PER_POOL * 2,
        )
        for number in range(1, hosts * PER_HOST // PER_POOL + 1)
    }  # fmt: skip
    config = Config(
        daemon=DaemonConfig(fleet="test", state_dir=str(state_dir)),
        hosts={name: Host(name, "ssh", "10.0.0.1") for name in names},
        pools=pools,
    )
    store = Store(state_dir)
    try:
        _seed(store, pools, agents)
        world = World(links=agents)
        loop = Loop(
            store=store, world=world, links=agents, config=lambda: config, recorder=Metrics()
        )
        begun = time.process_time()
        for name in names:
            await loop.observe(name)
        listed = time.process_time()
        passes = []
        for _ in range(3):
            begun_pass = time.process_time()
            for pool in pools:
                decided = await loop.cycle(pool)
                assert decided.actions == ()
            passes.append(time.process_time() - begun_pass)
        assert all(status.ready == PER_POOL for status in world.pools())
        store.put_wish(Wish(name=f"p1x{PER_POOL + 1}", pool="p1x"))
        begun_wish = time.perf_counter()
        await loop.cycle("p1x")
        await loop.drain()
        wish = time.perf_counter() - begun_wish
        assert sum(len(agent.facts) for agent in agents.values()) == hosts * PER_HOST + 1
        await loop.close()
        return {
            "list_all_hosts_seconds": listed - begun,
            "pass_over_all_pools_seconds": min(passes),
            "one_wish_seconds": wish,
            "rss_bytes": _rss_bytes(),
        }
    finally:
        store.close()


def _seed(store: Store, pools: dict[str, Pool], agents: dict[str, MemoryAgent]) -> None:
    """Write down a fleet that came up long ago."""
    names = list(agents)
    with store.transaction():
        for offset, (name, pool) in enumerate(pools.items()):
            store.see_pool(name)
            store.first_wished(name)
            manifest = replace(MANIFEST, pool=name)
            store.add_generation(name, Sealed(DIGEST, manifest), names[0])
            for host in names:
                store.introduce(name, host)
            for number in range(1, PER_POOL + 1):
                replica = pool.replica(number)
                host = names[(offset * PER_POOL + number) % len(names)]
                store.put_wish(Wish(name=replica, pool=name))
                store.put_assignment(assignment(replica, name, host))
                agents[host].facts[replica] = fact(replica, name)


def _rss_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if "VmRSS" in line)


def measure(hosts: int) -> dict[str, float]:
    """Measure one size in this process."""
    with tempfile.TemporaryDirectory() as folder:
        weighed = asyncio.run(daemon(hosts, Path(folder)))
    figures = {"hosts": hosts, "replicas": hosts * PER_HOST, **weighed, **plans(hosts)}
    return {key: round(value, 5) for key, value in figures.items()}


def report(sizes: list[dict[str, Any]]) -> dict[str, Any]:
    """Say how figures grew from the smallest to the largest size: 1 is linear, 2 quadratic."""
    import math

    small, large = sizes[0], sizes[-1]
    factor = math.log(large["hosts"] / small["hosts"])
    growth = {
        key: round(math.log(large[key] / small[key]) / factor, 2)
        for key in large
        if key.endswith(("_seconds", "_bytes"))
    }
    weight = large["rss_bytes"] - small["rss_bytes"]
    per_replica = weight / (large["replicas"] - small["replicas"])
    return {"sizes": sizes, "growth_exponent": growth, "rss_bytes_per_replica": int(per_replica)}


def main() -> None:
    """Measure all sizes and leave the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, help="only this size, in this process; prints it")
    parser.add_argument("--output", type=Path, default=Path("build/fleet.json"))
    options = parser.parse_args()
    if options.hosts:
        print(json.dumps(measure(options.hosts)))
        return
    sizes = []
    for hosts in SIZES:
        argv = [sys.executable, __file__, "--hosts", str(hosts)]
        said = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout
        sizes.append(json.loads(said))
        print(json.dumps(sizes[-1]), flush=True)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report(sizes), indent=2) + "\n")
    print(json.dumps(report(sizes)["growth_exponent"], indent=2))


if __name__ == "__main__":
    main()
