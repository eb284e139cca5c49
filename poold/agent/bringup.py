"""From a container that podman starts or restores to one that answers its readiness probe.

Flows in: a placement, an application, and the engine's call that makes the container on given
ports. Flows out: where it is published and how long each phase took, or a Problem, and then nothing
of it is left. It knows neither generations nor records; cold starts, restores, builds and proofs
all go through here.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Optional

from poold.agent import hooks, probe
from poold.agent.engines.base import Ahead, Chooser, Container, Engine, Executed, Published
from poold.agent.failpoints import failpoint
from poold.agent.http import Target
from poold.agent.messages import LivenessCheck, Placement
from poold.agent.ports import PortRange, Ports, bind_address
from poold.agent.probe import Execute, Reach
from poold.agent.process import finish
from poold.agent.records import Record
from poold.errors import Problem, Refused, Temporary
from poold.model.application import Application
from poold.model.fleet import Phases

FLEET, POOL, BUILD = "io.poold.fleet", "io.poold.pool", "io.poold.build"
UNDO_SECONDS = 8.0
_PORT_RACES = 5
_LOG_LINES = 20

log = logging.getLogger(__name__)

Create = Callable[[tuple[Published, ...]], Awaitable[str]]
Offer = Callable[[], "tuple[Published, ...]"]


@dataclass(frozen=True)
class Up:
    """A container that answered its readiness probe; `seconds` since the action began."""

    container_id: str
    address: str
    published: dict[str, int]
    reach: Reach
    seconds: float
    phases: Phases


class BringUp:
    """Makes containers ready on an engine; `taken` tells which ports are spoken for."""

    def __init__(self, engine: Engine, taken: Callable[[], frozenset[int]]) -> None:
        self._engine = engine
        self._ports = Ports()
        self._taken = taken
        self._suspects: set[int] = set()

    async def ready(
        self,
        placement: Placement,
        application: Application,
        create: Create,
        *,
        phase: str,
        began: float,
        after_restore: bool = False,
        offer: Optional[Offer] = None,
    ) -> Up:
        """Make a container, call its hook where asked, and probe it until it is ready.

        `offer` tells the ports of a slot that was made ahead, as far as there is one.
        `began` is the monotonic time at which the action began. Failing or cancelled, whatever was
        made of it is removed first.
        """
        # Not probed before podman has returned: that would win 12 ms, and for 40 ms podman itself
        # listens on the published port, where a connection is accepted and never answered.
        name = placement.name
        clock = _Phases(began)
        published: tuple[Published, ...] = ()
        try:
            container_id, published = await self._create(placement, application, create, offer)
            failpoint("container.created", name)
            clock.mark(phase, parts=self._parts(container_id))
            reach = self.reach(name, application, published)
            hook = application.after_restore if after_restore else None
            if hook is not None:
                await hooks.call(hook, "after_restore", reach, placement.pool)
                clock.mark("hook")
            moment = await self.until_ready(container_id, application, reach)
            clock.mark("ready", moment)
        except BaseException as error:
            if isinstance(error, Problem) and error.code == "probe.deadline":
                # A podman that was killed leaves a rule behind that leads its port nowhere: whoever
                # is published there next never answers. The next attempt takes another one.
                self._suspects.update(port.host_port for port in published)
            if not (isinstance(error, Problem) and error.code == "replica.foreign-name"):
                await undone(self.remove_own(placement.fleet, name))
            raise
        address = Target(placement.publish_address, published[0].host_port).text
        ports = {str(port.container_port): port.host_port for port in published}
        return Up(container_id, address, ports, reach, moment - began, clock.phases)

    async def until_ready(self, container_id: str, application: Application, reach: Reach) -> float:
        """Probe a running container; one that ended is told with its last output."""
        died = functools.partial(self._engine.wait_exit, container_id)
        try:
            return await probe.until_ready(application.readiness, reach, died)
        except Problem as error:
            if error.code in ("replica.exited", "probe.deadline") and not error.detail:
                error.detail = "\n".join(await self._last_lines(container_id))
            raise

    async def sign_of_life(self, record: Record, check: LivenessCheck) -> str:
        """Ask a running replica once; "" means it answered, anything else what came instead."""
        host, _, _ = record.address.rpartition(":")
        address = bind_address(host.strip("[]")) or "127.0.0.1"
        targets = {
            int(inside): Target(address, outside) for inside, outside in record.published.items()
        }
        reach = Reach(record.name, check.main_port, targets, self._inside(record.name))
        said = await probe.attempt(check.probe, reach)
        return "" if check.any_answer and said.startswith(probe.HTTP_STATUS) else said

    def reach(
        self,
        name: str,
        application: Application,
        published: tuple[Published, ...],
    ) -> Reach:
        """Say how this host reaches the container: as clients do where the address is its own."""
        targets = {
            port.container_port: Target(port.address or "127.0.0.1", port.host_port)
            for port in published
        }
        return Reach(name, application.port, targets, self._inside(name))

    def ahead(self, placement: Placement, application: Application) -> Ahead:
        """Say which slots a pool is to have on this host."""
        among = PortRange.parse(placement.publish_ports)
        return Ahead(
            pool=placement.pool,
            first_port=among.first,
            last_port=among.last,
            container_ports=(application.port, *application.extra_ports),
            address=bind_address(placement.publish_address),
            count=0 if application.engine == "podman" else application.slots,
        )

    def taken(self) -> frozenset[int]:
        """Return the ports that are spoken for, or that lead nowhere."""
        return self._taken() | frozenset(self._suspects)

    def _inside(self, name: str) -> Execute:
        async def execute(
            command: tuple[str, ...], stdin: bytes, timeout_seconds: float
        ) -> Executed:
            return await self._engine.execute(
                name, command, stdin=stdin, timeout_seconds=timeout_seconds
            )

        return execute

    async def remove_own(self, fleet: str, name: str) -> None:
        """Remove a container of this fleet by name, at once; anybody else's is left alone."""
        container = await self._engine.find(name)
        if container is not None and is_ours(container, fleet):
            await self._engine.remove(container.container_id, stop_timeout_seconds=0)

    def _parts(self, container_id: str) -> Phases:
        """Return what the engine says of how it spent its time, where it says so."""
        restored = (
            self._engine.restored(container_id) if isinstance(self._engine, Chooser) else None
        )
        return restored.phases if restored else {}

    async def _create(
        self,
        placement: Placement,
        application: Application,
        create: Create,
        offer: Optional[Offer],
    ) -> tuple[str, tuple[Published, ...]]:
        """Make the container on free ports; a port lost to a stranger is replaced by the next."""
        if offer is not None and (offered := offer()):
            try:
                return await self._create_named(placement, create, offered), offered
            except Problem as error:
                if error.code != "engine.port-taken":
                    raise
            await self.remove_own(placement.fleet, placement.name)
        lost: set[int] = set()
        problem: Optional[Problem] = None
        for _ in range(_PORT_RACES):
            with self.free_ports(placement, application, lost) as published:
                try:
                    return await self._create_named(placement, create, published), published
                except Problem as error:
                    if error.code != "engine.port-taken":
                        raise
                    problem = error
                lost.update(port.host_port for port in published)
                await self.remove_own(placement.fleet, placement.name)
        raise Temporary(
            "host.ports-contended",
            f"cannot publish {placement.name}: {_PORT_RACES} ports in a row were taken meanwhile",
            hint="see what else takes ports of this range: ss -ltnp",
            detail=problem.detail if problem else "",
        )

    @contextlib.contextmanager
    def free_ports(
        self, placement: Placement, application: Application, lost: Collection[int] = ()
    ) -> Iterator[tuple[Published, ...]]:
        """Reserve ports for the block, none of `lost`: those were taken when they were tried."""
        among = PortRange.parse(placement.publish_ports)
        address = bind_address(placement.publish_address)
        wanted = (application.port, *application.extra_ports)
        taken = self._taken().union(lost)
        if any(port not in taken | self._suspects for port in among):
            taken |= self._suspects
        with self._ports.reserve(among, len(wanted), address=address, taken=taken) as chosen:
            yield tuple(
                Published(inside, outside, address) for inside, outside in zip(wanted, chosen)
            )

    async def _create_named(
        self, placement: Placement, create: Create, published: tuple[Published, ...]
    ) -> str:
        """Make the container; a half-made one of ours in its way goes first.

        Asking podman only when the name is taken saves a listing on each start and restore.
        """
        try:
            return await create(published)
        except Problem as error:
            if error.code != "engine.name-taken":
                raise
        await self.clear_name(placement)
        try:
            return await create(published)
        except Problem as error:
            if error.code != "engine.name-taken":
                raise
            raise foreign(placement.name) from error

    async def clear_name(self, placement: Placement) -> None:
        """Remove what an earlier action left under the name; Refused when it is somebody else's."""
        container = await self._engine.find(placement.name)
        if container is None:
            return
        if not is_ours(container, placement.fleet):
            raise foreign(placement.name, container)
        log.info("removing a half-made %s", placement.name, extra={"action": "half_made_removed"})
        await self._engine.remove(container.container_id, stop_timeout_seconds=0)

    async def _last_lines(self, container_id: str) -> tuple[str, ...]:
        try:
            return await self._engine.logs(container_id, _LOG_LINES)
        except Problem:
            return ()


class _Phases:
    """Cuts the time since the beginning into phases."""

    def __init__(self, began: float) -> None:
        self.phases: Phases = {}
        self._last = began

    def mark(
        self, phase: str, moment: Optional[float] = None, *, parts: Optional[Phases] = None
    ) -> None:
        """End a phase; its `parts` but the engine's own runtime stand beside it, as phases."""
        now = time.monotonic() if moment is None else moment
        beside = {name: spent for name, spent in (parts or {}).items() if name != "runtime"}
        self.phases.update(beside)
        self.phases[phase] = round(now - self._last - sum(beside.values()), 4)
        self._last = now


def is_ours(container: Container, fleet: str) -> bool:
    """Whether poold made it, for this fleet: the label tells, never the name."""
    return container.labels.get(FLEET) == fleet


def foreign(name: str, container: Optional[Container] = None) -> Refused:
    """Say that a name belongs to somebody else."""
    which = f" ({container.container_id[:12]})" if container else ""
    return Refused(
        "replica.foreign-name",
        f"cannot use the name {name}: a container that poold did not make has it{which}",
        hint=f"rename or remove that container (podman rename {name} …), or choose another name",
    )


async def undone(work: Awaitable[None]) -> None:
    """Clean up to the end, within a bound, even when cancelled (again) meanwhile.

    The clean-up's own failure is logged: what failed before it matters more to the caller.
    """

    async def bounded() -> None:
        try:
            await asyncio.wait_for(work, UNDO_SECONDS)
        except (Problem, OSError, asyncio.TimeoutError) as error:
            log.warning("cannot clean up: %s", error, extra={"action": "clean_up_failed"})

    await finish(bounded())
