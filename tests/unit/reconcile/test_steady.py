"""The clock for waiting follows the wall clock, but not its jumps."""

from __future__ import annotations

import pytest

from poold.reconcile.steady import SteadyClock


class Clocks:
    """A wall clock that can be set, and what really passes."""

    def __init__(self):
        self.passed, self.set_by = 0.0, 0.0
        self.steady = SteadyClock(lambda: 1000.0 + self.passed + self.set_by, lambda: self.passed)

    def go(self, seconds):
        self.passed += seconds
        return self.steady() - 1000.0


def test_it_is_the_wall_clock():
    """Nobody sets it: both are the same."""
    clocks = Clocks()
    assert [clocks.go(1.5), clocks.go(0.0), clocks.go(100.0)] == [1.5, 1.5, 101.5]


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_a_jump_is_caught_up_with_slowly(jump):
    """A second stays between half of one and one and a half; two hours later they agree."""
    clocks = Clocks()
    clocks.go(10.0)
    clocks.set_by = jump
    assert clocks.steady() == 1010.0
    assert clocks.go(1.0) == 11.0 + (0.5 if jump > 0 else -0.5)
    for _ in range(7200):
        before = clocks.steady()
        clocks.go(1.0)
        assert clocks.steady() > before
    assert clocks.steady() == pytest.approx(1000.0 + clocks.passed + jump)


def test_it_goes_on_from_what_an_earlier_life_wrote():
    """With a clock that is behind nothing new is older than what is there; it is slow meanwhile."""
    clocks = Clocks()
    clocks.steady.not_before(1100.0)
    assert [clocks.go(0.0), clocks.go(10.0)] == [100.0, 105.0]
    clocks.steady.not_before(900.0)
    assert clocks.go(0.0) == 105.0
    for _ in range(200):
        clocks.go(1.0)
    assert clocks.steady() == pytest.approx(1000.0 + clocks.passed)
