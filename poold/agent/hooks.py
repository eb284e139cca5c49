"""Hooks and warm-up: what the operator lets the application do around its checkpoint.

Flows in: a hook, the event, the replica's name. Flows out: nothing, or a Problem with what the
application said. A clone wakes up with the same random generators as its brothers: `after_restore`
therefore gets 32 fresh random bytes. They are never logged.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import Callable
from typing import Literal

from poold.agent import http
from poold.agent.http import BadAnswer
from poold.agent.messages import Progress
from poold.agent.probe import Reach
from poold.errors import Permanent, Problem, Temporary
from poold.model.application import ExecHook, Hook, WarmupRequest

_WARMUP_SECONDS = 60.0  # of one request: the first ones load classes


async def call(
    hook: Hook, event: Literal["before_checkpoint", "after_restore"], reach: Reach, pool: str
) -> None:
    """Call a hook once. Permanent("hook.failed") with what was said when it did not succeed."""
    said = {"event": event, "replica": reach.name, "pool": pool}
    seed = secrets.token_hex(32)
    if event == "after_restore":
        said["seed"] = seed
    body = json.dumps(said).encode()
    seconds = hook.timeout_seconds

    def failed(why: str, detail: str = "") -> Permanent:
        return _failed(event, reach, _without(seed, why), _without(seed, detail))

    if isinstance(hook, ExecHook):
        try:
            ended = await reach.execute(hook.command, body, seconds)
        except Problem as problem:
            if problem.code != "command.timeout":
                raise
            raise failed(f"no end in {seconds:g} s") from problem
        if ended.status != 0:
            raise failed(f"it exits with status {ended.status}", ended.output)
        return
    try:
        answer = await http.request(
            reach.target(hook.port),
            hook.method,
            hook.path,
            timeout_seconds=seconds,
            headers={"Content-Type": "application/json"},
            body=body,
        )
    except (OSError, BadAnswer, asyncio.TimeoutError) as error:
        raise failed(str(error) or f"no answer in {seconds:g} s") from error
    if not 200 <= answer.status < 300:
        text = answer.body[-1000:].decode(errors="replace")
        raise failed(f"it answers HTTP status {answer.status}", text)


async def warm(
    requests: tuple[WarmupRequest, ...], reach: Reach, report: Callable[[Progress], None]
) -> None:
    """Send the warm-up requests in turn; a status from 500 on, or no answer, is a failure."""
    total = sum(request.repeat for request in requests)
    done = 0
    for request in requests:
        for _ in range(request.repeat):
            done += 1
            report(Progress(f"warming {done}/{total}", done, total))
            await _warm_once(request, reach)


async def _warm_once(request: WarmupRequest, reach: Reach) -> None:
    what = f"{request.method} {request.path}"
    try:
        answer = await http.request(
            reach.target(request.port),
            request.method,
            request.path,
            timeout_seconds=_WARMUP_SECONDS,
            headers=request.headers,
            body=request.body.encode(),
        )
    except (OSError, BadAnswer, asyncio.TimeoutError) as error:
        raise Temporary(
            "warmup.no-answer",
            f"cannot warm {reach.name}: {what} got no answer ({str(error) or 'time is up'})",
            hint="check the pool's warm-up requests against the application",
        ) from error
    if answer.status >= 500:
        raise Permanent(
            "warmup.failed",
            f"cannot warm {reach.name}: {what} answered HTTP status {answer.status}",
            hint="check the pool's warm-up requests against the application",
            detail=answer.body[-1000:].decode(errors="replace"),
        )


def _without(seed: str, text: str) -> str:
    """Leave the seed out of what an application said, and any piece of it that a cut left."""
    text = text.replace(seed, "…")
    return re.sub("[0-9a-f]{8,}", lambda found: "…" if found[0] in seed else found[0], text)


def _failed(event: str, reach: Reach, why: str, detail: str = "") -> Permanent:
    return Permanent(
        "hook.failed",
        f"cannot finish the hook {event} of {reach.name}: {why}",
        hint="the application did not do what the hook asks for: see poold logs",
        detail=detail,
    )
