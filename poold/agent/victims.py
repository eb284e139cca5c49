"""Whom the kernel ends first when memory runs out: what is paused, and nothing else of ours.

Flows in: the first process of a container. Flows out: /proc/<pid>/oom_score_adj of those in its
group. What an operator set to anything but the default is left as it is.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from poold.agent.oci.kernel import cgroup_of

_DEFAULT, _FIRST = "0", "1000"


def go_first(pid: int, *, yes: bool) -> None:
    """Have a container's processes ended before all others, or like any other; cannot fail."""
    old, new = (_DEFAULT, _FIRST) if yes else (_FIRST, _DEFAULT)
    for each in _group(pid):
        with contextlib.suppress(OSError):  # it ended; or the host does not let us
            score = Path(f"/proc/{each}/oom_score_adj")
            if score.read_text().strip() == old:
                score.write_text(new)


def _group(pid: int) -> list[str]:
    """Return the ids of all processes in the control group of one."""
    with contextlib.suppress(OSError):
        return (cgroup_of(pid) / "cgroup.procs").read_text().split() if pid else []
    return []
