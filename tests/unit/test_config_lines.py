"""Line numbers of keys, in every way in which TOML can write them."""

from __future__ import annotations

from typing import Any

import pytest
import tomli
from hypothesis import given, strategies as st

from poold.config.lines import Lines, Place

SAMPLE = """\
top = '''
[fake]
'''
[hosts.a]
"strange key" = "a # no comment"
lite.rally.dotted = 1
list = [
  "one",
  # a comment, with commas,
  ["two", { deep = 2 }],
]
inline = { x = 1, y.z = "}",
  w = [1, 2],
}

[pools.hello.readiness]
kind = "tcp"

[pools.hello]
image = "i"
[[pools.hello.warmup]]
path = "/1"
[[pools.hello.warmup]]
path = "/2"
[pools.hello.warmup.headers]
Accept = "x"
[pools . "he.llo"]
port = 1979-05-27 07:32:00
basic = "esc \\" [x] "
ends = \"\"\"two quotes:\"\"\"\"\"
last = true
"""


@pytest.mark.parametrize(
    ("place", "line"),
    [
        (("top",), 1),
        (("hosts", "a"), 4),
        (("hosts", "a", "strange key"), 5),
        (("hosts", "a", "lite"), 6),
        (("hosts", "a", "lite", "rally", "dotted"), 6),
        (("hosts", "a", "list"), 7),
        (("hosts", "a", "list", 0), 8),
        (("hosts", "a", "list", 1), 10),
        (("hosts", "a", "list", 1, 1, "deep"), 10),
        (("hosts", "a", "inline", "y", "z"), 12),
        (("hosts", "a", "inline", "w", 1), 13),
        (("pools", "hello", "readiness", "kind"), 17),
        (("pools", "hello"), 19),
        (("pools", "hello", "image"), 20),
        (("pools", "hello", "warmup"), 21),
        (("pools", "hello", "warmup", 0, "path"), 22),
        (("pools", "hello", "warmup", 1), 23),
        (("pools", "hello", "warmup", 1, "path"), 24),
        (("pools", "hello", "warmup", 1, "headers", "Accept"), 26),
        (("pools", "he.llo", "port"), 28),
        (("pools", "he.llo", "last"), 31),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_finds_the_line_of_a_place(place: Place, line: int, end: str) -> None:
    """Each key, element and table is found where it is written, whatever surrounds it."""
    assert Lines(SAMPLE.replace("\n", end)).of(place) == line


def test_falls_back_to_what_is_around() -> None:
    """A key that is not there has the line of its table, a table that is not there the first."""
    lines = Lines("\n[hosts.a]\nport = 1\n")
    assert lines.of(("hosts", "a", "address")) == 2
    assert lines.of(("nowhere", "x")) == 1


@pytest.mark.parametrize("text", ["[", "a = [1, ", "a = {b = ", "= 1", "a 1", '"', "[[a", "a ="])
def test_survives_what_is_no_toml(text: str) -> None:
    """Text that no TOML reader takes has no lines, and raises nothing."""
    assert Lines(text).of(("a", "b", 0)) == 1


KEYS = st.text(min_size=1, max_size=4, alphabet="ab-1. \"'\\#=[]é\n")
SCALARS = st.one_of(
    st.integers(-9, 9),
    st.booleans(),
    st.text(max_size=6, alphabet="ab\"'\\#[]{},=\n é"),
    st.floats(allow_nan=False, allow_infinity=False),
)
TREES = st.dictionaries(
    KEYS,
    st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


@given(tree=TREES)
def test_knows_every_place_of_every_document(tree: dict[str, Any]) -> None:
    """Whatever tomli reads, each of its places has a line of its own that begins with it."""
    text = "".join(f"\n{_string(key)} = {_inline(value)}\n" for key, value in tree.items())
    assert tomli.loads(text) == tree
    lines = Lines(text)
    rows = text.split("\n")
    for number, key in enumerate(tree):
        line = lines.of((key,))
        assert rows[line - 1].startswith(_string(key)), number
        for place in _places(tree[key], (key,)):
            assert place in lines._offsets


def _places(value: Any, place: Place) -> list[Place]:
    inner: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return [place, *(deep for step, part in inner for deep in _places(part, (*place, step)))]


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_string(k)} = {_inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return _string(value) if isinstance(value, str) else repr(value)


def _string(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
