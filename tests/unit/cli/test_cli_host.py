"""`poold host`: cordoned and fenced hosts from the command line, and how they are shown."""

from __future__ import annotations

import json
import time

from poold.errors import Permanent
from poold.model.fleet import Quarantine


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


def test_a_quarantined_generation_is_shown_and_pardoned(daemon, poold):
    """`host show` has the problem with CRIU's last lines; `pardon` ends it, for a pool or all."""
    problem = Permanent("criu.cpu", "cannot restore hello1: this CPU lacks it", detail="Error (x)")
    daemon.fleet.quarantine = [
        Quarantine(
            pool="hello", generation=3, digest="sha256:3", host="b", since=0.0,
            until=time.time() + 250.0, failures=2, problem=problem.to_json(),
        )
    ]  # fmt: skip
    shown = poold("host", "show", "b").out
    assert "generation 3 of hello is quarantined for 4 min more, after 2 failures:" in shown
    assert "this CPU lacks it" in shown
    assert "Error (x)" in shown
    assert "criu      4.2.1" in shown
    assert "quarantined" in poold("hosts").out
    assert "quarantined" not in poold("host", "show", "a").out
    (entry,) = json.loads(poold("host", "show", "b", "--json").out)["quarantine"]
    assert entry["problem"]["code"] == "criu.cpu"
    assert poold("host", "show", "nowhere").code == 2
    assert poold("host", "pardon", "b", "--pool", "other").code == 0
    assert "quarantined" in poold("hosts").out
    assert poold("host", "pardon", "b").code == 0
    assert "quarantined" not in poold("hosts").out
