"""Commands that change something: only if nothing else was wished, and once however often made."""

from __future__ import annotations

import json

import click
import pytest

from poold.cli.app import COMMANDS, Commands

# b is out of reach, z left the configuration, hello1 is ready on a.
WORDS = {
    "scale": ("hello", "3"),
    "restore": ("hello",),
    "move": ("hello1", "--to", "b"),
    "rm": ("hello1",),
    "checkpoint": ("hello",),
    "import": ("/root/hello.tar", "--pool", "hello"),
    "roll": ("hello",),
    "rollback": ("hello",),
    "host cordon": ("a",),
    "host uncordon": ("a",),
    "host pardon": ("a",),
    "host fence": ("b", "--yes"),
    "host remove": ("z", "--yes"),
}
ASK = {"host show"}
each = pytest.mark.parametrize("command", WORDS)


@pytest.fixture
def at(daemon, poold):
    """Have a replica ready, b away, and something wished of everything."""
    daemon.fleet.away.add("b")
    daemon.fleet.left.add("z")
    assert poold("scale", "hello", "1", "--wait").code == 0
    for host in "ab":
        assert poold("host", "pardon", host).code == 0
    return poold


def line(command, *options):
    return (*command.split(), *WORDS[command], *options)


def revision(poold, command):
    """Return the revision that somebody sees who looks before."""
    name = WORDS[command][0]
    if command.startswith("host"):
        hosts = json.loads(poold("hosts", "--json").out)["hosts"]
        return next((host["revision"] for host in hosts if host["name"] == name), 0)
    return json.loads(poold("explain", "hello", "--json").out)["revision"]


def test_every_command_that_changes_something_is_tried_here():
    """A command under "Change" that has no line above fails here."""
    groups = Commands()
    found = set()
    for name, entry in COMMANDS.items():
        if entry.section == "Change":
            command = groups.get_command(click.Context(groups), name)
            below = getattr(command, "commands", None)
            found |= {f"{name} {one}" for one in below} if below else {name}
    assert found - ASK == set(WORDS)


@each
def test_what_was_decided_on_an_older_wish_is_refused(at, daemon, command):
    """Another revision by now is exit code 5, a sentence and the way out; nothing is done."""
    seen = revision(at, command)
    changes = daemon.fleet.changes()
    ran = at(*line(command, "--if-revision", str(seen + 1)))
    assert ran.code == 5
    assert f"revision {seen} now" in ran.err
    assert "look again and decide anew: poold " in ran.err
    ran = at(*line(command, "--if-revision", str(seen + 1), "--json"))
    assert (ran.code, json.loads(ran.err)["problem"]["kind"]) == (5, "refused")
    assert daemon.fleet.changes() == changes
    assert at(*line(command, "--if-revision", str(seen))).code == 0


@each
def test_a_key_makes_a_repeated_command_one_wish(at, daemon, command):
    """The same key and command within a day is the same change again."""
    first = at(*line(command, "--key", "cron-4711", "--json"))
    again = at(*line(command, "--key", "cron-4711", "--json"))
    assert (first.code, again.code) == (0, 0)
    assert json.loads(first.out)["id"] == json.loads(again.out)["id"]
    ran = at(*line(command, "--key", "cron-4711", "--reason", "another"))
    assert (ran.code, "another request had that key" in ran.err) == (2, True)


@pytest.mark.parametrize("key", ["", "a b", "a\r\nHost: x", "x" * 201, "é"])
def test_what_cannot_be_a_key_is_wrong_usage(poold, daemon, key):
    """A key stands in a header: nothing else can be put there through it."""
    ran = poold("scale", "hello", "1", "--key", key)
    assert (ran.code, "is no key" in ran.err) == (2, True)
    assert daemon.fleet.changes() == ()


def test_the_revision_is_shown(at):
    """By ps, explain, status and host show, and it is the same everywhere."""
    seen = json.loads(at("explain", "hello", "--json").out)["revision"]
    assert json.loads(at("ps", "hello", "--json").out)["revisions"] == {"hello": seen}
    (pool,) = json.loads(at("status", "--json").out)["pools"]
    assert pool["revision"] == seen
    of_host = json.loads(at("host", "show", "a", "--json").out)["revision"]
    assert of_host > 0
    assert f"revision  {of_host}" in at("host", "show", "a").out
