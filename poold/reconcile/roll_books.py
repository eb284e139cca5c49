"""Writes down what was decided of rolls and holds, with the end of the change that wished for it.

In: book actions of a plan, within the transaction of whoever writes the books. Out: rows, events,
the trail of a roll that began by itself. It decides nothing.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from poold.agent.failpoints import failpoint
from poold.errors import Permanent
from poold.model.fleet import Pool
from poold.reconcile.actions import Learn, Release, Serve, TurnRoll
from poold.reconcile.news import News
from poold.reconcile.recorder import Outcome, Recorder
from poold.store import Roll, Store
from poold.store.calls import Remembered
from poold.store.rolls import at_home, begin_roll, in_service

LOG = logging.getLogger(__name__)
AUTO = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class RollBooks:
    """Writes for one loop."""

    store: Store
    news: News
    recorder: Recorder

    def write(self, pool: Pool, book: TurnRoll | Serve | Release | Learn) -> None:
        """Write one book action down; it is durable with the transaction around."""
        match book:
            case TurnRoll():
                self._turn(pool, book)
            case Serve(fingerprint, image_id, rolls):
                self.store.rolls.serve(pool.name, fingerprint, image_id)
                if rolls:
                    self._begin(pool, fingerprint, rolls)
            case Release(number):
                self.store.rolls.drop_hold(pool.name)
                self.news.released(pool.name, number)
            case Learn(numbers):
                self.store.rolls.learn(pool.name, pool.application, numbers)

    def _turn(self, pool: Pool, book: TurnRoll) -> None:
        turn, roll, text = book.turn, book.roll, book.text
        if turn == "finished":
            self.store.rolls.drop(pool.name)
            self._end(roll, text, None)
        elif turn == "dropped":
            self.store.rolls.drop(pool.name)
        else:
            self.store.rolls.put(roll)
        if turn == "paused":
            self._end(roll, text, _paused(roll))
        self.news.rolled(book)
        failpoint("roll.before_commit", turn)
        self.store.after_commit(lambda: failpoint("roll.written", turn))
        LOG.info(
            "%s: %s", pool.name, text,
            extra={"action": f"roll_{turn}", "pool": pool.name, "change": roll.change},
        )  # fmt: skip

    def _end(self, roll: Roll, text: str, problem: Permanent | None) -> None:
        change = self.store.change(roll.change)
        if change is None or change.state != "pending":
            return
        self.store.end_change(
            roll.change,
            "failed" if problem else "settled",
            progress=problem.message if problem else text,
            problem=problem.to_json() if problem else None,
        )
        outcome: Outcome = "failure" if problem else "success"
        self.recorder.change_ended(roll.pool, change.kind, outcome)

    def _begin(self, pool: Pool, fingerprint: str, reason: str) -> None:
        """Accept a roll that nobody asked for: the pool says so in its configuration."""
        usable = at_home(in_service(self.store.generations(pool.name), fingerprint, None), pool)
        change = begin_roll(
            self.store,
            pool=pool.name,
            kind="roll",
            target=usable[0] if usable else None,
            surge=pool.roll.surge,
            unavailable=pool.roll.unavailable,
            actor=AUTO,
            reason=reason,
            relieves=True,  # a full disk must not stop what the pool's other replicas need
        )
        self.store.calls.add(
            actor=AUTO,
            origin="daemon",
            operation="roll",
            path=f"/v1/pools/{pool.name}/roll",
            request={},
            pool=pool.name,
            reason=change.reason,
            key=None,
            answer=Remembered(fingerprint="", change=change.id, status=202),
        )
        failpoint("roll.before_commit", "auto")


def _paused(roll: Roll) -> Permanent:
    to = "" if roll.generation is None else f" to generation {roll.generation}"
    return Permanent(
        "roll.paused",
        f"cannot go on rolling {roll.pool}{to}: {roll.reason}",
        hint=f"poold roll {roll.pool} goes on, poold rollback {roll.pool} goes back",
    )
