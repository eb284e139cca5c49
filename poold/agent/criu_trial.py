"""CRIU tried, not asked for its version: a tiny process is frozen and thawed.

Flows in: an empty folder. Flows out: nothing, or CRIU's refusal in the operator's words. The
process ends with the trial, whatever happens, and by itself soon after.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

from poold.agent import criu
from poold.agent.process import clean_environment, run
from poold.errors import Permanent

_TRIAL_SECONDS = 15.0
_LIFE_SECONDS = "60"
_OPTIONS = ("-v4", "--manage-cgroups=ignore", "--network-lock=skip")


async def try_criu(scratch: Path) -> None:
    """Dump and restore `sleep`; raises what `criu.explain` says of CRIU's log."""
    if (await run(["criu", "--version"], deadline_seconds=_TRIAL_SECONDS)).status != 0:
        raise Permanent("criu.missing", "cannot run criu", hint="install criu")
    null = asyncio.subprocess.DEVNULL
    child = await asyncio.create_subprocess_exec(
        *("sleep", _LIFE_SECONDS),
        stdin=null,
        stdout=null,
        stderr=null,
        cwd="/",
        env=clean_environment(),
        start_new_session=True,
    )
    thawed = 0
    try:
        await _criu("dump", scratch, "--tree", str(child.pid))
        await asyncio.wait_for(child.wait(), _TRIAL_SECONDS)  # its id is free once it is reaped
        pid_file = scratch / "pid"
        await _criu("restore", scratch, "--restore-detached", "--pidfile", str(pid_file))
        thawed = int(pid_file.read_text())
        os.kill(thawed, 0)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
        if thawed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(thawed, signal.SIGKILL)


async def _criu(doing: str, scratch: Path, *arguments: str) -> None:
    log = scratch / f"{doing}.log"
    argv = ["criu", doing, "--images-dir", str(scratch), "--log-file", log.name, *_OPTIONS]
    finished = await run([*argv, *arguments], deadline_seconds=_TRIAL_SECONDS)
    if finished.status != 0:
        text = log.read_text(errors="replace") if log.exists() else ""
        kind: criu.Doing = "restore" if doing == "restore" else "checkpoint"
        raise criu.explain(kind, "a tiny process", log=text, finished=finished)
