"""What Alertmanager sends and gets.

Flows in: JSON of its webhook; fields that poold does not need are let pass. Flows out: values for
the encoder and for the OpenAPI document.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from poold.model.fleet import ChangeId

POOL, SCALE, SCALE_RESOLVED = "poold_pool", "poold_scale", "poold_scale_resolved"


class Alert(Struct, frozen=True, kw_only=True):
    """One alert of Alertmanager's; its annotations (or labels) say what is to be done.

    `poold_pool` is the pool, `poold_scale` what is wished while it fires ("+2", "-1" or "6"),
    `poold_scale_resolved` what is wished when it does not any more.
    """

    status: Literal["firing", "resolved"]
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    fingerprint: str = ""
    starts_at: str = field(name="startsAt", default="")

    def says(self, name: str) -> str:
        """Return an annotation, or else a label."""
        return self.annotations.get(name, "") or self.labels.get(name, "")


class AlertsRequest(Struct, frozen=True, kw_only=True):
    """Alertmanager's webhook, version 4."""

    alerts: Annotated[tuple[Alert, ...], Meta(max_length=10_000)]


class AlertOutcome(Struct, frozen=True, kw_only=True):
    """What was done about one alert, and why."""

    fingerprint: str
    outcome: Literal["scaled", "stays", "repeated", "held", "ignored", "refused"]
    text: str
    pool: str = ""
    change: ChangeId | None = None


class AlertsView(Struct, frozen=True):
    """What was done about each alert, in their order."""

    alerts: tuple[AlertOutcome, ...]
