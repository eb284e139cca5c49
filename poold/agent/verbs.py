"""Which request a verb on the wire stands for.

Flows in: nothing. Flows out: the table that both ends decode by. A request that is not in it
cannot be asked.
"""

from __future__ import annotations

from poold.agent.bench_messages import Measure
from poold.agent.messages import (
    Build,
    Capture,
    Discard,
    Examine,
    ExportImage,
    FindImage,
    Import,
    ImportImage,
    Logs,
    Observe,
    PrepareSpare,
    Remove,
    Request,
    Restore,
    Resume,
    Stage,
    Start,
    StatBlob,
)

REQUESTS: dict[str, type[Request[object]]] = {
    kind.verb: kind  # type: ignore[misc]
    for kind in (
        Observe, Start, Restore, Remove, Logs, Build, Import, Capture, Resume, Stage, Discard,
        StatBlob, FindImage, ExportImage, ImportImage, Examine, Measure, PrepareSpare,
    )
}  # fmt: skip
