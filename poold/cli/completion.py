"""Shell completion: names asked of the daemon, and nothing at all when it does not answer.

Flows in: what was typed so far. Flows out: candidates. It never says an error: a completion that
prints into the line being typed is worse than none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from poold.cli.examples import examples
from poold.cli.session import Session
from poold.errors import Problem

if TYPE_CHECKING:  # not needed to run a command, only to complete one
    from click.shell_completion import CompletionItem

_ANSWER_SECONDS = 1.0
_VARIABLE = "_POOLD_COMPLETE"
SHELLS = ("bash", "zsh", "fish")


def _names(path: str, key: str, describe: Callable[[dict[str, Any]], str]) -> Callable[..., Any]:
    def complete(
        context: click.Context, _parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        try:
            client = context.ensure_object(Session).client()
            answer = client.get(path, dict[str, Any], seconds=_ANSWER_SECONDS)
        except Problem:
            return []
        return list(_matching(answer.get(key, []), incomplete, describe))

    return complete


def _matching(
    values: Iterable[dict[str, Any]], incomplete: str, describe: Callable[[dict[str, Any]], str]
) -> Iterable[CompletionItem]:
    from click.shell_completion import CompletionItem

    for value in values:
        if str(value["name"]).startswith(incomplete):
            yield CompletionItem(str(value["name"]), help=describe(value))


pools = _names("/v1/pools", "pools", lambda pool: f"{pool['ready']}/{pool['desired']} ready")
replicas = _names(
    "/v1/replicas",
    "replicas",
    lambda replica: f"{replica['state']} on {replica.get('host') or 'no host'}",
)
hosts = _names("/v1/hosts", "hosts", lambda host: str(host["state"]))


def generations(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Offer the generations of the pool that was named before."""
    from urllib.parse import quote

    from click.shell_completion import CompletionItem

    # Behind an option that still lacks its value arguments are not taken for parameters yet.
    pool = context.params.get("pool") or next(iter(context.args), "-")
    path = f"/v1/pools/{quote(str(pool), safe='')}/generations"
    try:
        client = context.ensure_object(Session).client()
        answer = client.get(path, dict[str, Any], seconds=_ANSWER_SECONDS)
    except Problem:
        return []
    return [
        CompletionItem(str(each["number"]), help=f"built on {each['builder']}")
        for each in answer.get("generations", [])
        if str(each["number"]).startswith(incomplete)
    ]


@click.command(
    epilog=examples(
        "poold completion bash > /etc/bash_completion.d/poold",
        "source <(poold completion zsh)",
        "poold completion fish > ~/.config/fish/completions/poold.fish",
    )
)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell."""
    from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

    kind = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}[shell]
    # Not kind.source(): for bash that runs a bash to learn its version.
    script = ShellComplete.source(kind(context.find_root().command, {}, "poold", _VARIABLE))
    click.echo(script)
