"""CRIU's log: what of it an operator needs to see.

Flows in: the text or the path of a dump.log or restore.log, which has thousands of lines. Flows
out: the errors, and an excerpt short enough for a change, an event and a quarantine. It refuses to
know what an error means.
"""

from __future__ import annotations

from pathlib import Path

EXCERPT_BYTES = 2048
_ERRORS_BYTES = 1400  # of the excerpt; what CRIU did last has the rest
_READ_BYTES = 4 << 20  # CRIU gives up soon after its first error, so the end of a log has it
_CLOCK_SECONDS = 0.1  # a file's time is the kernel's coarse one, some milliseconds behind
_GAP = "…"


def read(path: Path, *, since: float = 0.0) -> str:
    """Return a log, "" where there is none written after `since`: an older one tells another story.

    Blocking.
    """
    try:
        with path.open("rb") as file:
            if path.stat().st_mtime < since - _CLOCK_SECONDS:
                return ""
            file.seek(max(0, path.stat().st_size - _READ_BYTES))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def errors(log: str) -> list[str]:
    """Return the lines with errors, but the one about RLIMIT_NOFILE, which any run has."""
    return [line for line in log.splitlines() if "Error (" in line and "RLIMIT_NOFILE" not in line]


def excerpt(log: str) -> str:
    """Return the errors, the cause first, then the log's last lines: printable, EXCERPT_BYTES."""
    lines = [printable(line).rstrip() for line in log.splitlines() if line.strip()]
    wrong = _within(errors("\n".join(lines)), _ERRORS_BYTES)
    left = EXCERPT_BYTES - _length(wrong) - len(f"{_GAP}\n".encode())
    told = set(wrong)
    last = _within([line for line in reversed(lines) if line not in told], left)
    gap = [_GAP] if wrong and last else []
    return "\n".join([*wrong, *gap, *reversed(last)])


def printable(text: str) -> str:
    """Return text that cannot move a terminal's cursor or colour it."""
    return "".join(c if c.isprintable() else " " if c == "\t" else "?" for c in text)


def shortened(text: str, size: int) -> str:
    """Return the end of a text, cut to about `size` bytes at the beginning of a line."""
    kept = _within(list(reversed(text.splitlines())), size)
    return "\n".join(reversed(kept))


def _within(lines: list[str], size: int) -> list[str]:
    """Return as many of the lines as fit; of a first one that is too long, its beginning."""
    kept: list[str] = []
    for line in lines:
        left = size - _length(kept)
        if len(line.encode()) + 1 > left:
            if not kept:
                kept.append(line.encode()[: max(0, left - 1)].decode("utf-8", "ignore"))
            break
        kept.append(line)
    return kept


def _length(lines: list[str]) -> int:
    return sum(len(line.encode()) + 1 for line in lines)
