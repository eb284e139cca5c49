"""Taking the ways in turn: every round goes each way once, so that a noisy minute hits them all.

Flows in: a bench, the ways, how many rounds and which bursts. Flows out: all runs. Whatever
happens, the archive made for the article's way is deleted at the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from poold.bench.figures import Run
from poold.bench.ways import Bench, ByHand, ByPoold, BySpare, Way
from poold.errors import Problem, Refused
from poold.model.fleet import Pool

_ONLY_SINGLE = ("cold",)  # n cold starts at once tell of the cores, not of the way


async def compare(
    bench: Bench, *, paths: Sequence[str], runs: int, bursts: Sequence[int]
) -> list[Run]:
    """Go every way `runs` times for each size of burst.

    A way that this host cannot go is left out, and that is said.
    """
    ways = _ways(bench, paths)
    taken: list[Run] = []
    try:
        if "article" in paths:
            bench.say(f"{bench.pool.name}: a cold start, and the article's archive of it")
            await bench.ask("prepare")
        for burst in bursts:
            of_burst = [way for way in ways if _can(way, burst, bench.pool)]
            for number in range(1, runs + 1):
                said = []
                for way in tuple(of_burst):
                    try:
                        run = await way.once(burst)
                    except Refused as refused:
                        if refused.code != "oci.unavailable":
                            raise
                        bench.say(f"{way.path} is left out: {refused.message}")
                        of_burst.remove(way)
                        continue
                    taken.append(run)
                    said.append(f"{way.path} {run.seconds:.2f}")
                many = f" of {burst} at once" if burst > 1 else ""
                bench.say(f"{number}/{runs}{many}: {'  '.join(said)}")
    finally:
        await asyncio.shield(_clean(bench))
    return taken


def _can(way: Way, burst: int, pool: Pool) -> bool:
    """Whether a way is gone with so many at once."""
    if way.path == "spare":
        return burst <= pool.spares
    return burst == 1 or way.path not in _ONLY_SINGLE


def _ways(bench: Bench, paths: Sequence[str]) -> list[Way]:
    by_hand: dict[str, Way] = {
        "cold": ByHand(path="cold", bench=bench, way="cold"),
        "article": ByHand(path="article", bench=bench, way="article"),
        "podman-tar": ByHand(path="podman-tar", bench=bench, way="podman"),
        "bare": ByHand(path="bare", bench=bench, way="bare"),
        "poold": ByPoold(bench=bench),
        "spare": BySpare(bench=bench, path="spare"),
    }
    return [by_hand[path] for path in paths]


async def _clean(bench: Bench) -> None:
    try:
        await bench.ask("clean")
    except Problem as problem:
        bench.say(f"{problem.message}: what is left there goes by itself within the hour")
