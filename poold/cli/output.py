"""Writing to standard output, once, as JSON or as text for people."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from poold.cli.tables import Column, table


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]], *, empty: str) -> None:
    """Print a table, or a sentence where there is nothing to show."""
    print(table(columns, rows, colour=colours()) if rows else empty)


def colours() -> bool:
    """Tell whether standard output takes colours (https://no-color.org)."""
    return (
        sys.stdout.isatty()
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM", "") != "dumb"
    )
