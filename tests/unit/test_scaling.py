"""Who asks for a number gets it within the pool's limits, with the reason in words."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from poold.model.scaling import Scaling
from poold.scaling import Limits, decide

LIMITS = Limits(least=1, most=6, scaling=Scaling(step=2, in_after_seconds=60))


@pytest.mark.parametrize(
    ("asked", "idle", "count", "text"),
    [
        ({"count": 4}, None, 4, "4 asked for: 3 to 4"),
        ({"delta": 1}, 0.0, 4, "+1 asked for: 3 to 4"),
        ({"count": 3}, 0.0, 3, "3 asked for: it stays at 3"),
        ({"count": 9}, None, 5, "9 asked for: 3 to 5 (max is 6, step is 2)"),
        ({"count": 0}, None, 1, "0 asked for: 3 to 1 (min is 1)"),
        ({"delta": -1}, 60.0, 2, "-1 asked for: 3 to 2"),
        ({"delta": -1}, -5.0, 2, "-1 asked for: 3 to 2"),  # the clock was set back
        ({"delta": -1}, 20.0, 3, "-1 asked for: not in before 40 s, 60 s after the last change"),
    ],
)
def test_the_number_and_its_reason(asked, idle, count, text):
    """Bounds, then the step, then the pause after the last change."""
    decision = decide(LIMITS, wished=3, idle_seconds=idle, **asked)
    assert (decision.count, decision.text) == (count, text)
    assert (decision.wait_seconds > 0) == ("before" in text)


def test_what_stays_at_a_bound_says_which():
    """A wish that cannot go further is told why, and never waits."""
    decision = decide(LIMITS, wished=6, delta=1, idle_seconds=0)
    assert decision.text == "+1 asked for: it stays at 6 (max is 6)"
    assert decision.wait_seconds == 0


@given(
    wished=st.integers(0, 40),
    count=st.integers(0, 100),
    least=st.integers(0, 10),
    room=st.integers(0, 20),
    step=st.none() | st.integers(1, 5),
    idle=st.none() | st.floats(0, 200),
)
def test_asking_again_leads_to_the_number_within_bounds(wished, count, least, room, step, idle):
    """Step by step, never beyond a bound nor away from what was asked for."""
    limits = Limits(least=least, most=least + room, scaling=Scaling(step, 10, 20))
    target = min(max(count, least), least + room)
    for _ in range(101):
        decision = decide(limits, wished=wished, count=count, idle_seconds=None)
        assert abs(target - decision.count) <= abs(target - wished)
        assert step is None or abs(decision.count - wished) <= step
        wished = decision.count
    assert wished == target
    held = decide(limits, wished=wished, count=count, idle_seconds=idle)
    assert (held.count, held.wait_seconds) == (target, 0)
