"""Options that several commands share, and how a command gets its client."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from poold.cli import completion
from poold.cli.session import Session

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_TIMEOUT_SECONDS = 900.0


def _remember(context: click.Context, parameter: click.Parameter, value: object) -> None:
    if value is not None and parameter.name is not None:
        setattr(context.ensure_object(Session), parameter.name, value)


def connection_options(*, hidden: bool) -> Callable[[F], F]:
    """Let a command take where the daemon is; hidden at commands, where they work as well."""
    texts = (
        ("--socket", "PATH", "The daemon's socket (POOLD_SOCKET; /run/poold/poold.sock)."),
        ("--url", "URL", "The daemon over TCP, as in http://host:8080 (POOLD_URL)."),
        ("--token-file", "FILE", "Holds the token for --url (POOLD_TOKEN_FILE)."),
        ("--config", "FILE", "Take the socket from this configuration (POOLD_CONFIG)."),
    )

    def decorate(function: F) -> F:
        for name, metavar, text in reversed(texts):
            function = click.option(
                name,
                metavar=metavar,
                help=text,
                hidden=hidden,
                expose_value=False,
                callback=_remember,
                type=click.Path() if metavar != "URL" else str,
            )(function)
        return function

    return decorate


def json_option(function: F) -> F:
    """Let a command answer as the API does."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, as the API has it.")(
        function
    )


def question(function: F) -> F:
    """Mark a command that asks: --json and where the daemon is; it gets the session first."""
    passed: Any = click.make_pass_decorator(Session, ensure=True)(function)
    marked: F = json_option(connection_options(hidden=True)(passed))
    return marked


def wait_options(function: F) -> F:
    """Let a command wait for a change's end."""
    timeout = click.option(
        "--timeout",
        "timeout_seconds",
        type=click.FloatRange(min=0),
        default=DEFAULT_TIMEOUT_SECONDS,
        show_default=True,
        metavar="SECONDS",
        help="Stop waiting after so long; the change goes on.",
    )
    waits = click.option(
        "--wait", "waits", is_flag=True, help="Wait for its end; show what happens."
    )
    return waits(timeout(function))


class _Key(click.ParamType[str]):
    """What can stand in a header, and in the daemon's memory of keys."""

    name = "KEY"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        text = str(value)
        if not re.fullmatch(r"[!-~]{1,200}", text):
            self.fail(f"{text!r} is no key: 1 to 200 characters of ASCII, no spaces", param, ctx)
        return text


def changing(function: F) -> F:
    """Mark a command that changes something: --if-revision and --key, which its client sends."""
    revision = click.option(
        "--if-revision",
        metavar="N",
        type=click.IntRange(min=0),
        expose_value=False,
        callback=_remember,
        help="Only if nothing was wished since revision N (explain, ps and host show with --json).",
    )
    key = click.option(
        "--key",
        type=_Key(),
        expose_value=False,
        callback=_remember,
        help="The same KEY and command within a day are one wish, however often it is made.",
    )
    return revision(key(function))


def wish(function: F) -> F:
    """Mark a command that wishes: changing, and beside a question's options --wait and --reason."""
    reason = click.option(
        "--reason", default="", metavar="TEXT", help="Why, for who reads the change later."
    )
    return question(wait_options(reason(changing(function))))


def pool_argument(*, required: bool = True) -> Callable[[F], F]:
    """Take a pool's name."""
    return click.argument("pool", required=required, shell_complete=completion.pools)


def replica_argument(function: F) -> F:
    """Take a replica's name."""
    return click.argument("replica", shell_complete=completion.replicas)(function)
