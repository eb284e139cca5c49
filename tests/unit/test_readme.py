"""The README's examples are what it says they are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from poold import config
from poold.cli.app import COMMANDS, Commands
from poold.cli.failures import EXIT_CODES

_ROOT = Path(__file__).parents[2]
_README = (_ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Return the README's code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", _README, re.MULTILINE | re.DOTALL)


def test_the_pool_in_ten_lines_is_a_valid_configuration() -> None:
    """The shortest configuration is accepted, and is as short as its heading says."""
    text, behind = blocks("toml")
    read = config.parse(text, source="README.md")
    assert [pool.replicas for pool in read.pools.values()] == [3]
    assert len(text.splitlines()) <= 10
    pool = config.parse(text + behind, source="README.md").pools["hello"]
    assert pool.balancer is not None


def test_every_command_is_known() -> None:
    """Each `poold WORD` of the README is a command."""
    said = set(re.findall(r"^(?:/opt/poold/bin/)?poold ([a-z]+)", _README, re.MULTILINE))
    assert said
    assert said <= set(COMMANDS)


def leaves(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """Yield a command or all that are below it, under the name of the first."""
    if isinstance(command, click.Group):
        for one in command.commands.values():
            yield from leaves(one, name)
    else:
        yield name, command


def test_commands_without_json_are_named() -> None:
    """The README says which commands have no --json, and says it of no other."""
    sentence = _README.partition("and each but ")[2].partition(" takes")[0]
    named = set(re.findall(r"`(\w+)`", sentence))
    groups = Commands()
    without = {
        name
        for top in COMMANDS
        for name, command in leaves(groups.get_command(click.Context(groups), top), top)
        if not any("--json" in parameter.opts for parameter in command.params)
    }
    assert without == named


def test_every_exit_code_is_said() -> None:
    """The README's list of exit codes is the program's."""
    said = _README.partition("Exit codes: ")[2].partition(" Completion:")[0]
    assert [int(code) for code in re.findall(r"\b\d+\b", said)] == [c for c, _ in EXIT_CODES]


@pytest.mark.parametrize("target", ["demo", "test"])
def test_the_two_commands_are_targets(target: str) -> None:
    """`make demo` and `make test` exist."""
    assert f"sudo make {target}\n" in _README
    makefile = (_ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_files_it_names_exist() -> None:
    """Files that the README copies or shows are in the repository."""
    named = re.findall(r"(?:\(|cp |`)((?:config|systemd|\.assets)/[\w.-]+)", _README)
    assert len(named) >= 3
    assert [name for name in named if not (_ROOT / name).exists()] == []
