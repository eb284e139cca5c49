"""Daemons over hosts that are folders, each forked from one process that has read all code.

Flows in: a configuration, a log and failpoints. Flows out: a process that dies as any other, by
itself or by a signal. To start Python and read poold takes longer than most of what such a daemon
is started for, and it is started hundreds of times.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn, Self


class Daemons:
    """The process that forks; it ends with the block, which fails if a daemon is left by then."""

    def __enter__(self) -> Self:
        argv, pipe = [sys.executable, __file__], subprocess.PIPE
        self._parent = subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        with self._parent as parent:  # closes its input, which ends it, and waits
            assert parent.stdin is not None
            parent.stdin.close()
        assert parent.returncode == 0, "a daemon was left, and ended"

    def start(self, config: Path, log: Path, failpoints: str) -> Daemon:
        """Fork a daemon; what it says is added to the log."""
        return Daemon(self, int(self.ask("start", str(config), str(log), failpoints)))

    def ask(self, *words: str) -> Any:
        """Let the parent of all daemons do something; only it can wait for them."""
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.write(f"{json.dumps(words)}\n")
        self._parent.stdin.flush()
        return json.loads(self._parent.stdout.readline())


class Daemon:
    """One of them, in the words of `subprocess.Popen`."""

    def __init__(self, daemons: Daemons, pid: int) -> None:
        self._daemons, self.pid = daemons, pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return how it ended, if it did."""
        if self.returncode is None:
            self.returncode = self._daemons.ask("poll", str(self.pid))
        return self.returncode

    def wait(self, timeout_seconds: float = 60.0) -> int:
        """Wait until it ended."""
        deadline = time.monotonic() + timeout_seconds
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the daemon {self.pid} does not end")
            time.sleep(0.02)
        return status

    def terminate(self) -> None:
        """Ask it to end."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self.poll() is None:  # until it is waited for, its id is nobody else's
            os.kill(self.pid, number)


# -- the process that forks -----------------------------------------------------------------------


def main() -> None:
    """Read all code, then do what the lines of standard input say, one answer each."""
    import folder_engine  # noqa: F401

    import poold.daemon  # noqa: F401

    gc.freeze()
    while line := sys.stdin.readline():
        verb, *words = json.loads(line)
        answer = _start(*words) if verb == "start" else _poll(int(words[0]))
        print(json.dumps(answer), flush=True)
    sys.exit(1 if _end_all() else 0)


def _end_all() -> int:
    """End what is left, of a test or of a run that was interrupted; return how many that were."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="utf-8").split()
    for pid in map(int, children):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return len(children)


def _start(config: str, log: str, failpoints: str) -> int:
    pid = os.fork()
    if pid == 0:
        _serve(Path(config), log, failpoints)
    return pid


def _poll(pid: int) -> int | None:
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def _serve(config: Path, log: str, armed: str) -> NoReturn:
    from folder_engine import link

    from poold.agent import failpoints
    from poold.daemon import serve

    status = 1
    try:
        _redirect(log)
        os.umask(0o077)
        failpoints._armed.update(failpoints.parse(armed))
        asyncio.run(serve(config, link=link))
        status = 0
    except BaseException:  # noqa: BLE001 - as the interpreter does at the end of a program
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _redirect(log: str) -> None:
    with open(log, "ab") as out, open(os.devnull, "rb") as nothing:  # noqa: PTH123
        for source, target in ((nothing, 0), (out, 1), (out, 2)):
            os.dup2(source.fileno(), target)


if __name__ == "__main__":
    main()
