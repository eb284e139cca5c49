"""What becomes of a move when one of its hosts is declared dead."""

from __future__ import annotations

from hypothesis import given, strategies as st

from poold.reconcile.move import Ended, after_fence
from poold.store import Move

STEPS = ("image", "capture", "send", "restore", "forget", "undo", "thaw")


@given(st.sampled_from(STEPS), st.frozensets(st.sampled_from("abc")))
def test_it_ends_or_goes_on_where_somebody_lives(step, fenced):
    """Nothing is asked of a dead host but what ends by itself; the source is never left frozen."""
    move = Move(
        name="hello1", pool="hello", change=1, source="a", target="b", step=step, action="m"
    )
    for _ in STEPS:
        following = after_fence(move, fenced)
        if following is None:
            break
        if isinstance(following, Ended):
            assert following.problem is not None
            assert "a" in fenced or step == "image"  # else the source has to be thawed first
            return
        move = following
    else:
        raise AssertionError("it goes round in circles")
    if not fenced & {"a", "b"}:
        assert move.step == step
    if "a" in fenced:
        assert move.step in ("restore", "undo", "forget")  # of the target, and what ends by itself
    if "b" in fenced:
        assert move.step in ("capture", "thaw", "forget")  # of the source
        assert move.step != "thaw" or step == "thaw" or move.problem is not None
