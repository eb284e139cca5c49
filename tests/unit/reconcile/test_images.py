"""An image's name that means another image by now: what is served stays, until it is rolled."""

from __future__ import annotations

import pytest

from poold.errors import Permanent
from poold.model.fleet import HostName, RollSettings

A, B = HostName("a"), HostName("b")
OLD, NEW = "sha256:image", "sha256:next"
BROKEN = Permanent("criu.failed", "cannot restore it: the image does not come to life")


def served(fleet):
    """Return which generation each ready replica came up from, None for cold starts."""
    return {r.name: r.generation for r in fleet.world.replicas() if r.state == "ready"}


def images(fleet):
    """Return the image of each generation, by number."""
    return {g.number: g.manifest.image_id for g in fleet.store.generations("hello")}


def explained(fleet):
    because = fleet.loop.explain("hello").because
    return [one.text for one in because if one.state == "image-changed"]


def started_of(fleet):
    return {name: of for h in fleet.hosts.values() for name, of in h.started_of.items()}


async def scaled(fleet, count=2, **fields):
    fleet.change_pool(**fields)
    fleet.control.scale("hello", replicas=count, actor="test")
    await fleet.settle()
    assert set(served(fleet).values()) == {1}


def checkpoint(fleet):
    fleet.now += 1.0
    fleet.control.checkpoint("hello", actor="test")


def break_restores(fleet, count=8):
    for host in fleet.hosts.values():
        host.fail["restore"] = [BROKEN] * count


async def test_with_auto_a_generation_is_made_and_rolled_to(fleet):
    """As for a changed configuration: proven first, then a roll of nobody's, with its trail."""
    await scaled(fleet, roll=RollSettings(auto=True))
    fleet[A].retag(NEW)
    await fleet.until(lambda: set(served(fleet).values()) == {2}, rounds=300)
    await fleet.settle()
    assert images(fleet) == {1: OLD, 2: NEW}
    (roll,) = [c for c in fleet.store.changes() if c.kind == "roll"]
    assert (roll.actor, roll.state, roll.reason) == ("auto", "settled", "the image changed")
    (call,) = fleet.store.calls.newest(limit=10)
    assert (call.actor, call.change) == ("auto", roll.id)
    events = fleet.store.events.newest(limit=50)
    (changed,) = [event for event in events if event.kind == "image.changed"]
    assert changed.text == (
        "hello:1 means another image on a now (next) than generation 1 was made of (image):"
        " a generation of it is made, and rolled to"
    )
    await fleet.restart()
    await fleet.settle()
    assert len(fleet.did("build")) == 2
    assert explained(fleet) == []
    assert fleet.world.pools()[0].image_note == ""


async def test_without_auto_it_is_only_said(fleet):
    """In the explanation, for readers and as an event; nothing is built, nothing waits for it."""
    await scaled(fleet)
    fleet[A].retag(NEW)
    for _ in range(10):
        await fleet.step()
    assert served(fleet) == {"hello1": 1, "hello2": 1}
    assert len(fleet.did("build")) == 1
    (text,) = explained(fleet)
    assert text.endswith(": poold checkpoint hello, then poold roll hello")
    (status,) = fleet.world.pools()
    assert (status.image_note, status.sentence) == (text, "hello 2/2")
    assert fleet.loop.explain("hello").waits_for == ()
    kinds = [event.kind for event in fleet.store.events.newest(limit=50)]
    assert kinds.count("image.changed") == 1
    checkpoint(fleet)
    await fleet.settle()
    assert images(fleet) == {1: OLD, 2: NEW}
    assert served(fleet) == {"hello1": 1, "hello2": 1}, "a checkpoint alone replaces nothing"
    assert explained(fleet) == []


async def test_the_name_on_other_hosts_says_nothing(fleet):
    """Generations are made on the builder."""
    await scaled(fleet, roll=RollSettings(auto=True))
    fleet[B].retag(NEW)
    for _ in range(10):
        await fleet.step()
    assert explained(fleet) == []
    assert len(fleet.did("build")) == 1


async def test_an_image_that_lost_its_name_says_nothing(fleet):
    """Nothing could be made of it."""
    await scaled(fleet, roll=RollSettings(auto=True))
    fleet[A].unnamed.add(fleet[A].images.pop("hello:1"))
    for _ in range(10):
        await fleet.step()
    assert (explained(fleet), len(fleet.did("build"))) == ([], 1)


async def test_a_cold_start_is_of_the_current_generations_image(fleet):
    """On every host, though its name means another one on all; it is sent there by its id."""
    await scaled(fleet)
    fleet[A].retag(NEW)
    fleet[B].images["hello:1"] = NEW
    break_restores(fleet)
    fleet.control.scale("hello", replicas=4, actor="test")
    await fleet.settle()
    assert served(fleet) == {"hello1": 1, "hello2": 1, "hello3": None, "hello4": None}
    assert started_of(fleet) == {"hello3": OLD, "hello4": OLD}
    assert fleet[B].images["hello:1"] == NEW


async def test_without_that_image_a_replica_says_so_instead_of_coming_up_from_another(fleet):
    """The way out is a new generation."""
    await scaled(fleet, 1)
    fleet[A].images["hello:1"] = fleet[B].images["hello:1"] = NEW  # and the old one is gone
    break_restores(fleet)
    fleet.control.scale("hello", replicas=2, actor="test")
    await fleet.step()
    await fleet.until(lambda: fleet.replica("hello2").state == "failed")
    assert "cannot start of the image image" in fleet.replica("hello2").reason
    for host in fleet.hosts.values():
        host.fail.clear()
    checkpoint(fleet)
    await fleet.settle()
    assert fleet.replica("hello2").generation == 2


async def test_before_the_first_generation_all_hosts_have_the_builders_image(fleet):
    """Whatever the name means elsewhere."""
    fleet[B].images["hello:1"] = "sha256:stale"
    for host in fleet.hosts.values():
        host.fail["build"] = [Permanent("x", "cannot build")] * 9
    fleet.control.restore("hello", host=B, actor="test")
    await fleet.settle()
    assert fleet.replica("hello1").method == "cold"
    assert started_of(fleet) == {"hello1": OLD}


async def test_a_replica_does_not_come_up_from_a_generation_of_another_image(fleet):
    """Not even while the current one is on its way: of another image is another application."""
    await scaled(fleet, 2)
    there = next(name for name, host in fleet.where().items() if host == "b")
    fleet[A].retag(NEW)
    fleet[B].fail["write-blob"] = [Permanent("blob.trouble", "cannot receive")] * 99
    checkpoint(fleet)
    await fleet.until(lambda: len(fleet.store.generations("hello")) == 2)
    fleet[B].kill(there)
    await fleet.until(lambda: fleet.did("remove") == [there])
    await fleet.until(lambda: served(fleet).get(there, 1) != 1, rounds=200)
    assert served(fleet)[there] in (None, 2)
    assert started_of(fleet).get(there, NEW) == NEW


async def test_a_held_pool_does_not_react(fleet):
    """It was rolled back from that very image: its cold starts stay with the older one as well."""
    await scaled(fleet, roll=RollSettings(auto=True))
    fleet[A].retag(NEW)
    await fleet.until(lambda: set(served(fleet).values()) == {2}, rounds=300)
    await fleet.settle()
    back = fleet.rollout.rollback("hello", actor="test")
    await fleet.until(lambda: fleet.change(back).state == "settled", rounds=300)
    fleet[A].retag("sha256:third")
    break_restores(fleet)
    fleet.control.scale("hello", replicas=3, actor="test")
    await fleet.settle()
    assert served(fleet) == {"hello1": 1, "hello2": 1, "hello3": None}
    assert started_of(fleet) == {"hello3": OLD}
    assert (images(fleet), explained(fleet)) == ({1: OLD, 2: NEW}, [])
    for host in fleet.hosts.values():
        host.fail.clear()
    fleet.rollout.roll("hello", actor="test")
    await fleet.until(lambda: set(served(fleet).values()) == {3}, rounds=400)
    assert images(fleet)[3] == "sha256:third"


async def test_a_broken_image_leaves_everything_as_it_is(fleet):
    """It cannot be built, is tried again later and later, and what runs stays."""
    await scaled(fleet, roll=RollSettings(auto=True))
    fleet[A].fail["build"] = [Permanent("probe.deadline", "cannot get an answer from it")] * 2
    fleet[A].retag(NEW)
    for _ in range(10):
        await fleet.step()
    assert served(fleet) == {"hello1": 1, "hello2": 1}
    assert len(fleet[A].fail["build"]) == 1
    assert any("making a generation failed" in b.text for b in fleet.loop.explain("hello").because)
    fleet[A].retag("sha256:mended")
    await fleet.until(lambda: set(served(fleet).values()) == {2}, rounds=400)
    assert images(fleet) == {1: OLD, 2: "sha256:mended"}


async def test_a_failing_roll_to_a_new_image_pauses_and_a_mended_image_rolls_again(fleet):
    """The pause is not for ever: the next image gets its own roll."""
    await scaled(fleet, roll=RollSettings(surge=0, unavailable=1, auto=True))
    fleet[A].retag(NEW)
    await fleet.until(lambda: 2 in images(fleet))
    break_restores(fleet, 3)
    await fleet.until(lambda: "is paused" in fleet.world.sentence(), rounds=200)
    for host in fleet.hosts.values():
        host.fail.clear()
    await fleet.settle()
    assert sorted(served(fleet).values(), key=str) == [1, None]
    assert set(started_of(fleet).values()) == {NEW}, "it is the current generation's image"
    fleet[A].retag("sha256:mended")
    await fleet.until(lambda: set(served(fleet).values()) == {3}, rounds=400)
    await fleet.settle()
    assert [c.state for c in fleet.store.changes() if c.kind == "roll"] == ["settled", "failed"]


async def test_a_name_that_moves_while_a_generation_is_made_is_followed(fleet):
    """Whichever was built, the next one is of what the name means at last."""
    await scaled(fleet, roll=RollSettings(auto=True))
    for image in ("sha256:x", "sha256:y", "sha256:z"):
        fleet[A].retag(image)
        await fleet.step()
    await fleet.until(lambda: images(fleet).get(max(images(fleet))) == "sha256:z", rounds=400)
    await fleet.until(lambda: set(served(fleet).values()) == {max(images(fleet))}, rounds=400)
    await fleet.settle()
    count = len(fleet.did("build"))
    for _ in range(10):
        await fleet.step()
    assert len(fleet.did("build")) == count


async def test_a_store_of_an_older_poold_begins_no_roll(fleet):
    """It did not write down of which image it served."""
    await scaled(fleet)
    fleet[A].retag(NEW)
    checkpoint(fleet)
    await fleet.settle()
    fleet.change_pool(roll=RollSettings(auto=True))
    row = fleet.store._database._connection.execute("SELECT served FROM pools").fetchone()
    assert row["served"] == f"{fleet.pool.application.fingerprint()} next"
    fleet.store.rolls.serve("hello", fleet.pool.application.fingerprint())
    await fleet.restart()
    for _ in range(10):
        await fleet.step()
    assert served(fleet) == {"hello1": 1, "hello2": 1}
    assert fleet.store.see_pool("hello").served_image == "next"


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
async def test_another_class_of_hosts_gets_one_of_the_same_image(make_fleet, machine):
    """Its own generation is made of the builder's new image; on another machine of its own one."""
    fleet = make_fleet()
    fleet[A].facts = {"runtime": "runc 1.3.6", "machine": "x86_64"}
    fleet[B].facts = {"runtime": "crun 1.28", "machine": machine}
    if machine != "x86_64":
        fleet[B].images["hello:1"] = "sha256:of-arm"
    fleet.change_pool(roll=RollSettings(auto=True), keep_generations=4)
    fleet.control.scale("hello", replicas=2, actor="test")
    await fleet.settle()
    await fleet.until(lambda: len(images(fleet)) == 2)
    await fleet.settle()
    fleet[A].retag(NEW)
    arrived = len(images(fleet)) + (2 if machine == "x86_64" else 1)
    await fleet.until(lambda: len(images(fleet)) == arrived, rounds=400)
    await fleet.until(lambda: fleet.store.rolls.get("hello") is None, rounds=400)
    await fleet.settle()
    by_host = {r.host: images(fleet).get(r.generation) for r in fleet.world.replicas()}
    assert by_host == {"a": NEW, "b": NEW if machine == "x86_64" else "sha256:of-arm"}
