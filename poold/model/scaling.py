"""How far and how often others may scale a pool. Standard library only, Python 3.9."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional


@dataclass(frozen=True)
class Scaling:
    """What a hook may do to a pool, within its `min` and `max`; an operator's wish is not held up.

    `step`: so many replicas more or fewer at once, None for any number. After the last change of
    the number the next waits for `out_after_seconds` upwards and `in_after_seconds` downwards.
    """

    step: Optional[int] = None
    out_after_seconds: float = 0.0
    in_after_seconds: float = 60.0
