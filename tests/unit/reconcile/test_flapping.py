"""A host that comes and goes gets nothing new for a while that grows."""

from __future__ import annotations

from hypothesis import given, strategies as st

from poold.reconcile.flapping import (
    HOLD_BASE_SECONDS,
    HOLD_CAP_SECONDS,
    LOSSES,
    QUIET_SECONDS,
    WINDOW_SECONDS,
    Steadiness,
)


def after(*moments):
    steadiness = Steadiness()
    for moment in moments:
        steadiness = steadiness.lost(moment)
    return steadiness


def test_a_loss_now_and_then_is_not_flapping():
    """One reboot, or one an hour, holds nothing back."""
    assert not after(10.0).holds(10.0)
    assert not after(*(3600.0 * n for n in range(9))).holds(3600.0 * 8)


def test_three_losses_within_a_minute_are_and_the_wait_doubles():
    """The first excess holds for the base, the next for twice that, and the sentence says so."""
    once = after(0.0, 10.0, 20.0)
    assert once.holds(20.0)
    assert once.until == 20.0 + HOLD_BASE_SECONDS
    assert not once.holds(once.until)
    again = once.lost(30.0)
    assert again.until == 30.0 + 2 * HOLD_BASE_SECONDS
    assert again.sentence("b") == (
        "b is flapping: it was lost 4 times within a minute, nothing new is placed there for 60 s"
    )


def test_after_a_long_quiet_all_is_forgiven():
    """The wait begins at the base again."""
    bad = after(*(float(n) for n in range(10)))
    assert bad.until <= 9.0 + HOLD_CAP_SECONDS
    later = 10.0 + QUIET_SECONDS
    assert after_all(bad, later, later + 1, later + 2).until == later + 2 + HOLD_BASE_SECONDS


def after_all(steadiness, *moments):
    for moment in moments:
        steadiness = steadiness.lost(moment)
    return steadiness


@given(st.lists(st.floats(0, 4000), max_size=40).map(sorted))
def test_whenever_it_is_lost_the_wait_is_bounded_and_never_shrinks(moments):
    """It holds only after so many losses, ends by itself, and no loss makes it end sooner."""
    steadiness, before = Steadiness(), 0.0
    for count, moment in enumerate(moments, 1):
        steadiness = steadiness.lost(moment)
        within = [m for m in moments[:count] if moment - m < WINDOW_SECONDS]
        assert moment >= before
        assert steadiness.until <= moment + HOLD_CAP_SECONDS
        if len(within) >= LOSSES and moment - moments[0] <= QUIET_SECONDS:
            assert steadiness.holds(moment)
        before = moment
