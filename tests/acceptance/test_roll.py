"""Tomcat on two hosts goes to new generations and back, while somebody counts who answers."""

from __future__ import annotations

import signal
import threading

import pytest

pytestmark = [pytest.mark.lab, pytest.mark.slow]

FOLDER = "/var/lib/poold-roll"
POOL = """
[pools.app]
image = "localhost/poold-lab/tomcat:latest"
port = 8080
hosts = ["a", "b"]
max = 5
stop_timeout_seconds = 1
keep_generations = 3
env = { VERSION = "1" }
roll = { surge = 1, unavailable = 0, auto = false }

[pools.app.readiness]
kind = "http"
path = "/hello/ready"

[[pools.app.warmup]]
path = "/hello/"
repeat = 2
"""


class Answering:
    """Counts all the time how many of a pool's replicas answer over HTTP."""

    def __init__(self, fleet, pool):
        self.fleet, self.pool = fleet, pool
        self.counts = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _watch(self):
        while not self._stop.wait(0.05):
            before = self._ready()
            urls = [f"http://{address}/hello/ready" for address in before.values()]
            found = self.fleet.lab.run(
                "sh", "-c", 'curl -s --max-time 5 "$@" || true', "curl", *urls
            )
            if before and before == self._ready():  # else they were not all there all the time
                self.counts.append(found.count("ok"))

    def _ready(self):
        replicas = self.fleet.client.replicas(self.pool)
        return {one.container_id: one.address for one in replicas if one.state == "ready"}


def reload(fleet, *changes):
    """Change the file and have it taken."""
    text = fleet.config.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    fleet.config.write_text(text)
    last = fleet.client.changes(limit=1)[0].id
    assert fleet.tell(signal.SIGHUP)
    fleet.until(
        "it is taken",
        lambda: [
            change
            for change in fleet.client.changes(limit=5)
            if change.id > last and (change.kind, change.state) == ("reload", "settled")
        ],
    )


def current(fleet, number):
    """Wait until a generation is the newest one and staged on both hosts."""

    def is_there():
        found = fleet.client.generations("app")[0]
        folder = f"{FOLDER}/generations/{found.digest.removeprefix('sha256:')}"
        staged = f"test -e {folder}/staged.json && echo yes || true"
        there = all("yes" in fleet.on(host, "sh", "-c", staged) for host in ("a", "b"))
        return folder if found.number == number and there else None

    return fleet.until(f"generation {number} is on both hosts", is_there)


def are_of(fleet, number, before):
    """See that the same names run on the same hosts, all of one generation."""
    after = fleet.ready("app", 3)
    assert {one.name: one.host for one in after} == before
    assert {one.generation for one in after} == {number}
    assert all(one.method == "restore" for one in after)


def test_a_pool_goes_to_new_generations_and_back(make):
    """Never fewer answer than are wished; a failure pauses; a dead daemon goes on; auto; back."""
    tables = [make.host("a", agent_dir=FOLDER), make.host("b", agent_dir=FOLDER), POOL]
    fleet = make.fleet("roll", tables, agent_dir=FOLDER)
    fleet.deadline_seconds = 120.0
    home = {one.name: one.host for one in fleet.scaled("app", 3)}

    # A changed environment; three replicas answer all the time.
    reload(fleet, ('"1"', '"2"'))
    current(fleet, 2)
    with Answering(fleet, "app") as answering:
        done = fleet.settled(fleet.client.roll("app", reason="version 2"))
    assert done.progress == "app 3/3, all of generation 2"
    assert len(answering.counts) > 3
    assert min(answering.counts) >= 3
    are_of(fleet, 2, home)

    # The archive is damaged on one host: paused, nothing that ran is touched. It is sent anew.
    reload(fleet, ('"2"', '"3"'))
    folder = current(fleet, 3)
    spoil = f"printf x | dd of={folder}/archive.tar bs=1 seek=5000000 conv=notrunc status=none"
    fleet.on("b", "sh", "-c", spoil)
    problem = fleet.failed(fleet.client.roll("app"))
    assert problem["code"] == "roll.paused"
    assert "archive.tar" in problem["message"]
    are_of(fleet, 2, home)
    (pool,) = fleet.client.pools()
    assert "is paused" in pool.sentence
    assert pool.roll is not None

    # Said again it goes on, and once more after kill -9 in the middle of it.
    change = fleet.client.roll("app")
    fleet.during(change, "rolling to generation 3: 1 of 3")
    fleet.kill()
    fleet.start()
    fleet.settled(change)
    are_of(fleet, 3, home)
    fleet.is_tidy()

    # Back, held there; and out of it by another configuration, which rolls by itself now.
    back = fleet.client.rollback("app")
    assert back.wish["to"] == 2
    fleet.settled(back)
    are_of(fleet, 2, home)
    assert fleet.client.pools()[0].held == 2
    reload(fleet, ('"3"', '"4"'), ("auto = false", "auto = true"))

    def all_are_new():
        return {one.generation for one in fleet.client.replicas("app")} == {4}

    fleet.until("all are of generation 4", all_are_new)
    are_of(fleet, 4, home)
    (auto,) = [change for change in fleet.client.changes(limit=50) if change.actor == "auto"]
    assert fleet.settled(auto).reason == "the application changed"
    assert fleet.client.pools()[0].held is None
    fleet.scaled("app", 0)
    fleet.is_tidy()
