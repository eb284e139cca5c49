"""Alertmanager's webhook: what alerts ask for is done, each once.

Flows in: its parsed call. Flows out: what was done about each alert, and why.
"""

from __future__ import annotations

import re

from poold.api.alert_messages import (
    POOL,
    SCALE,
    SCALE_RESOLVED,
    Alert,
    AlertOutcome,
    AlertsRequest,
    AlertsView,
)
from poold.api.hooks import Asked, decide_for, held_up, wish_for
from poold.api.messages import check_name, one_line
from poold.api.ports import Ports
from poold.api.views import Answer, Call, pool_of
from poold.errors import Refused, Temporary
from poold.scaling import Decision

_ASKED = re.compile(r"([+-]?)(\d{1,6})")


async def alertmanager(ports: Ports, call: Call) -> Answer:
    """Do what alerts ask for, each once however often it is told.

    Where a pause after the last change holds all of them up they are refused for so long, and
    Alertmanager tries again; where it holds up some, they are done when they are told again.
    """
    asked: AlertsRequest = call.body
    done = tuple(_alert(ports, call, alert) for alert in asked.alerts)
    outcomes = {outcome.outcome for outcome, _ in done}
    if "held" in outcomes and not outcomes & {"scaled", "stays"}:
        raise _held_alerts([decision for _, decision in done if decision is not None])
    recorded = bool(outcomes & {"scaled", "stays"})
    return Answer(AlertsView(tuple(outcome for outcome, _ in done)), recorded=recorded)


def _alert(ports: Ports, call: Call, alert: Alert) -> tuple[AlertOutcome, Decision | None]:
    fingerprint = one_line(alert.fingerprint, 64)
    pool = alert.says(POOL)
    wish = alert.says(SCALE if alert.status == "firing" else SCALE_RESOLVED)
    if not pool or not wish:
        what = POOL if not pool else SCALE if alert.status == "firing" else SCALE_RESOLVED
        text = f"it has no annotation or label {what}"
        return AlertOutcome(fingerprint=fingerprint, outcome="ignored", text=text), None
    which = alert.fingerprint or repr(sorted(alert.labels.items()))
    identity = (which, alert.status, alert.starts_at)
    try:
        check_name(POOL, pool)
        asked = _asked(wish)
        name = pool_of(ports, pool)[0].name
        if ports.store.alerts.is_known(*identity):
            text = "it was acted on already"
            known = AlertOutcome(fingerprint=fingerprint, outcome="repeated", pool=name, text=text)
            return known, None
        decision = decide_for(ports, name, asked)
        if decision.wait_seconds:
            held = AlertOutcome(
                fingerprint=fingerprint, outcome="held", pool=name, text=decision.text
            )
            return held, decision
        change = None
        if decision.count != ports.control.count(name):
            title = one_line(alert.labels.get("alertname", "an alert"), 80)
            change = wish_for(ports, call, name, decision, f"{title} is {alert.status}")
    except (Refused, ValueError) as error:
        text = error.message if isinstance(error, Refused) else f"cannot use it: {error}"
        refused = AlertOutcome(
            fingerprint=fingerprint, outcome="refused", pool=pool[:63], text=one_line(text, 500)
        )
        return refused, None
    ports.store.alerts.acted_on(*identity)
    outcome = AlertOutcome(
        fingerprint=fingerprint,
        outcome="stays" if change is None else "scaled",
        pool=name,
        text=decision.text,
        change=change.id if change is not None else None,
    )
    return outcome, decision


def _asked(text: str) -> Asked:
    match = _ASKED.fullmatch(text.strip())
    if match is None or not text.isascii():
        raise ValueError(f'{one_line(text, 40)!r} is neither a number nor a difference like "+2"')
    number = int(match[2])
    if not match[1]:
        return Asked(count=number)
    return Asked(delta=number if match[1] == "+" else -number)


def _held_alerts(decisions: list[Decision]) -> Temporary:
    first = min(decisions, key=lambda decision: decision.wait_seconds)
    return held_up("what these alerts are about", first)
