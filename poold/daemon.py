"""The composition root: builds the daemon of its parts, runs it, and ends it.

The only module that names concrete adapters. It decides nothing about pools; what it owns is the
order of starting and stopping, and the rule that a background task which dies ends the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web

from poold import __version__, config as configuration
from poold.agent.messages import Finding, Logs
from poold.agent.space import read_reserve
from poold.api.app import build_app
from poold.api.serve import Listener, serve_tcp, serve_unix
from poold.autoscaler import Autoscaler
from poold.balancers import Balancer, balancer_to
from poold.checkpoints.seal import load_sealer
from poold.config import Config
from poold.control import Control
from poold.cordon import Cordon
from poold.doctor import DAEMON, examine_daemon, examine_hosts
from poold.errors import Permanent, Refused, Temporary
from poold.hosts import HostLink, link_to
from poold.metrics import Metrics
from poold.model.balancing import BalancerName
from poold.model.fleet import ActionId, Host, HostName
from poold.reconcile.loop import Loop
from poold.reconcile.steady import SteadyClock
from poold.reconcile.world import World
from poold.reload import Kept, Reload
from poold.rollout import Rollout
from poold.store import Store
from poold.systemd import Notifier

LOG = logging.getLogger(__name__)

_STATUS_SECONDS = 1.0  # how often the sentence and the gauges are renewed
STUCK_SECONDS = 10.0  # a loop that gave no sign for so long is not alive
_READ_SECONDS = 30.0  # logs and examinations asked for by a reader


class Beating(Protocol):
    """Tells when it was last seen alive."""

    def beat(self) -> float:
        """Return that moment, monotonic seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a running daemon is made of."""

    kept: Kept
    store: Store
    links: dict[HostName, HostLink]
    balancers: dict[BalancerName, Balancer]
    world: World
    loop: Loop
    control: Control
    cordon: Cordon
    rollout: Rollout
    metrics: Metrics

    @property
    def config(self) -> Config:
        """The configuration as it is now."""
        return self.kept.config


async def serve(
    path: Path,
    *,
    notifier: Notifier | None = None,
    link: Callable[[Host], HostLink] = link_to,
) -> None:
    """Run the daemon until SIGTERM or SIGINT; replicas run on when it ends.

    `link` makes the way to each host; simulated fleets bring their own.
    Raises Refused for a configuration or a store that cannot be used, before anything is touched,
    and the failure of whichever background task died first.
    """
    notifier = notifier or Notifier.from_environment()
    config = configuration.load(path)
    stop, reload = _on_signals(signal.SIGTERM, signal.SIGINT), _on_signals(signal.SIGHUP)
    async with _parts(config, link) as parts, _listening(parts):
        LOG.info("serving", extra={"action": "serving", "config": str(path)})
        with contextlib.suppress(
            Temporary
        ):  # on a full disk it watches over what runs all the same
            parts.store.events.add("daemon.started", f"poold {__version__} serves {path}")
        notifier.ready()
        reloader = _reloader(parts, path, notifier, link)
        autoscaler = Autoscaler(
            control=parts.control,
            store=parts.store,
            world=parts.world,
            pools=lambda: parts.config.pools,
        )
        try:
            await _supervise(
                stop,
                {
                    "loop": parts.loop.run,
                    "reload": lambda: reloader.run(reload),
                    "autoscaler": autoscaler.run,
                    "status": lambda: _report(parts, notifier),
                    "watchdog": lambda: feed_watchdog(parts.loop, notifier),
                },
            )
        finally:
            notifier.stopping()
            LOG.info("stopping; replicas run on", extra={"action": "stopping"})


def _on_signals(*numbers: signal.Signals) -> asyncio.Event:
    came = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in numbers:
        loop.add_signal_handler(number, came.set)
    return came


def _reloader(
    parts: Parts, path: Path, notifier: Notifier, link: Callable[[Host], HostLink]
) -> Reload:
    def check(config: Config) -> None:
        if config.daemon.listen is not None:
            _token(config.daemon.token_file)

    return Reload(
        path=path,
        live=parts.kept,
        store=parts.store,
        world=parts.world,
        loop=parts.loop,
        links=parts.links,
        link_to=link,
        balancers=parts.balancers,
        notifier=notifier,
        check=check,
    )


@contextlib.asynccontextmanager
async def _parts(config: Config, link: Callable[[Host], HostLink]) -> AsyncIterator[Parts]:
    """Open the store and the links; close both whatever happens."""
    kept = Kept(config)
    daemon = config.daemon
    # One clock for what is written and what is decided: what came first is never in doubt.
    clock = SteadyClock()
    reserve = read_reserve(daemon.disk_reserve)
    store = Store(Path(daemon.state_dir), clock=clock, reserve=reserve)
    try:
        clock.not_before(store.latest())
        links = {name: link(host) for name, host in config.hosts.items()}
        balancers = {name: balancer_to(each) for name, each in config.balancers.items()}
        metrics = Metrics()
        world = World(
            links=links, clock=clock, marks=store.hosts.all, quarantine=store.quarantine.all
        )
        loop = Loop(
            store=store,
            world=world,
            links=links,
            config=lambda: kept.config,
            recorder=metrics,
            clock=clock,
            sealer=load_sealer(Path(config.daemon.seal_key_path)),
            balancers=balancers,
        )
        control = Control(store=store, world=world, config=lambda: kept.config)
        cordon = Cordon(store=store, world=world, config=lambda: kept.config)
        rollout = Rollout(store=store, world=world, config=lambda: kept.config)
        try:
            for each in links.values():
                await each.open()
            yield Parts(
                kept=kept,
                store=store,
                links=links,
                balancers=balancers,
                world=world,
                loop=loop,
                control=control,
                cordon=cordon,
                rollout=rollout,
                metrics=metrics,
            )
        finally:
            await asyncio.gather(*(each.close() for each in links.values()), return_exceptions=True)
    finally:
        store.close()


@contextlib.asynccontextmanager
async def _listening(parts: Parts) -> AsyncIterator[None]:
    """Serve the API on the unix socket and, where configured, on TCP."""
    config = parts.config.daemon
    app_for: Callable[[], web.Application] = lambda: build_app(  # noqa: E731
        control=parts.control,
        host_control=parts.cordon,
        rollout=parts.rollout,
        store=parts.store,
        world=parts.world,
        config=lambda: parts.config,
        logs=lambda name, tail: _logs(parts, name, tail),
        examine=lambda: _examine(parts),
        metrics=parts.metrics.page,
        token=lambda: _token(parts.config.daemon.token_file),
        explain=parts.loop.explain,
    )
    path = Path(config.socket)
    _make_folder_of(path)
    listeners: list[Listener] = []
    try:
        listeners.append(await serve_unix(app_for(), path, config.socket_permissions))
        if config.listen_address is not None:
            _token(config.token_file)
            listeners.append(await serve_tcp(app_for(), *config.listen_address))
        yield
    finally:
        await asyncio.gather(*(one.close() for one in listeners), return_exceptions=True)


def _make_folder_of(socket: Path) -> None:
    try:
        socket.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Permanent(
            "api.cannot-listen",
            f"cannot make the folder of the socket {socket}: {error.strerror}",
            hint="run the daemon by its systemd unit, which makes it, or change daemon.socket",
        ) from error


async def _supervise(stop: asyncio.Event, jobs: dict[str, Callable[[], Awaitable[None]]]) -> None:
    """Run the jobs until `stop`; a job that ends before that ends the daemon, with its name."""
    tasks: dict[asyncio.Future[Any], str] = {
        asyncio.ensure_future(job()): name for name, job in jobs.items()
    }
    stopped: asyncio.Future[Any] = asyncio.ensure_future(stop.wait())
    try:
        done, _ = await asyncio.wait({stopped, *tasks}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (stopped, *tasks):
            task.cancel()
        await asyncio.gather(stopped, *tasks, return_exceptions=True)
    for task in done - {stopped}:
        name = tasks[task]
        failure = None if task.cancelled() else _cause(task.exception())
        raise Permanent(
            "daemon.task-died",
            f"cannot go on: the task {name} ended ({failure or 'without a failure'})",
            hint="systemd starts the daemon again; replicas run on",
        ) from failure


def _cause(failure: BaseException | None) -> BaseException | None:
    """Return what failed first in a group of tasks: the group itself says nothing."""
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure


async def _report(parts: Parts, notifier: Notifier) -> None:
    """Keep systemd's status line and the gauges up to date."""
    said = ""
    while True:
        sentence = parts.world.sentence()
        if sentence != said:
            notifier.status(sentence)
            said = sentence
        parts.metrics.observe(
            pools=parts.world.pools(),
            replicas=parts.world.weighed(),
            hosts=parts.world.hosts(),
            generations={pool: parts.store.generations(pool) for pool in parts.config.pools},
            reconciled_at=time.time() - (time.monotonic() - parts.loop.beat()),
        )
        await asyncio.sleep(_STATUS_SECONDS)


async def feed_watchdog(loop: Beating, notifier: Notifier) -> None:
    """Feed the watchdog while the control loop shows signs of life, and only then."""
    interval = notifier.watchdog_interval_seconds or STUCK_SECONDS
    while True:
        if time.monotonic() - loop.beat() < STUCK_SECONDS:
            notifier.watchdog()
        await asyncio.sleep(interval / 2)


async def _logs(parts: Parts, name: str, tail: int) -> tuple[str, ...]:
    replica = next((one for one in parts.world.replicas() if one.name == name), None)
    if replica is None or replica.host is None:
        raise Refused(
            "replica.unknown",
            f"cannot read the output of {name}: there is no such replica",
            hint="poold ps lists them",
        )
    link = parts.links.get(replica.host)
    if link is None:
        raise Refused(
            "host.unknown",
            f"cannot read the output of {name}: its host {replica.host} left the configuration",
            hint=f"put it back there; poold host remove {replica.host} forgets it",
        )
    answer = await link.call(
        Logs(fleet=parts.config.daemon.fleet, name=name, tail=tail),
        action=_reading("logs"),
        deadline_seconds=_READ_SECONDS,
    )
    return answer.lines


async def _examine(parts: Parts) -> dict[str, tuple[Finding, ...]]:
    return {DAEMON: examine_daemon(parts.config), **await examine_hosts(parts.links)}


def _reading(verb: str) -> ActionId:
    return ActionId(f"{verb}-{uuid.uuid4().hex}")


def _token(path: str | None) -> str | None:
    """Read the token anew each time, so that it can be changed without a restart."""
    if path is None:
        return None
    try:
        return Path(path).read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text (UTF-8)"
        raise Permanent(
            "daemon.no-token",
            f"cannot read the token file {path}: {why}",
            hint="put a long random word into it, mode 0600, readable for the daemon",
        ) from error
