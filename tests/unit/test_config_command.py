"""`poold config check` and `poold config show`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from poold.cli.config import config
from poold.config import load

GOOD = '[hosts.a]\nkind = "local"\n[pools.web]\nimage = "i"\nport = 80\nenv = {A = "hidden"}\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "poold.toml"
    path.write_text(GOOD)
    return path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(config, [str(argument) for argument in arguments])


def test_check_says_ok(file: Path) -> None:
    """A good file is one line and exit status 0."""
    result = run("check", file)
    assert (result.exit_code, result.output) == (0, f"{file}: ok, 1 host, 1 pool\n")


def test_check_prints_all_problems(file: Path) -> None:
    """A wrong file is one line per mistake, as compilers print them, and exit status 2."""
    file.write_text(GOOD + "prot = 1\nreplicas = true\n")
    result = run("check", file)
    assert result.exit_code == 2
    assert result.stdout.splitlines() == [
        f"{file}:7: pools.web.prot: cannot use this key, did you mean 'port'?",
        f"{file}:8: pools.web.replicas: cannot be true or false: an integer is needed",
    ]


def test_check_as_json(file: Path) -> None:
    """The same verdicts for programs."""
    good = run("check", "--json", file)
    assert json.loads(good.stdout) == {
        "file": str(file), "ok": True, "hosts": 1, "pools": 1, "problems": [],
    }  # fmt: skip
    file.write_text("x = 1\n" + GOOD)
    wrong = run("check", "--json", file)
    assert wrong.exit_code == 2
    assert json.loads(wrong.stdout)["problems"] == [
        {"path": "x", "line": 1, "message": "cannot use this key"}
    ]


@pytest.mark.parametrize("command", [("check",), ("check", "--json"), ("show",)])
def test_a_missing_file_is_no_traceback(tmp_path: Path, command: tuple[str, ...]) -> None:
    """A file that is not there is said in one sentence, exit status 2."""
    result = run(*command, tmp_path / "none.toml")
    assert result.exit_code == 2
    assert "cannot read the configuration" in result.output
    assert "none.toml: No such file" in result.output


def test_show_fills_in_defaults(file: Path) -> None:
    """What is shown with its secrets is the same configuration, every default written out."""
    result = run("show", "--show-secrets", file)
    assert result.exit_code == 0
    assert 'fleet = "poold"' in result.stdout
    again = file.with_name("shown.toml")
    again.write_text(result.stdout)
    assert load(again) == load(file)


def test_show_masks(file: Path) -> None:
    """Values of env are not shown without being asked for, in either form."""
    assert "hidden" not in run("show", file).output
    assert "hidden" not in run("show", "--json", file).output
    shown = json.loads(run("show", "--json", "--show-secrets", file).stdout)
    assert shown["pools"]["web"]["env"] == {"A": "hidden"}


def test_show_refuses_a_wrong_file(file: Path) -> None:
    """Nothing but the mistakes comes out, on standard error."""
    file.write_text("x = 1\n" + GOOD)
    result = run("show", file)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"{file}:1: x: cannot use this key")
