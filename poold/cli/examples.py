"""How examples stand under a command's help."""

from __future__ import annotations


def examples(*lines: str) -> str:
    """Return an epilog; the backspace keeps click from joining its lines."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])
