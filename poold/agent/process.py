"""Run a program of the host: an argument vector in, its captured output out.

Flows in: an argument vector, bytes for its standard input, a deadline. Flows out: exit status and
output, or a Problem with the command quoted ready to paste. It does not know what the programs
mean; whoever knows their errors translates them from `CommandFailed`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, TypeVar

from poold.errors import Permanent, Temporary

# What systemd gives a unit is not for the containers that the unit starts: with INVOCATION_ID
# podman puts conmon into the unit's own cgroup, where stopping the unit kills the replicas;
# NOTIFY_SOCKET makes podman speak for the unit.
_UNIT_VARIABLES = ("INVOCATION_ID", "NOTIFY_SOCKET", "JOURNAL_STREAM", "SYSTEMD_EXEC_PID")
_UNIT_PREFIXES = ("LISTEN_", "WATCHDOG_", "NOTIFY_")

TERM_SECONDS = 1.0  # between asking a program to end and ending it
KILL_SECONDS = 1.0  # until it has ended
_TAIL_BYTES = 4000
T = TypeVar("T")


@dataclass(frozen=True)
class Finished:
    """How a program ended; a negative status is the signal that ended it."""

    argv: tuple[str, ...]
    status: int
    stdout: bytes
    stderr: bytes

    @property
    def command(self) -> str:
        """The command, quoted ready to paste."""
        return shlex.join(self.argv)

    @property
    def who(self) -> str:
        """The program's name."""
        return Path(self.argv[0]).name

    @property
    def error_text(self) -> str:
        """The end of what it wrote to standard error, or else to standard output."""
        return (_tail(self.stderr) or _tail(self.stdout)).strip()


class CommandFailed(Permanent):
    """A program ended with another status than 0; `finished` has all of it."""

    def __init__(self, finished: Finished) -> None:
        super().__init__(
            "command.failed",
            f"cannot run {finished.argv[0]}: it ended with status {finished.status}",
            hint=f"run it by hand: {finished.command}",
            detail=finished.error_text,
        )
        self.finished = finished


def clean_environment(extra: Optional[Mapping[str, str]] = None) -> dict[str, str]:
    """Return the environment for programs: without the unit's variables, with plain messages."""
    env = {
        name: value
        for name, value in os.environ.items()
        if name not in _UNIT_VARIABLES and not name.startswith(_UNIT_PREFIXES)
    }
    env["LC_ALL"] = "C"
    env.setdefault("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    env.setdefault("HOME", "/root")
    env.update(extra or {})
    return env


async def run(
    argv: Sequence[str],
    *,
    deadline_seconds: float,
    stdin: Optional[bytes] = None,
    stdin_fd: Optional[int] = None,
    merged: bool = False,
    finishing_seconds: float = 0.0,
    first: Optional[Callable[[], object]] = None,
) -> Finished:
    """Run a program to its end and return whatever status it ended with.

    Past the deadline the whole process group is ended: Temporary("command.timeout"). Cancelling
    does the same before the cancellation goes on. A program that does not exist is
    Permanent("command.not-found"). `merged` puts standard error into `stdout`, in order.
    `finishing_seconds` is what a program gets to end by itself when the waiting is cancelled: some
    leave more behind when they are stopped half-way than when they finish. `first` is called in the
    new process before the program is: it must not wait for anything, nor take a lock.
    """
    source = asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *argv,
            stdin=source if stdin_fd is None else stdin_fd,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT if merged else asyncio.subprocess.PIPE,
            env=clean_environment(),
            start_new_session=True,
            preexec_fn=first,
        )
    )
    # Cancelled in the middle of starting, asyncio would kill what runs already.
    cancelled = await _settled(starting)
    try:
        child = starting.result()
    except FileNotFoundError as error:
        raise Permanent(
            "command.not-found",
            f"cannot run {argv[0]}: there is no such program",
            hint=f"install {argv[0]} on this host",
        ) from error
    talk = asyncio.ensure_future(child.communicate(stdin))
    try:
        if cancelled:
            raise asyncio.CancelledError  # noqa: TRY301
        done, _ = await asyncio.wait({talk}, timeout=deadline_seconds)
        if not done:
            raise Temporary(
                "command.timeout",
                f"cannot finish {argv[0]} within {deadline_seconds:g} s",
                hint=f"run it by hand: {shlex.join(argv)}",
            )
        stdout, stderr = talk.result()
    except asyncio.CancelledError:
        await finish(_end(child, talk, finishing_seconds))
        raise
    finally:
        if not talk.done():
            await finish(_end(child, talk, 0.0))
    return Finished(tuple(argv), child.returncode or 0, stdout or b"", stderr or b"")


async def check(
    argv: Sequence[str], *, deadline_seconds: float, stdin: Optional[bytes] = None
) -> Finished:
    """Run a program that must succeed; another status than 0 is CommandFailed."""
    finished = await run(argv, deadline_seconds=deadline_seconds, stdin=stdin)
    if finished.status != 0:
        raise CommandFailed(finished)
    return finished


async def finish(work: Coroutine[Any, Any, None]) -> None:
    """Wait for bounded clean-up to its end; being cancelled meanwhile takes effect afterwards."""
    task = asyncio.ensure_future(work)
    cancelled = await _settled(task)
    task.result()
    if cancelled:
        raise asyncio.CancelledError


async def settled(work: Awaitable[T]) -> T:
    """Wait for bounded work that cannot be stopped; being cancelled takes effect afterwards."""
    task = asyncio.ensure_future(work)
    cancelled = await _settled(task)
    if cancelled:
        raise asyncio.CancelledError
    return task.result()


async def _settled(task: asyncio.Future[Any]) -> bool:
    """Wait for a task's end whatever happens; tell whether the waiting was cancelled meanwhile."""
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:  # noqa: PERF203
            cancelled = True
    return cancelled


async def _end(
    child: asyncio.subprocess.Process,
    talk: asyncio.Future[tuple[bytes, bytes]],
    finishing_seconds: float,
) -> None:
    """End the process group, politely first; who keeps the pipes open is not waited for."""
    await asyncio.wait({talk}, timeout=finishing_seconds)
    for sign, patience in ((signal.SIGTERM, TERM_SECONDS), (signal.SIGKILL, KILL_SECONDS)):
        if talk.done():
            break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, sign)
        await asyncio.wait({talk}, timeout=patience)
    talk.cancel()
    await asyncio.wait({talk})
    if not talk.cancelled():
        talk.exception()


def _tail(output: bytes) -> str:
    return output[-_TAIL_BYTES:].decode(errors="replace")
