"""A rendered file and a program: whole or not at all, and told again until it worked."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from poold.balancers.base import Server
from poold.balancers.programs import CommandTeller, FileTeller, render
from poold.errors import Problem
from poold.model.application import Application
from poold.model.balancing import BalancerName
from poold.model.fleet import HostName, Pool, PoolName

EDGE = BalancerName("edge")
POOL = Pool(
    PoolName("hello"), Application(image="i", port=1), (HostName("a"),), HostName("a"), "hello{n}"
)
ONE = Server(name="hello1", address="10.0.0.1", port=1)
SIX = Server(name="hello2", address="::1", port=2)
TEMPLATE = """\
upstream @pool@ {
  server @endpoint@;  # @name@
@empty@  server 127.0.0.1:9 down;
}
"""


def program(text: str) -> tuple[str, ...]:
    """Return a command that runs Python."""
    return (sys.executable, "-c", text)


def test_lines_are_written_for_each_server() -> None:
    """Or those for none; the pool's name stands everywhere."""
    assert render(TEMPLATE, "hello", (ONE, SIX)) == (
        "upstream hello {\n  server 10.0.0.1:1;  # hello1\n  server [::1]:2;  # hello2\n}\n"
    )
    assert render(TEMPLATE, "hello", ()) == "upstream hello {\nserver 127.0.0.1:9 down;\n}\n"
    assert render("@address@ @port@\r\n", "x", (ONE,)) == "10.0.0.1 1\r\n"


def file_teller(folder: Path, text: str, seconds: float = 20) -> FileTeller:
    """Return one whose program leaves a line in `ran` each time."""
    (folder / "template").write_text(TEMPLATE)
    return FileTeller(
        name=EDGE,
        template=folder / "template",
        path=f"{folder}/@pool@.conf",
        command=program(f"open({str(folder / 'ran')!r}, 'a').write('x'); {text}"),
        timeout_seconds=seconds,
    )


async def test_the_file_is_repaired_and_read(tmp_path: Path) -> None:
    """Written and read when it is news, when it was changed by hand, and not otherwise."""
    teller, file, ran = file_teller(tmp_path, ""), tmp_path / "hello.conf", tmp_path / "ran"
    assert await teller.tell(POOL, (ONE,), anew=True)
    assert not await teller.tell(POOL, (ONE,), anew=False)
    assert ran.read_text() == "x"
    file.write_text("by hand")
    assert await teller.tell(POOL, (ONE,), anew=False)
    assert (ran.read_text(), "10.0.0.1:1" in file.read_text()) == ("xx", True)
    assert not (tmp_path / ".hello.conf.new").exists()


@pytest.mark.parametrize(
    ("text", "seconds", "code"),
    [
        ("import sys; sys.exit('no such upstream')", 20, "balancer.command"),
        ("import time; time.sleep(60)", 0.5, "balancer.timeout"),
    ],
)
async def test_a_program_that_fails_is_said(
    tmp_path: Path, text: str, seconds: float, code: str
) -> None:
    """With what it wrote; one that does not end is ended."""
    teller = file_teller(tmp_path, text, seconds)
    with pytest.raises(Problem) as caught:
        await teller.tell(POOL, (ONE,), anew=True)
    assert caught.value.code == code
    assert ("no such upstream" in caught.value.detail) == (code == "balancer.command")


async def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    """A template, a folder, a program."""
    teller = file_teller(tmp_path, "")
    (tmp_path / "template").unlink()
    with pytest.raises(Problem, match=r"cannot write .*hello\.conf") as caught:
        await teller.tell(POOL, (ONE,), anew=True)
    assert caught.value.hint
    command = CommandTeller(name=EDGE, command=("/nowhere/edge",), timeout_seconds=20)
    with pytest.raises(Problem, match="cannot tell edge: /nowhere/edge: No such file"):
        await command.tell(POOL, (ONE,), anew=True)


async def test_a_command_gets_the_set(tmp_path: Path) -> None:
    """As JSON on its standard input, and only when it is news."""
    got = tmp_path / "got"
    copy = program(f"import sys; open({str(got)!r}, 'a').write(sys.stdin.read())")
    teller = CommandTeller(name=EDGE, command=copy, timeout_seconds=20)
    assert await teller.tell(POOL, (ONE, SIX), anew=True)
    assert not await teller.tell(POOL, (ONE, SIX), anew=False)
    assert json.loads(got.read_text()) == {
        "pool": "hello",
        "backend": "hello",
        "servers": [
            {"name": "hello1", "address": "10.0.0.1", "port": 1},
            {"name": "hello2", "address": "::1", "port": 2},
        ],
    }
