"""`poold` itself: the table of its commands, its help, and the edge where failures end.

A command's module is imported when the command is run, so that asking for `ps` does not pay for
`lab` or `serve`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

import click

from poold import __version__
from poold.cli import failures
from poold.cli.options import connection_options
from poold.cli.session import Session
from poold.errors import Problem

if TYPE_CHECKING:  # not needed to run a command, only to complete one
    from click.shell_completion import CompletionItem


@dataclass(frozen=True)
class Entry:
    """Where a command is, under which heading it stands, and its line of help."""

    source: str
    section: str
    line: str


_ASK, _WISH, _RUN = "Ask", "Change", "Set up and run"

COMMANDS: dict[str, Entry] = {
    "status": Entry("poold.cli.look:status", _ASK, "Pools, hosts and what is going on."),
    "ps": Entry("poold.cli.look:ps", _ASK, "Replicas: where, since when, how they came up."),
    "hosts": Entry("poold.cli.look:hosts", _ASK, "Hosts and how they are."),
    "generations": Entry("poold.cli.look:generations", _ASK, "A pool's warm checkpoints."),
    "changes": Entry("poold.cli.look:changes", _ASK, "What was wished and what became of it."),
    "logs": Entry("poold.cli.look:logs", _ASK, "A replica's output."),
    "scale": Entry("poold.cli.wish:scale", _WISH, "Wish for a number of replicas."),
    "restore": Entry("poold.cli.wish:restore", _WISH, "Wish for one more replica."),
    "move": Entry("poold.cli.wish:move", _WISH, "Let a replica go on on another host."),
    "rm": Entry("poold.cli.wish:rm", _WISH, "Wish for a replica to go."),
    "checkpoint": Entry("poold.cli.wish:checkpoint", _WISH, "Wish for a new generation."),
    "import": Entry("poold.cli.importing:import_", _WISH, "Make a generation of podman's archive."),
    "roll": Entry("poold.cli.roll:roll", _WISH, "Replace replicas by those of a newer generation."),
    "rollback": Entry("poold.cli.roll:rollback", _WISH, "Go back to an older generation."),
    "host": Entry("poold.cli.host:host", _WISH, "Show, cordon, pardon, fence, … a host."),
    "config": Entry("poold.cli.config:config", _RUN, "Check and show configurations."),
    "explain": Entry("poold.cli.story:explain", _ASK, "Why a pool is as it is; what it waits for."),
    "events": Entry("poold.cli.story:events", _ASK, "What happens and happened."),
    "audit": Entry("poold.cli.story:audit", _ASK, "Who asked for what, from where and why."),
    "doctor": Entry("poold.cli.doctor:doctor", _RUN, "Examine hosts: what is missing, way out."),
    "serve": Entry("poold.cli.serve:serve", _RUN, "Run the daemon."),
    "bench": Entry("poold.cli.bench:bench", _RUN, "How fast a start is, by every way."),
    "lab": Entry("poold.cli.lab:lab", _RUN, "Throw-away hosts on this machine."),
    "demo": Entry("poold.cli.demo:demo", _RUN, "The whole scenario, measured."),
    "completion": Entry("poold.cli.completion:completion", _RUN, "Completion for your shell."),
}


class Commands(click.Group):
    """A group whose members are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import one command."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, name = entry.source.partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is meant, or say which may have been."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            close = get_close_matches(args[0], COMMANDS, n=1)
            meant = f" Did you mean {close[0]!r}?" if close else ""
            ctx.fail(f"No such command {args[0]!r}.{meant}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the table without importing what it names."""
        for section in dict.fromkeys(entry.section for entry in COMMANDS.values()):
            with formatter.section(section):
                formatter.write_dl(
                    [(name, e.line) for name, e in COMMANDS.items() if e.section == section]
                )

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete from the table; options from click."""
        from click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [
            CompletionItem(name, help=entry.line)
            for name, entry in COMMANDS.items()
            if name.startswith(incomplete)
        ]


_EPILOG = "\n".join(
    [
        "\b",
        "Exit codes:",
        *(f"  {code:<4} {meaning}" for code, meaning in failures.EXIT_CODES),
        "",
        "\b",
        "Environment: POOLD_SOCKET, POOLD_URL, POOLD_TOKEN_FILE, POOLD_CONFIG for the options",
        "above; POOLD_DEBUG=1 shows tracebacks; NO_COLOR turns colours off.",
        "",
        "\b",
        "Examples:",
        "  poold scale hello 3 --wait",
        "  poold ps hello",
        "  poold move hello1 --to b --wait",
        "  poold --config lab.toml status --json",
    ]
)


@click.group(
    cls=Commands,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@connection_options(hidden=False)
@click.version_option(__version__, message="poold %(version)s")
def cli() -> None:
    """Warm checkpoints of slow-booting applications, restored as named replicas across hosts."""


def run(arguments: Sequence[str], session: Session | None = None) -> int:
    """Run one command line; every failure becomes lines on standard error and an exit code."""
    try:
        code = cli.main(
            list(arguments), prog_name="poold", standalone_mode=False, obj=session or Session()
        )
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code or failures.REFUSED
    except (click.Abort, KeyboardInterrupt):
        return failures.INTERRUPTED
    except Problem as problem:
        if failures.debugging():
            raise
        failures.show(problem, as_json="--json" in arguments)
        return failures.exit_code(problem)
    except BrokenPipeError:  # whoever read the output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return failures.FAILED
    except Exception as error:
        if failures.debugging():
            raise
        print(f"cannot finish: {type(error).__name__}: {error}", file=sys.stderr)
        print("  this is a bug in poold; POOLD_DEBUG=1 shows where", file=sys.stderr)
        return failures.FAILED
    return code if isinstance(code, int) else failures.DONE
