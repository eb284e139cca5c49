"""Runs the machine's own programs: an argument vector in, its output out, one clear error else."""

from __future__ import annotations

import shlex
import subprocess
from typing import IO, TYPE_CHECKING

from poold.errors import Permanent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_TAIL_LINES = 15


def run(
    *argv: str | Path,
    what: str,
    text_in: str = "",
    stdin: IO[bytes] | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    timeout_seconds: float = 1800,
) -> str:
    """Return standard output; `what` completes "cannot …" when the program fails.

    The failed command is quoted ready to paste, its last lines are the error's detail.
    """
    vector = [str(part) for part in argv]
    try:
        done = subprocess.run(
            vector,
            check=False,
            input=None if stdin else text_in.encode(),
            stdin=stdin,
            capture_output=True,
            env=environment,
            cwd=folder,
            timeout=timeout_seconds,
        )
    except FileNotFoundError as error:
        raise Permanent(
            "lab.missing-program",
            f"cannot {what}: there is no program {vector[0]}",
            hint="install it, or run `poold lab setup` as root",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise failure(what, vector, f"did not end within {timeout_seconds:g} s", b"") from error
    if done.returncode != 0:
        ended = f"ended with status {done.returncode}"
        raise failure(what, vector, ended, done.stderr or done.stdout)
    return done.stdout.decode(errors="replace")


def failure(what: str, argv: Sequence[str], ended: str, output: bytes) -> Permanent:
    """Describe a command that failed, with the last lines it said."""
    lines = output.decode(errors="replace").strip().splitlines()[-_TAIL_LINES:]
    reason = f": {' / '.join(line.strip() for line in lines[-2:])}" if lines else ""
    return Permanent(
        "lab.command-failed",
        f"cannot {what}: `{shlex.join(argv)}` {ended}{reason}",
        detail="\n".join(lines),
    )
