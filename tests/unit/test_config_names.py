"""What may be a name, and which patterns can make the same one."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from poold.config.names import common_name, is_name, why_no_pattern


@pytest.mark.parametrize("name", ["a", "0", "a-1", "x" * 41, "a-"])
def test_takes_names(name: str) -> None:
    """Short lower-case words with digits and dashes are names."""
    assert is_name(name)


@pytest.mark.parametrize("name", ["", "-a", "A", "a_b", "a.b", "a/b", "é", "x" * 42, "a\n", "a b"])
def test_refuses_other_names(name: str) -> None:
    """Anything that a path, a label or a URL would have to escape is none."""
    assert not is_name(name)


@pytest.mark.parametrize(
    ("one", "other", "name"),
    [
        ("hello{n}", "hello{n}", "hello1"),
        ("hello{n}", "hello1{n}", "hello11"),
        ("hello1{n}", "hello{n}", "hello11"),
        ("hello{n}", "hello-{n}", None),
        ("hello{n}", "hello0{n}", None),
        ("hello{n}", "hello{n}0", "hello10"),
        ("hello{n}", "hellox{n}", None),
        ("a{n}-2", "a1-{n}", "a1-2"),
        ("{n}", "{n}x", None),
        ("{n}1", "1{n}", "111"),
        ("{n}-1", "1-{n}", "1-1"),
        ("{n}-0", "1-{n}", None),
    ],
)
def test_finds_the_name_in_common(one: str, other: str, name: str | None) -> None:
    """Two patterns clash exactly when some numbers, without leading zeros, make the same name."""
    assert common_name(one, other) == name


PIECES = st.text(alphabet="012-", max_size=3)


@given(PIECES, PIECES, PIECES, PIECES)
def test_agrees_with_trying(head: str, tail: str, other_head: str, other_tail: str) -> None:
    """The verdict is the one that trying the first numbers gives, and its name is no invention."""
    one, other = f"{head}{{n}}{tail}", f"{other_head}{{n}}{other_tail}"
    numbers = [*range(1, 250), *range(1000, 1300), *range(2000, 2300)]
    names = {one.replace("{n}", str(number)) for number in numbers}
    clash = any(other.replace("{n}", str(number)) in names for number in numbers)
    found = common_name(one, other)
    assert common_name(other, one) is None if found is None else common_name(other, one)
    if clash:
        assert found is not None
    if found is not None:
        for before, after in ((head, tail), (other_head, other_tail)):
            number = found.removeprefix(before)[: len(found) - len(before) - len(after)]
            assert found == before + number + after
            assert number.isdigit()
            assert not number.startswith("0")


def test_reserves_the_names_of_checkpoints_being_made() -> None:
    """A replica must not be mistaken for a container that a build throws away."""
    assert why_no_pattern("poold-build-{n}")
    assert why_no_pattern("poold-proof-{n}")
    assert why_no_pattern("poold{n}") == ""
