"""HAProxy as a balancer: read, decide, tell, and read again, a few rounds at once.

In: a pool and its set. Out: what HAProxy shows then. It keeps only since when an entry has been
leaving, for the drain deadline; a daemon that starts anew gives it that time again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from poold.balancers.base import Left, Server, Shown, ShownServer
from poold.balancers.haproxy import commands
from poold.balancers.haproxy.answers import (
    Identity,
    read_figures,
    read_identity,
    read_old_workers,
    read_states,
    refusal,
)
from poold.balancers.haproxy.former import Former
from poold.balancers.haproxy.plan import (
    Decision,
    Place,
    Seen,
    Step,
    ours,
    place_of,
    plan,
    shown,
)
from poold.balancers.haproxy.runtime import Runtime
from poold.errors import Permanent, Problem
from poold.model.balancing import BalancerName
from poold.model.fleet import Pool, PoolName

LOG = logging.getLogger(__name__)
ROUNDS = 6  # drain, maintenance, delete, and some for what goes on meanwhile
_WAITED_FOR = "balancer.in-use"  # a delete that is refused is no failure: it is tried again


@dataclass
class _Memory:
    """Since when a pool's entries have been leaving, and what was cut on them."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    since: dict[str, float] = field(default_factory=dict)
    where: dict[str, tuple[str, int]] = field(default_factory=dict)
    cut: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    former: Former = field(default_factory=Former)


class HaproxyBalancer:
    """One HAProxy. `is_local`: it runs on this machine. `clock`: monotonic seconds."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        state_file: Path | None = None,
        is_local: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runtime = runtime
        self._state_file = state_file
        self._is_local = is_local
        self._clock = clock
        self._memories: defaultdict[tuple[PoolName, str, str], _Memory] = defaultdict(_Memory)
        self._saving = asyncio.Lock()

    @property
    def name(self) -> BalancerName:
        """What the configuration calls it."""
        return self._runtime.name

    async def publish(self, pool: Pool, servers: Collection[Server]) -> Shown:
        """Bring HAProxy closer to the set. See `Balancer.publish`."""
        place = place_of(pool)
        memory = self._memories[pool.name, place.backend, place.slots]
        async with memory.lock:
            return await self._publish(pool, place, servers, memory)

    async def identity(self) -> str:
        """Return what tells this HAProxy from others. See `Balancer.identity`."""
        return str(await self._process())

    async def _process(self) -> Identity:
        return read_identity(await self._runtime.ask(commands.SHOW_INFO))

    async def _publish(
        self, pool: Pool, place: Place, servers: Collection[Server], memory: _Memory
    ) -> Shown:
        sent = 0
        left: list[Left] = []
        failed: list[Problem] = []
        before: tuple[Step, ...] = ()
        for round_ in range(ROUNDS + 1):
            seen, queue = await self._look(pool, place)
            memory.former.look({each.place: each.name for each in seen})
            left += self._note_left(place, seen, memory)
            decision = plan(place, servers, seen, memory.since, self._clock())
            self._note_leaving(decision, seen, memory)
            # What did not help the first time is tried again when the caller comes again.
            if failed or decision.steps in ((), before) or round_ == ROUNDS:
                break
            failed = await self._do(decision, seen, memory)
            before = decision.steps
            sent += len(decision.steps)
        if sent:
            failed += await self._save()
        there = shown(place, seen, decision.leaving)
        await self._see_former(place, there, memory.former)
        problems = [problem for problem in failed if problem.code != _WAITED_FOR]
        return Shown(
            servers=(*there, *memory.former.shown(servers)),
            left=tuple(left),
            problems=(*problems, *decision.problems),
            commands=sent,
            queue=queue,
        )

    async def _look(self, pool: Pool, place: Place) -> tuple[tuple[Seen, ...], int | None]:
        # First who is there, then what is under way: the other way round one that was added in
        # between would be taken for idle.
        states = read_states(await self._runtime.ask(commands.show_states(place.backend)))
        figures = read_figures(await self._runtime.ask(commands.show_stats(place.backend)))
        queue = next((one.queue for one in figures if one.is_backend), None)
        return ours(pool, place, states, figures), queue

    async def _see_former(
        self, place: Place, there: Collection[ShownServer], former: Former
    ) -> None:
        """See whether another process listed servers before: asked last, or it could go unseen."""
        process, now = await self._process(), self._clock()
        listed = {(each.address, each.port): each.name for each in there}
        former.answered(process, listed, now + place.drain_seconds)
        alive = None
        if former.lingers and self._runtime.has_master:
            answer = await self._runtime.ask(commands.SHOW_PROCESSES, master=True)
            alive = read_old_workers(answer)
        elif former.lingers and self._is_local:
            alive = former.alive_here(process)
        former.gone(now, alive)

    async def _do(
        self, decision: Decision, seen: Collection[Seen], memory: _Memory
    ) -> list[Problem]:
        """Send the steps; one that is refused ends what was planned for its server only."""
        sessions = {each.name: each.sessions or 0 for each in seen}
        refused: dict[str, Problem] = {}
        for step in decision.steps:
            if step.server in refused:
                continue
            problem = refusal(step.line, await self._runtime.ask(step.line))
            if problem is not None:
                refused[step.server] = problem
                self._say(step, problem)
            else:
                LOG.debug("%s: %s", self.name, step.line, extra={"action": "balancer_told"})
                if step.kind == "cut":
                    memory.cut[step.server] = max(memory.cut[step.server], sessions[step.server])
        return list(refused.values())

    def _say(self, step: Step, problem: Problem) -> None:
        level = logging.DEBUG if problem.code == _WAITED_FOR else logging.WARNING
        extra = {"action": "balancer_refused", "balancer": self.name, "replica": step.server}
        LOG.log(level, "%s", problem.message, extra=extra)

    def _note_leaving(self, decision: Decision, seen: Collection[Seen], memory: _Memory) -> None:
        now = self._clock()
        places = {each.name: each.place for each in seen}
        for name in decision.leaving:
            if memory.where.get(name) != places[name]:  # it leads elsewhere than what left before
                memory.since[name], memory.where[name] = now, places[name]
                memory.cut.pop(name, None)
        for name in memory.since.keys() - decision.leaving:
            self._forget(name, memory)

    def _note_left(self, place: Place, seen: Collection[Seen], memory: _Memory) -> list[Left]:
        """Take note of who was leaving and is gone."""
        there = {each.name for each in seen if not (place.slots and each.is_free)}
        left = []
        for name in sorted(memory.since.keys() - there):
            address, port = memory.where[name]
            left.append(
                Left(
                    name=name,
                    address=address,
                    port=port,
                    seconds=self._clock() - memory.since[name],
                    sessions_cut=memory.cut[name],
                )
            )
            self._forget(name, memory)
        return left

    @staticmethod
    def _forget(name: str, memory: _Memory) -> None:
        memory.since.pop(name, None)
        memory.where.pop(name, None)
        memory.cut.pop(name, None)

    # -- what survives a reload -------------------------------------------------------------------

    async def _save(self) -> list[Problem]:
        """Leave the state of all backends where HAProxy reads it when it is reloaded."""
        if self._state_file is None:
            return []
        async with self._saving:
            try:
                text = await self._runtime.ask(commands.show_states(""))
                read_states(text)
                await asyncio.to_thread(_replace, self._state_file, text)
            except OSError as error:
                return [
                    Permanent(
                        "balancer.state-file",
                        f"cannot write {self._state_file}: {error.strerror}",
                        hint="its folder must be there, and poold's user may write to it",
                    )
                ]
            except Problem as problem:
                return [problem]
        return []


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all; HAProxy's user may be another one, and it is no secret."""
    new = path.with_name(f"{path.name}.new")
    try:
        new.write_text(text, encoding="utf-8")
        new.chmod(0o644)
        with new.open("rb") as file:
            os.fsync(file.fileno())
        new.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
