"""Is the application ready? Ask every few milliseconds until it is, or time is up.

Flows in: a probe, where the container's ports are published, a way to run a command inside it.
Flows out: nothing but the moment of the first success, or a Problem that says what was answered
last. It does not know what kind of container it asks. No process is started per attempt.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Optional

from poold.agent import http
from poold.agent.engines.base import Executed
from poold.agent.http import BadAnswer, Target
from poold.errors import Permanent, Problem, Refused, Temporary
from poold.model.application import ExecProbe, HttpProbe, Probe

HTTP_STATUS = "HTTP status"  # begins what an answer with another status than 200 to 399 is told as
Execute = Callable[[tuple[str, ...], bytes, float], Awaitable[Executed]]


@dataclass(frozen=True)
class Reach:
    """How to reach a container: its published ports by container port, and commands inside it."""

    name: str
    main_port: int
    targets: Mapping[int, Target]
    execute: Execute

    def target(self, port: Optional[int]) -> Target:
        """Return where a container port is published; None means the main one."""
        wanted = self.main_port if port is None else port
        if wanted not in self.targets:
            raise Refused(
                "application.port-not-published",
                f"cannot reach port {wanted} of {self.name}: it is not published",
                hint="add it to the pool's extra_ports",
            )
        return self.targets[wanted]


async def until_ready(probe: Probe, reach: Reach, died: Callable[[], Awaitable[None]]) -> float:
    """Return the monotonic time of the first success.

    `died` returns when the container has ended: Permanent("replica.exited") at once, instead of
    probing a dead one. Past the probe's deadline: Temporary("probe.deadline").
    """
    attempts = asyncio.ensure_future(_attempts(probe, reach))
    death = asyncio.ensure_future(died())
    try:
        await asyncio.wait(
            {attempts, death},
            timeout=probe.deadline_seconds + 1 + http.DRAIN_SECONDS,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if attempts.done():
            return attempts.result()
        if death.done():
            death.result()
            raise Permanent(
                "replica.exited",
                f"cannot get {reach.name} ready: it ended before it answered",
                hint="its last lines of output are in the detail",
            )
        raise _never(probe, reach, "nothing")
    finally:
        for task in (attempts, death):
            task.cancel()
        await asyncio.wait({attempts, death})


async def _attempts(probe: Probe, reach: Reach) -> float:
    deadline = time.monotonic() + probe.deadline_seconds
    pause = max(probe.interval_ms, 1) / 1000
    while True:
        answer, moment = await _asked(probe, reach)
        if not answer:
            return moment
        if time.monotonic() + pause >= deadline:
            raise _never(probe, reach, answer)
        await asyncio.sleep(pause)


async def attempt(probe: Probe, reach: Reach) -> str:
    """Ask once; "" means ready, anything else what came instead."""
    said, _ = await _asked(probe, reach)
    return said


async def _asked(probe: Probe, reach: Reach) -> tuple[str, float]:
    """Ask once; return what `attempt` does and the monotonic time of the answer."""
    timeout = probe.timeout_seconds
    said = ""
    try:
        if isinstance(probe, ExecProbe):
            ended = await reach.execute(probe.command, b"", timeout)
            if ended.status != 0:
                said = f"exit status {ended.status}: {ended.output[-200:]}"
        elif isinstance(probe, HttpProbe):
            target = reach.target(probe.port)
            answer = await http.request(target, "GET", probe.path, timeout_seconds=timeout)
            said = "" if 200 <= answer.status < 400 else f"{HTTP_STATUS} {answer.status}"
            return said, answer.at
        else:
            await http.connect(reach.target(probe.port), timeout)
    except asyncio.TimeoutError:
        said = f"no answer within {timeout:g} s"
    except OSError as error:
        said = os.strerror(error.errno) if error.errno else str(error)
    except BadAnswer as error:
        said = str(error)
    except Problem as error:
        if error.code != "command.timeout":
            raise
        said = f"no end within {timeout:g} s"
    return said, time.monotonic()


def in_words(probe: Probe, main_port: int) -> str:
    """Say how ready is proven: "GET /health on port 8080"."""
    if isinstance(probe, ExecProbe):
        return f"{' '.join(probe.command)!r} exits with 0"
    port = main_port if probe.port is None else probe.port
    if isinstance(probe, HttpProbe):
        return f"GET {probe.path} on port {port} answers 200 to 399"
    return f"port {port} accepts connections"


def _never(probe: Probe, reach: Reach, answer: str) -> Temporary:
    return Temporary(
        "probe.deadline",
        f"cannot get {reach.name} ready within {probe.deadline_seconds:g} s:"
        f" {in_words(probe, reach.main_port)} was asked for, the last answer was: {answer}",
        hint="see its output with poold logs; check the readiness probe's path, port and deadline",
    )
