"""Anything may happen in any order: the fleet settles, and no promise is broken on the way."""

from __future__ import annotations

import os
import random

import pytest

from poold.errors import Permanent, Problem, Refused, Temporary

TROUBLES: list[Problem] = [
    Temporary("host.disk-full", "cannot write: the disk is full"),
    Temporary("action.interrupted", "cannot tell: the agent died"),
    Temporary("probe.deadline", "cannot reach it in time"),
    Permanent("criu.refused", "cannot restore: CRIU refuses"),
]
FALLIBLE = [
    "build",
    "restore",
    "start",
    "stage",
    "capture",
    "resume",
    "remove",
    "write-blob",
    "import-image",
    "discard",
    "observe",
]


class Storm:
    """Wishes, deaths, cuts, reboots, lost replies and kills of the daemon, by a seed."""

    def __init__(self, fleet, seed):
        self.fleet = fleet
        self.random = random.Random(seed)
        self.changes = []

    async def strike(self):
        """Do one thing."""
        what = self.random.choice(
            ["scale", "scale", "restore", "remove", "move", "move", "checkpoint", "die", "cut",
             "mend", "reboot", "fail", "lose", "kill daemon", "time"]
        )  # fmt: skip
        host = self.random.choice(list(self.fleet.hosts.values()))
        match what:
            case "die":
                if host.containers:
                    name = self.random.choice(sorted(host.containers))
                    if host.containers[name].ours:
                        host.kill(name)
            case "cut":
                host.up = False
            case "mend":
                host.up = True
            case "reboot":
                await host.close()
                foreign = {n: c for n, c in host.containers.items() if not c.ours}
                host.reboot()
                host.containers.update(foreign)
            case "fail":
                verb = self.random.choice(FALLIBLE)
                host.fail.setdefault(verb, []).append(self.random.choice(TROUBLES))
            case "lose":
                host.lose[self.random.choice(FALLIBLE)] += 1
            case "kill daemon":
                await self.fleet.restart()
            case "time":
                self.fleet.now += self.random.choice([0.5, 5.0, 100.0])
            case _:
                self.wish(what)

    def wish(self, what):
        """Wish for something; a refusal is an answer too."""
        control = self.fleet.control
        names = [w.name for w in self.fleet.store.wishes()]
        name = self.random.choice(names) if names else "hello1"
        try:
            match what:
                case "scale":
                    count = self.random.randint(0, 5)
                    change = control.scale("hello", replicas=count, actor="storm")
                case "restore":
                    host = self.random.choice([None, "a", "c"])  # b may have the name taken
                    change = control.restore("hello", host=host, actor="storm")
                case "remove":
                    change = control.remove(name, actor="storm")
                case "move":
                    change = control.move(name, to=self.random.choice("abc"), actor="storm")
                case _:
                    change = control.checkpoint("hello", actor="storm")
        except Refused:
            return
        self.changes.append(change)

    async def calm(self):
        """Let everything work again."""
        for host in self.fleet.hosts.values():
            host.up = True
            host.fail.clear()
            host.lose.clear()


SEEDS = int(os.environ.get("POOLD_STORM_SEEDS", "8"))  # more, when the loop was changed


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_after_any_storm_the_fleet_settles_and_promises_held(make_fleet, seed):
    """At most one live container a name after every step; foreign ones untouched; all settled."""
    fleet = make_fleet(hosts=("a", "b", "c"))
    foreign = fleet["b"].run_by_hand("hello2", ours=False)
    fleet["c"].images.clear()
    storm = Storm(fleet, seed)
    for _ in range(60):
        await storm.strike()
        await fleet.step()
        assert fleet["b"].containers["hello2"] == foreign
    await storm.calm()
    await fleet.settle()
    wishes = {w.name: w.host for w in fleet.store.wishes()}
    where = fleet.where()
    assert set(where) == set(wishes)
    assert all(pin in (None, where[name]) for name, pin in wishes.items())
    assert {fleet.change(c).state for c in storm.changes} <= {"settled", "failed"}
    assert {a.name: a.host for a in fleet.store.assignments()} == where
    assert fleet.store.moves() == ()
    current = fleet.store.generations("hello")[:1]
    await fleet.until(
        lambda: (
            not fleet.store.garbage("hello")
            and all(g.digest in host.staged for g in current for host in fleet.hosts.values())
        )
    )
