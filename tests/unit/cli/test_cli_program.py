"""The command line as a program of its own: signals, pipes, terminals, what it imports."""

from __future__ import annotations

import os
import pty
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def _read_until(descriptor, wanted):
    text = ""
    while wanted not in text:
        text += os.read(descriptor, 4096).decode(errors="replace")


def _read_all(descriptor):
    text = b""
    while True:
        try:
            chunk = os.read(descriptor, 4096)
        except OSError:  # EIO: the other end of a pty was closed
            return text.decode(errors="replace")
        if not chunk:
            return text.decode(errors="replace")
        text += chunk


@pytest.mark.parametrize("arguments", [("ps",), ("scale", "hello", "1")])
def test_a_call_imports_nothing_that_is_slow(program, arguments):
    """What asks the daemon imports neither its machinery nor what draws progress."""
    asked = program(*arguments, python=("-X", "importtime"))
    out, err = asked.communicate(timeout=60)
    assert asked.returncode == 0, err
    assert out
    imported = {line.rpartition("|")[2].strip() for line in err.splitlines() if "|" in line}
    assert "poold.client" in imported
    slow = {
        "aiohttp",
        "asyncio",
        "asyncssh",
        "rich",
        "prometheus_client",
        "sqlite3",
        "ssl",
        "email.parser",
        "http.client",
        "tomli",
        "subprocess",
        "poold.daemon",
        "poold.config",
    }
    assert imported & slow == set()


def test_interrupting_a_wait_leaves_the_change_going(program, daemon):
    """Ctrl-C stops the waiting with 130 and says how to come back."""
    daemon.fleet.misbehaviour = "hang"
    waiting = program("scale", "hello", "1", "--wait")
    assert "waiting for its turn" in waiting.stderr.readline()
    waiting.send_signal(signal.SIGINT)
    _out, err = waiting.communicate(timeout=30)
    assert waiting.returncode == 130
    assert "change 1 goes on; poold changes 1 --wait" in err
    assert "Traceback" not in err
    assert daemon.do(daemon.fleet.change, 1).state == "pending"


def test_a_reader_that_has_had_enough_is_not_an_error(program):
    """When the reader of the output goes away there is no traceback."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    asked = program("status", stdout=write_end)
    os.close(write_end)
    _out, err = asked.communicate(timeout=30)
    assert err == ""


def test_progress_on_a_terminal(program, daemon):
    """On a terminal the wait shows a spinner, and the steps stay readable above it."""
    daemon.fleet.pace_seconds = None
    ours, theirs = pty.openpty()
    waiting = program("scale", "hello", "1", "--wait", stderr=theirs)
    os.close(theirs)
    _read_until(ours, "waiting for its turn")
    daemon.do(daemon.fleet.tell, 1, "restoring [b]hello1[/b]")
    _read_until(ours, " s  restoring [b]hello1[/b]")
    daemon.do(daemon.fleet.settle, 1)
    _read_all(ours)
    out, _err = waiting.communicate(timeout=30)
    os.close(ours)
    assert waiting.returncode == 0
    assert "settled after" in out


def test_colours_are_for_terminals_that_want_them(program):
    """NO_COLOR turns colours off on a terminal."""
    ours, theirs = pty.openpty()
    asked = program("hosts", stdout=theirs)
    os.close(theirs)
    shown = _read_all(ours)
    asked.communicate(timeout=30)
    os.close(ours)
    assert "up" in shown
    assert "\x1b[" not in shown


@pytest.mark.parametrize("terminal", [True, False])
def test_a_replicas_output_cannot_drive_the_terminal(program, daemon, terminal):
    """Control characters of a log do not reach a terminal; a pipe gets the log as it is."""
    program("scale", "hello", "1", "--wait").communicate(timeout=30)
    daemon.fleet.misbehaviour = "colours"
    ours, theirs = pty.openpty() if terminal else os.pipe()
    asked = program("logs", "hello1", stdout=theirs)
    os.close(theirs)
    shown = _read_all(ours).strip()
    asked.communicate(timeout=30)
    os.close(ours)
    assert shown == ("?[31mhello1     red?[0m" if terminal else "\x1b[31mhello1\tred\x1b[0m")


def test_a_traceback_only_where_it_is_asked_for(program, monkeypatch, tmp_path):
    """POOLD_DEBUG=1 shows where a problem was raised."""
    arguments = ("--socket", str(tmp_path / "nobody"), "ps")
    assert "Traceback" not in program(*arguments).communicate(timeout=30)[1]
    monkeypatch.setenv("POOLD_DEBUG", "1")
    assert "Traceback" in program(*arguments).communicate(timeout=30)[1]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("poold sc", {"scale"}),
        ("poold ps he", {"hello"}),
        ("poold rm h", {"hello1", "hello2"}),
        ("poold move hello1 --to ", {"a", "b"}),
        ("poold restore hello --host b", {"b"}),
        ("poold rollback hello --to ", {"1"}),
        ("poold --socket /nonexistent ps h", set()),
    ],
)
def test_bash_completes_names_that_the_daemon_knows(poold, daemon, tmp_path, words, offered):
    """In a real bash pools, replicas and hosts are offered; nothing when the daemon is down."""
    poold("scale", "hello", "2", "--wait")
    poold("checkpoint", "hello", "--wait")
    command = tmp_path / "bin" / "poold"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m poold "$@"\n')
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    line = words.split(" ")
    script = (
        'eval "$(poold completion bash)"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1));'
        ' _poold_completion poold; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    ran = subprocess.run(
        ["bash", "--norc", "-c", script, "bash", *line],
        env={
            "PATH": f"{command.parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "POOLD_SOCKET": str(daemon.socket),
        },
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert ran.stderr == ""
    assert set(ran.stdout.split()) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(poold, shell):
    """A completion script for each shell asks poold itself."""
    ran = poold("completion", shell)
    assert ran.code == 0
    assert f"_POOLD_COMPLETE={shell}_complete" in ran.out
