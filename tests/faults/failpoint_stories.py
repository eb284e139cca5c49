"""What has to happen for each durable step to be reached: the cases of the failpoints' sweep.

Flows in: nothing. Flows out: for each step a wish, or what else leads there: a host that is dead, a
configuration that changed, a restore that fails, another death right before.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

from folder_engine import REFUSES
from folder_fleet import PATIENCE_SECONDS, Fleet

from poold.store import Store, Wish

# Failpoints by the wish during which they are reached for the first time.
SCALE_OUT = (
    "wish.before_commit/scale", "wish.accepted/scale", "books.before_commit/FirstWish",
    "books.before_commit/Introduce", "books.before_commit/Serve", "action.recorded/export-image",
    "books.written", "intent.before/build", "intent.written/build", "action.begun/build",
    "container.created", "build.frozen", "build.sealed", "build.proven",
    "generation.before_rename", "generation.renamed", "action.before_recorded/build",
    "action.recorded/build", "outcome.received/build", "fold.before_commit/build",
    "outcome.folded/build", "blob.before_rename", "blob.renamed", "intent.written/import-image",
    "action.recorded/import-image", "intent.written/stage", "generation.unpacked",
    "generation.before_mark", "action.recorded/stage", "outcome.folded/stage",
    "assignment.written", "intent.before/restore", "intent.written/restore",
    "action.begun/restore", "container.created/hello2", "replica.before_record/hello2",
    "replica.recorded/hello2", "action.before_recorded/restore", "action.recorded/restore",
    "outcome.received/restore", "fold.before_commit/restore", "outcome.folded/restore",
    "change.before_end/scale", "change.ended/scale",
)  # fmt: skip
MOVE = (
    "wish.before_commit/move", "wish.accepted/move", "move.before_step/capture",
    "move.step/capture", "action.begun/capture", "capture.marked", "capture.frozen",
    "capture.admitted", "action.recorded/capture", "move.before_step/send", "move.step/send",
    "move.before_step/restore", "move.step/restore", "container.created/hello1",
    "replica.before_record/hello1", "replica.recorded/hello1",
    "move.before_step/forget", "move.before_flip", "move.step/forget", "container.removed/hello1",
    "move.before_step/Ended", "move.before_end", "move.step/Ended", "intent.written/discard",
    "generation.unmarked", "action.recorded/discard", "fold.before_commit/discard",
)  # fmt: skip
REMOVAL = (
    "wish.before_commit/remove", "wish.accepted/remove", "intent.before/remove",
    "intent.written/remove", "container.removed/hello2", "action.recorded/remove",
    "outcome.received/remove", "outcome.folded/remove", "books.before_commit/Forget",
    "change.before_end/remove",
)  # fmt: skip
RENEWAL = ("wish.before_commit/checkpoint", "wish.accepted/checkpoint", "change.ended/checkpoint")
RESTORE = ("wish.before_commit/restore", "wish.accepted/restore", "change.ended/restore")
ROLLBACK = ("wish.before_commit/rollback", "wish.accepted/rollback")
ROLL = (
    "wish.before_commit/roll", "wish.accepted/roll", "roll.before_commit/aimed",
    "roll.written/aimed", "roll.before_commit/surged", "roll.written/surged",
    "container.created/hello4", "roll.before_commit/replacing", "roll.written/replacing",
    "container.removed/hello1", "container.created/hello1", "roll.before_commit/replaced",
    "roll.written/replaced", "roll.before_commit/relieved", "roll.written/relieved",
    "container.removed/hello4", "roll.before_commit/finished", "roll.written/finished",
    "books.before_commit/TurnRoll", "roll.before_commit/left", "books.before_commit/Retire",
)  # fmt: skip
# What the daemon does by itself where spares are wished, and what a wish does where there are some.
SPARE = (
    "intent.before/prepare-spare", "intent.written/prepare-spare", "action.begun/prepare-spare",
    "spare.ready", "spare.frozen", "action.before_recorded/prepare-spare",
    "action.recorded/prepare-spare", "outcome.received/prepare-spare",
    "outcome.folded/prepare-spare",
)  # fmt: skip
CLAIM = (
    "intent.written/restore", "action.begun/restore", "spare.claiming", "spare.renamed",
    "spare.thawed", "replica.before_record/hello4", "replica.recorded/hello4", "spare.forgotten",
    "action.before_recorded/restore", "action.recorded/restore", "outcome.received/restore",
    "fold.before_commit/restore", "outcome.folded/restore",
)  # fmt: skip


def scale_out(client):
    """Wish for the first three replicas: one is built for, sent for and restored."""
    return client.scale("hello", replicas=3)


def move(client):
    """Wish for hello1 to go to the other host."""
    (there,) = (one.host for one in client.replicas() if one.name == "hello1")
    return client.move("hello1", to="b" if there == "a" else "a")


def removal(client):
    """Wish for hello2 to go."""
    return client.remove("hello2")


def renewal(client):
    """Wish for a new generation."""
    return client.checkpoint("hello")


def roll(client):
    """Wish for all replicas to be of the current generation."""
    return client.roll("hello")


def one_more(client):
    """Wish for one more, whichever."""
    return client.restore("hello")


def rollback(client):
    """Wish for the generation before, of which all replicas are still."""
    return client.rollback("hello")


STORIES = {
    **dict.fromkeys(SCALE_OUT, scale_out),
    **dict.fromkeys(MOVE, move),
    **dict.fromkeys(REMOVAL, removal),
    **dict.fromkeys(RENEWAL, renewal),
    **dict.fromkeys(RESTORE, one_more),
    **dict.fromkeys(ROLLBACK, rollback),
    **dict.fromkeys(ROLL, roll),
}


# -- what more than one wish leads to -------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Rare:
    """A way to a step: from a fleet at rest, something done before the start and a deed after it.

    `after` are steps to die at before; `between` is done after such a death. At least `kept` of the
    replicas must be the very same afterwards, and `holds` says what else must be.
    """

    like: str = "template"
    before: Callable[[Fleet], None] = lambda _: None
    deed: Callable[[Fleet], None] = lambda _: None
    after: tuple[str, ...] = ()
    between: Callable[[Fleet], None] = lambda _: None
    kept: int = 3
    holds: Callable[[Fleet], bool] = lambda _: True


def told(wish) -> Callable[[Fleet], None]:
    """Return a deed that wishes."""
    return lambda fleet: fleet.tell(wish)


def _cordon_and_back(fleet: Fleet) -> None:
    fleet.tell(lambda client: client.cordon("a"))
    fleet.tell(lambda client: client.uncordon("a"))


def _marked(mark: str) -> Callable[[Fleet], bool]:
    return lambda fleet: {h.name: h.mark for h in fleet.client.hosts()}["a"] == mark


def b_is_dead(fleet: Fleet) -> None:
    """Take host b away: nothing runs there any more, and its agent cannot be had."""
    for box in (fleet.folder / "b" / "containers").glob("*.json"):
        box.unlink()
    run = fleet.folder / "b" / "run"
    shutil.rmtree(run, ignore_errors=True)
    run.touch()
    fleet.away = {"b"}


def b_left(fleet: Fleet) -> None:
    """Take host b out of the configuration as well."""
    b_is_dead(fleet)
    text = fleet.config.read_text()
    head, _, rest = text.partition("[hosts.b]")
    _, _, pool = rest.partition("[pools.hello]")
    fleet.config.write_text(head + "[pools.hello]" + pool.replace('["a", "b"]', '["a"]'))


def all_on_a(fleet: Fleet) -> bool:
    """Say whether every replica is ready on host a."""
    found = fleet.client.replicas()
    return len(found) == 3 and {(one.host, one.state) for one in found} == {("a", "ready")}


def another_application(fleet: Fleet, more: str = "") -> None:
    """Configure the pool otherwise."""
    fleet.config.write_text(fleet.config.read_text().replace("port = 8080", "port = 8081") + more)


def rolls_by_itself(fleet: Fleet) -> None:
    """Configure it otherwise, and have it rolled to."""
    another_application(fleet, "\n[pools.hello.roll]\nauto = true\n")


def store_is_lost(fleet: Fleet) -> None:
    """Delete the database of generations that were sealed; the key is there still."""
    folders = [fleet.folder / host / "agent" / "generations" for host in ("a", "b")]
    fleet.start()
    assert fleet.until(
        lambda: all((each / "seal.json").exists() for f in folders for each in f.iterdir()),
        PATIENCE_SECONDS,
    )
    fleet.stop()
    for path in (fleet.folder / "state").glob("poold.sqlite3*"):
        path.unlink()
    fleet.baseline, fleet.accepted = None, []


def same_as_before(fleet: Fleet) -> bool:
    """Say whether all replicas are the very ones of the fleet that this one was copied from."""
    ids = lambda replicas: {one.name: one.container_id for one in replicas}  # noqa: E731
    return ids(fleet.rest.replicas) == ids(fleet.client.replicas())


def a_strange_generation(fleet: Fleet) -> None:
    """Leave a generation on host a that nobody told of."""
    folder = fleet.folder / "a" / "agent" / "generations"
    (known,) = folder.iterdir()
    manifest = json.loads((known / "manifest.json").read_text())
    manifest["created_at"] += 1
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    strange = folder / hashlib.sha256(text.encode()).hexdigest()
    strange.mkdir(mode=0o700)
    shutil.copy2(known / "archive.tar", strange / "archive.tar")
    (strange / "manifest.json").write_text(text)
    (strange / "manifest.json").chmod(0o600)


def restores_fail(fleet: Fleet) -> None:
    """Have every restore fail on both hosts."""
    for host in ("a", "b"):
        (fleet.folder / host / REFUSES).touch()


def restores_work(fleet: Fleet) -> None:
    """Have them work again."""
    for host in ("a", "b"):
        (fleet.folder / host / REFUSES).unlink()


def b_was_another(fleet: Fleet) -> None:
    """Let restores work, on hosts that rebooted since they failed."""
    restores_work(fleet)
    _write(fleet, 'UPDATE quarantine SET found_with = \'{"boot": "earlier"}\'')


def older_poold(fleet: Fleet) -> None:
    """Have the store say of no generation what it was made of."""
    _write(fleet, "UPDATE generations SET application = NULL")


def _write(fleet: Fleet, sql: str) -> None:
    with sqlite3.connect(fleet.folder / "state" / "poold.sqlite3") as connection:
        connection.execute(sql)
    connection.close()


def is_paused(fleet: Fleet) -> bool:
    """Say whether the roll is paused."""
    (pool,) = fleet.client.pools()
    return pool.roll is not None and pool.roll.state == "paused"


def rolls_not(fleet: Fleet) -> bool:
    """Say whether no roll is left."""
    return fleet.client.pools()[0].roll is None


def all_of(generation: int) -> Callable[[Fleet], bool]:
    """Return whether all replicas are of a generation."""
    return lambda fleet: {one.generation for one in fleet.client.replicas()} == {generation}


def a_fourth_is_wished(fleet: Fleet) -> None:
    """Accept, for a daemon that is dead, a wish for the extra replica of its roll."""
    store = Store(fleet.folder / "state")
    names = [f"hello{number}" for number in range(1, 5)]
    with store.transaction():
        store.put_wish(Wish(name=names[-1], pool="hello"))
        wish = {"replicas": 4, "names": names, "removed": []}
        store.accept(pool="hello", kind="scale", wish=wish, actor="test", reason="")
    store.close()


def hangup(fleet: Fleet) -> None:
    """Have it read its configuration again."""
    another = fleet.config.read_text().replace("keep_generations = 1", "keep_generations = 2")
    fleet.config.write_text(another)
    os.kill(fleet.process.pid, signal.SIGHUP)


_FENCE = Rare(
    before=b_is_dead, deed=told(lambda c: c.fence("b", confirmed=True)), kept=1, holds=all_on_a
)
_REMOVE = Rare(
    before=b_left, deed=told(lambda c: c.remove_host("b", confirmed=True)), kept=1, holds=all_on_a
)
_CORDON = Rare(deed=told(lambda c: c.cordon("a")), holds=_marked("cordoned"))
_UNCORDON = Rare(deed=_cordon_and_back, holds=_marked(""))
_PARDON = Rare(like="paused", deed=told(lambda c: c.pardon("a")))
_IMPORT = Rare(deed=told(lambda c: c.import_archive("hello", file="/nowhere.tar")))  # it fails
_PAUSE = Rare(
    like="renewed", before=restores_fail, deed=told(roll), kept=0,
    holds=lambda fleet: is_paused(fleet) and same_as_before(fleet),
)  # fmt: skip
_COLD = Rare(before=restores_fail, deed=told(one_more))
_DROP = Rare(like="paused", before=restores_work, deed=told(renewal), holds=rolls_not)
_THAW = Rare(deed=told(move), after=("capture.frozen",), kept=2)
_LOST = Rare(before=store_is_lost, kept=0, holds=same_as_before)
RARE = {
    "wish.before_commit/cordon": _CORDON,
    "wish.accepted/cordon": _CORDON,
    "wish.before_commit/uncordon": _UNCORDON,
    "wish.accepted/uncordon": _UNCORDON,
    "wish.before_commit/fence": _FENCE,
    "wish.accepted/fence": _FENCE,
    "wish.before_commit/remove-host": _REMOVE,
    "wish.accepted/remove-host": _REMOVE,
    "wish.before_commit/pardon": _PARDON,
    "wish.accepted/pardon": _PARDON,
    "wish.before_commit/import": _IMPORT,
    "wish.accepted/import": _IMPORT,
    "wish.before_commit/reload": Rare(deed=hangup),
    "wish.accepted/reload": Rare(deed=hangup),
    "books.before_commit/Adopt": _LOST,
    "books.before_commit/Disown": Rare(before=a_strange_generation),
    "books.before_commit/Learn": Rare(before=older_poold),
    "books.before_commit/Pardon": Rare(like="paused", before=b_was_another),
    "books.before_commit/Release": Rare(like="held", before=another_application),
    "roll.before_commit/auto": Rare(before=rolls_by_itself, kept=0, holds=all_of(2)),
    "roll.before_commit/paused": _PAUSE,
    "roll.written/paused": _PAUSE,
    "fold.before_commit/restore-failed": _COLD,
    "action.recorded/start": _COLD,
    "roll.before_commit/dropped": _DROP,
    "roll.before_commit/kept": Rare(
        like="renewed", deed=told(roll), after=("roll.written/surged",), kept=0,
        between=a_fourth_is_wished, holds=all_of(2),
    ),
    "resume.thawed": _THAW,
    "action.recorded/resume": _THAW,
}  # fmt: skip
