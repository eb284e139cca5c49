"""What the loop's doings leave in the event log."""

from __future__ import annotations

from poold.model.fleet import HostName
from poold.store import Store

A, B = HostName("a"), HostName("b")


def told(fleet, *kinds):
    """Return kind, replica and host of the pool's and hosts' events, of these kinds if given."""
    return [
        (event.kind, event.replica, event.host)
        for event in fleet.store.events.after(0, limit=1000)
        if not kinds or event.kind in kinds
    ]


async def test_a_scale_out_and_in_is_told_in_order(fleet):
    """Accepted, proven, ready, settled; and removed after the next wish: each once, in order."""
    fleet.control.scale("hello", replicas=1, actor="test")
    await fleet.settle()
    fleet.control.scale("hello", replicas=0, actor="test")
    await fleet.settle()
    kinds = [kind for kind, _, _ in told(fleet) if not kind.startswith("host.")]
    assert kinds == [
        "change.accepted", "generation.proven", "replica.ready", "change.settled",
        "change.accepted", "replica.removed", "change.settled",
    ]  # fmt: skip
    ready = next(e for e in fleet.store.events.after(0, limit=99) if e.kind == "replica.ready")
    assert (ready.replica, ready.pool) == ("hello1", "hello")
    assert ready.data["generation"] == 1
    assert ready.text.startswith("hello1 is ready on ")


async def test_a_replica_that_died_is_lost_then_ready_again(fleet):
    """A death is told before what is done about it, once."""
    fleet.control.scale("hello", replicas=1, actor="test")
    await fleet.settle()
    where = HostName(fleet.where()["hello1"])
    fleet[where].kill("hello1")
    await fleet.until(lambda: fleet.ready() == ["hello1"] and not fleet.store.intents())
    await fleet.settle()
    kinds = ("replica.lost", "replica.removed", "replica.ready")
    assert [kind for kind, _, _ in told(fleet, *kinds)] == [
        "replica.ready", "replica.lost", "replica.removed", "replica.ready",
    ]  # fmt: skip


async def test_a_death_while_the_daemon_was_away_is_told(fleet):
    """The next life notices who ran in the last one and runs no more; who still runs is no news."""
    fleet.control.scale("hello", replicas=2, actor="test")
    await fleet.settle()
    await fleet.end()
    host = fleet[HostName(fleet.where()["hello2"])]
    del host.containers["hello2"]
    fleet.begin()
    await fleet.settle()
    assert [name for _, name, _ in told(fleet, "replica.lost")] == ["hello2"]
    assert sorted(name for _, name, _ in told(fleet, "replica.ready")) == [
        "hello1", "hello2", "hello2",
    ]  # fmt: skip


async def test_a_removed_replica_is_not_lost(fleet):
    """What was wished away is removed, never lost."""
    fleet.control.scale("hello", replicas=3, actor="test")
    await fleet.settle()
    fleet.control.remove("hello2", actor="test")
    await fleet.settle()
    assert told(fleet, "replica.lost") == []
    assert [name for _, name, _ in told(fleet, "replica.removed")] == ["hello2"]


async def test_a_move_is_told(fleet):
    """A moved replica is told with both hosts, and is not lost on the way."""
    fleet.control.scale("hello", replicas=1, actor="test")
    await fleet.settle()
    source = fleet.where()["hello1"]
    target = "b" if source == "a" else "a"
    fleet.control.move("hello1", to=target, actor="test")
    await fleet.settle()
    assert told(fleet, "replica.moved", "replica.lost") == [("replica.moved", "hello1", target)]


async def test_hosts_that_come_and_go_are_told_once(fleet):
    """However often a host is looked at, its coming and its going are one event each."""
    for _ in range(3):
        await fleet.look()
    fleet[B].up = False
    for _ in range(3):
        fleet.loop._news.hosts(fleet.world.hosts())
    hosts = [(kind, host) for kind, _, host in told(fleet, "host.up", "host.lost")]
    assert hosts == [("host.up", "a"), ("host.up", "b"), ("host.lost", "b")]


async def test_a_replica_that_is_found_is_adopted(make_fleet):
    """With an empty store, a replica that runs is told as found."""
    fleet = make_fleet(replicas=1)
    fleet[A].run_by_hand("hello1", ours=True)
    await fleet.settle()
    assert told(fleet, "replica.adopted", "replica.ready", "replica.lost") == [
        ("replica.adopted", "hello1", "a")
    ]


async def test_events_are_there_in_the_next_life(fleet):
    """The log outlives the daemon."""
    fleet.control.scale("hello", replicas=1, actor="test")
    await fleet.settle()
    before = told(fleet)
    fleet.store.close()
    fleet.store = Store(fleet.state_dir, clock=lambda: fleet.now)
    assert told(fleet) == before
