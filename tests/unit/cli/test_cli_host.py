"""`poold host`: cordoned and fenced hosts from the command line, and how they are shown."""

from __future__ import annotations

import json


def test_a_host_is_cordoned_shown_and_uncordoned(poold):
    """The change says what it means, `poold hosts` shows the mark with who set it."""
    assert poold("host", "cordon", "b", "--reason", "kernel").code == 0
    assert "cordoned" in poold("hosts").out
    shown = json.loads(poold("hosts", "--json").out)["hosts"]
    assert {h["name"]: h["mark"] for h in shown} == {"a": "", "b": "cordoned"}
    assert "b is cordoned by test" in poold("status").out
    change = json.loads(poold("host", "uncordon", "b", "--json").out)
    assert (change["kind"], change["state"]) == ("uncordon", "settled")
    assert "cordoned" not in poold("hosts").out


def test_fencing_needs_to_be_sure(daemon, poold):
    """Up: refused. Away without --yes where nobody can be asked: refused. With it: done."""
    assert poold("host", "fence", "b", "--yes").code == 2
    daemon.fleet.away.add("b")
    refused = poold("host", "fence", "b")
    assert refused.code == 2
    assert "--yes" in refused.err
    assert poold("host", "fence", "b", "--yes").code == 0
    assert "fenced" in poold("hosts").out


def test_only_a_host_that_left_is_removed(daemon, poold):
    """A configured or unknown one is refused."""
    daemon.fleet.left.add("old")
    for name, code in (("a", 2), ("nowhere", 2), ("old", 0)):
        assert poold("host", "remove", name, "--yes").code == code
