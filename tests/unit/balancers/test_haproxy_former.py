"""A process that was reloaded away is not taken for gone at once."""

from __future__ import annotations

from poold.balancers.base import Server
from poold.balancers.haproxy.answers import Identity
from poold.balancers.haproxy.former import Former

OLD, NEW = Identity(11, 100), Identity(12, 200)
ONE, TWO = ("10.0.0.1", 1), ("10.0.0.1", 2)


def reloaded() -> Former:
    """Return what is known when another process answers, and lists nothing yet."""
    former = Former()
    former.look({ONE: "hello1", TWO: "hello2"})
    former.answered(OLD, {ONE: "hello1", TWO: "hello2"}, until=30)
    former.gone(0, None)
    former.look({})
    former.answered(NEW, {}, until=40)
    return former


def places(former: Former, *wanted: Server) -> set[tuple[str, int]]:
    """Return where the old process may still send requests."""
    return {(each.address, each.port) for each in former.shown(wanted) if each.leaving}


def test_one_process_leaves_nothing_behind() -> None:
    """What it does not list any more, nobody does."""
    former = Former()
    former.answered(OLD, {ONE: "hello1"}, until=30)
    former.look({})
    former.answered(OLD, {}, until=31)
    assert not former.lingers


def test_what_the_old_one_listed_is_shown_until_its_time_is_over() -> None:
    """Whoever is wanted is no news; a drain's time is enough."""
    former = reloaded()
    assert places(former) == {ONE, TWO}
    assert places(former, Server(name="hello1", address=ONE[0], port=ONE[1])) == {TWO}
    former.gone(39.9, None)
    assert former.lingers
    former.gone(40, None)
    assert not former.lingers


def test_a_master_knows_better() -> None:
    """The old process is gone when its master does not list it."""
    former = reloaded()
    former.gone(1, {11})
    assert places(former) == {ONE, TWO}
    former.gone(2, {13})
    assert not former.lingers


def test_a_reload_in_the_middle_of_a_call_is_seen() -> None:
    """What was listed before it in the same call counts as the old one's."""
    former = Former()
    former.answered(OLD, {ONE: "hello1"}, until=30)
    former.look({ONE: "hello1", TWO: "hello2"})
    former.look({})
    former.answered(NEW, {}, until=40)
    assert places(former) == {ONE, TWO}
