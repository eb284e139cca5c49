"""Placement: spread, room, pins; deterministic whatever the order."""

from __future__ import annotations

from hypothesis import given, strategies as st

from poold.reconcile.place import Candidate, place
from poold.store import Wish


def wish(number, host=None):
    return Wish(name=f"hello{number}", pool="hello", host=host)


def test_replicas_spread_and_a_staged_host_breaks_ties():
    """Fewest of the pool first; equal ones prefer who has the generation; then the name."""
    a, b, c = (Candidate(host=h, room=9, staged=h == "b") for h in "abc")
    placed = place([wish(n) for n in (1, 2, 3, 4)], [a, b, c])
    assert placed.hosts == {"hello1": "b", "hello2": "a", "hello3": "c", "hello4": "b"}


def test_a_pin_is_served_before_the_room_is_given_away():
    """The last room of a host goes to the name that can go nowhere else."""
    one = Candidate(host="a", room=1)
    placed = place([wish(1), wish(2, "a")], [one])
    assert placed.hosts == {"hello2": "a"}
    assert placed.refused["hello1"].startswith("no room: a ")


def test_why_a_name_goes_nowhere_is_said():
    """No host, a pinned host that is away, a name that is taken."""
    taken = Candidate(host="a", room=1, taken=frozenset({"hello1"}))
    assert place([wish(1)], []).refused == {"hello1": "waiting for a host to come up"}
    assert place([wish(1, "b")], [taken]).refused == {"hello1": "waiting for host b"}
    assert "not ours has it on a" in place([wish(1)], [taken]).refused["hello1"]


def test_a_host_where_it_failed_is_the_last_choice():
    """Avoided is not forbidden."""
    avoided = Candidate(host="a", room=9, avoid=frozenset({"hello1"}))
    assert place([wish(1)], [avoided, Candidate(host="b", room=9, of_pool=5)]).hosts == {
        "hello1": "b"
    }
    assert place([wish(1)], [avoided]).hosts == {"hello1": "a"}


candidates = st.lists(
    st.builds(
        Candidate,
        host=st.sampled_from("abcd"),
        room=st.integers(-1, 4),
        of_pool=st.integers(0, 3),
        load=st.integers(0, 5),
        staged=st.booleans(),
        taken=st.frozensets(st.sampled_from(["hello1", "hello2"])),
        avoid=st.frozensets(st.sampled_from(["hello1", "hello2"])),
    ),
    unique_by=lambda c: c.host,
)
wishes = st.lists(
    st.builds(wish, st.integers(1, 12), st.sampled_from([None, "a", "b", "e"])),
    unique_by=lambda w: w.name,
)


@given(wishes, candidates, st.randoms())
def test_any_placement_keeps_room_pins_and_names_and_does_not_depend_on_order(ws, cs, random):
    """Each name is placed once or refused with a reason; no host is overfilled."""
    placed = place(ws, cs)
    assert set(placed.hosts) | set(placed.refused) == {w.name for w in ws}
    assert not set(placed.hosts) & set(placed.refused)
    by_host = {c.host: c for c in cs}
    for each in ws:
        host = placed.hosts.get(each.name)
        if host is not None:
            assert each.host in (None, host)
            assert each.name not in by_host[host].taken
    for candidate in cs:
        assert list(placed.hosts.values()).count(candidate.host) <= max(candidate.room, 0)
    shuffled_ws, shuffled_cs = list(ws), list(cs)
    random.shuffle(shuffled_ws)
    random.shuffle(shuffled_cs)
    assert place(shuffled_ws, shuffled_cs) == placed
