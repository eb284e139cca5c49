"""The command line: arguments in, tables or JSON out, an exit code. It decides nothing."""

from __future__ import annotations

import sys


def main() -> None:
    """Run `poold` and exit; the console script's entry."""
    from poold.cli.app import run

    sys.exit(run(sys.argv[1:]))
