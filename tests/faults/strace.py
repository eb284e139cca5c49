"""Errors of the kernel for a process that runs: strace lets its system calls on a file fail."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Self

_WRITES = "pwrite64,write,fsync,fdatasync,ftruncate"


class FailingFile:
    """While entered, what a process writes to these files fails with an error such as ENOSPC."""

    def __init__(
        self, pid: int, paths: Sequence[Path], error: str, *, calls: str = _WRITES, log: Path
    ) -> None:
        self._log = log
        self._argv = ["strace", "--follow-forks", "--attach", str(pid), "--output", str(log)]
        for path in paths:
            self._argv += ["--trace-path", str(path)]
        self._argv += [f"--trace={calls}", f"--inject={calls}:error={error}"]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert self._process.stderr is not None
        said = self._process.stderr.readline()
        assert re.search("attached", said), said
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        self._process.communicate(timeout=10)

    @property
    def failures(self) -> int:
        """How many calls have failed so far."""
        return self._log.read_text().count("(INJECTED)")
