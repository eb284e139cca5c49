"""Names: what hosts, pools and replicas may be called, and whether two patterns can make one name.

Pure text in, verdicts out. Names end up in container names, file names, labels and URLs.
"""

from __future__ import annotations

import re
from typing import Final

NAME_RULE: Final = "lower-case letters, digits and dashes, 41 at most, no dash in front"
NUMBER: Final = "{n}"
# Containers of checkpoints being made, and replicas that nobody wished for yet.
RESERVED_PREFIXES: Final = ("poold-build-", "poold-proof-", "poold-spare-")

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,40}")
_COUNTED = re.compile(r"[1-9][0-9]*")  # replicas are counted from 1, without leading zeros
_DIGITS = re.compile(r"[0-9]*")


def is_name(text: str) -> bool:
    """Return whether a host or pool may be called so."""
    return _NAME.fullmatch(text) is not None


def why_no_pattern(pattern: str) -> str:
    """Return why replicas cannot be named by the pattern, or nothing."""
    if pattern.count(NUMBER) != 1:
        return f'cannot number replicas: "{NUMBER}" must be in it, once'
    if not is_name(pattern.replace(NUMBER, "1")):
        return f"cannot be {pattern!r}: around {NUMBER} only {NAME_RULE}"
    if pattern.startswith(RESERVED_PREFIXES):
        return f"cannot start with {' or '.join(map(repr, RESERVED_PREFIXES))}: poold's own names"
    return ""


def common_name(one: str, other: str) -> str | None:
    """Return a name that both patterns make, or None: "hello{n}", "hello1{n}" -> "hello11"."""
    left = _common_name(one, other)
    return left if left is not None else _common_name(other, one)


def _common_name(one: str, other: str) -> str | None:
    """Decide it where the text before the number of `one` is not longer than that of `other`."""
    head, tail = one.split(NUMBER)
    other_head, other_tail = other.split(NUMBER)
    if not other_head.startswith(head):
        return None
    # Both make head + rest: rest is a number and `tail`, and also `extra`, a number, `other_tail`.
    extra = other_head[len(head) :]
    if other_tail.endswith(tail):
        # number = extra + other number + before
        before = other_tail[: len(other_tail) - len(tail)]
        if re.fullmatch(r"([1-9][0-9]*)?", extra) and _DIGITS.fullmatch(before):
            return f"{other_head}1{other_tail}"
        return None
    if not tail.endswith(other_tail):
        return None
    # number + after = extra + other number
    after = tail[: len(tail) - len(other_tail)]
    if re.fullmatch(r"([1-9][0-9]*)?", extra) and _DIGITS.fullmatch(after):
        return f"{head}{extra}1{tail}"
    # `extra` reaches past the first number: extra = number + shared, after = shared + other number
    for end in range(1, len(extra)):
        number, shared = extra[:end], extra[end:]
        if (
            _COUNTED.fullmatch(number)
            and after.startswith(shared)
            and _COUNTED.fullmatch(after[len(shared) :])
        ):
            return f"{head}{number}{tail}"
    return None
