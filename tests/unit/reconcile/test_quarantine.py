"""Generations that failed on a host are not tried there by other names, for a while."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from poold.errors import Permanent, Refused, Temporary
from poold.model.application import Application
from poold.model.fleet import Generation, Manifest
from poold.reconcile.quarantine import CAP_SECONDS, blames_generation, quarantined

BROKEN = Permanent(
    "criu.restore-failed", "cannot restore hello1: CRIU says no", detail="Error (cr): no\nno"
)


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (BROKEN, True),
        (Permanent("criu.cpu", "cannot restore"), True),
        (Permanent("replica.exited", "cannot restore: it ended"), True),
        (Temporary("criu.live-connection", "cannot"), False),
        (Permanent("probe.deadline", "cannot: no answer in time"), False),
        (Temporary("probe.deadline", "cannot: no answer in time"), False),
        (Permanent("hook.failed", "cannot"), False),
        (Permanent("volume.missing", "cannot"), False),
        (Permanent("generation.damaged", "cannot"), False),
        (Temporary("host.disk-full", "cannot"), False),
        (Refused("replica.foreign-name", "cannot"), False),
    ],
)
def test_only_what_says_something_of_the_generation_blames_it(problem, expected):
    """CRIU's own word does, a slow probe or a full disk does not."""
    assert blames_generation(problem) is expected


GENERATION = Generation(
    "hello", 3, "sha256:3",
    Manifest(
        pool="hello", build="b", fingerprint=Application(image="i", port=1).fingerprint(),
        image="i", image_id="i", archive_sha256="", archive_bytes=1, packed_sha256="",
        packed_bytes=1, engine="", runtime="", criu="", kernel="", machine="", cpu_flags=(),
        created_at=0.0,
    ), "a", 0.0,
)  # fmt: skip


@given(st.lists(st.floats(0, 100_000), min_size=1, max_size=30))
def test_the_wait_doubles_up_to_a_bound(pauses):
    """Each failure that began after the last one waits longer, six hours at most."""
    now, before, waits = 1000.0, None, []
    for pause in pauses:
        now += pause + 1.0
        entry = quarantined(
            GENERATION, "b", BROKEN, before=before, begun_at=now - 0.5, now=now, found_with={}
        )
        waits.append(round(entry.until - now))
        before = entry
    assert waits[0] == 300
    assert waits == sorted(waits)
    assert max(waits) <= CAP_SECONDS
    assert before.failures == len(pauses)


async def cold_beside_a_broken_generation(fleet, replicas=1):
    """hello1 on b came up cold, because its restore failed."""
    fleet.control.checkpoint("hello", actor="t")
    await fleet.settle()
    fleet["b"].fail["restore"] = [BROKEN]
    for _ in range(replicas):
        fleet.control.restore("hello", host="b", actor="t")
        await fleet.settle()


async def test_the_other_names_step_down_at_once(fleet):
    """One restore fails; the next replica on that host is not restored at all, and says why."""
    await cold_beside_a_broken_generation(fleet, replicas=2)
    assert [r.method for r in fleet.world.replicas()] == ["cold", "cold"]
    assert fleet["b"].did.count(("start", "hello2")) == 1
    restores = [verb for verb, _ in fleet["b"].asked if verb == "restore"]
    assert len(restores) == 1
    assert "generation 1 is quarantined: cannot restore" in fleet.replica("hello2").reason
    (entry,) = fleet.world.host("b").quarantine
    assert (entry.generation, entry.failures, entry.until - entry.since) == (1, 1, 300.0)
    assert entry.problem["detail"].endswith("no")
    assert fleet.world.host("a").quarantine == ()
    assert ("fell back", "cold") in fleet.events.told
    explained = fleet.loop.explain("hello")
    (because,) = [b for b in explained.because if b.state == "quarantined"]
    assert because.again_at == entry.until
    assert explained.waits_for == ()
    kinds = [e.kind for e in fleet.store.events.newest(limit=100)]
    assert kinds.count("generation.quarantined") == 1


async def test_it_survives_a_restart_and_ends_by_itself(fleet):
    """Durable; after its time the generation is tried again, and a success ends it for good."""
    await cold_beside_a_broken_generation(fleet)
    await fleet.restart()
    fleet.control.restore("hello", host="b", actor="t")
    await fleet.settle()
    assert fleet.replica("hello2").method == "cold"
    fleet.now += 301.0
    fleet.control.restore("hello", host="b", actor="t")
    await fleet.settle()
    assert fleet.replica("hello3").method == "restore"
    assert fleet.store.quarantine.all() == ()


async def test_another_failure_after_its_time_waits_longer(fleet):
    """Ten minutes after five."""
    await cold_beside_a_broken_generation(fleet)
    fleet.now += 301.0
    fleet["b"].fail["restore"] = [BROKEN]
    fleet.control.restore("hello", host="b", actor="t")
    await fleet.settle()
    (entry,) = fleet.store.quarantine.all()
    assert (entry.failures, entry.until - entry.since) == (2, 600.0)


@pytest.mark.parametrize("change", ["reboot", "criu"])
async def test_a_host_that_changed_is_tried_again(fleet, change):
    """A failure says nothing of a host with another boot or other programs."""
    fleet["b"].facts = {"criu": "4.1", "kernel": "6.1"}
    await fleet.look()
    await cold_beside_a_broken_generation(fleet)
    if change == "reboot":
        fleet["b"].reboot()
    else:
        fleet["b"].facts = {"criu": "4.2", "kernel": "6.1"}
    await fleet.settle()
    assert fleet.store.quarantine.all() == ()
    (event,) = [e for e in fleet.store.events.newest(limit=200) if e.kind == "generation.pardoned"]
    assert ("rebooted" if change == "reboot" else "its criu is 4.2 now") in event.text


@pytest.mark.parametrize("verb", ["pardon", "uncordon"])
async def test_an_operator_can_let_it_be_tried_at_once(fleet, verb):
    """`pardon` is for that; `uncordon` says the same of the whole host."""
    await cold_beside_a_broken_generation(fleet)
    change = getattr(fleet.cordon, verb)("b", actor="t")
    assert change.state == "settled"
    assert "generation 1 of hello may be tried there again" in change.progress
    fleet.control.restore("hello", host="b", actor="t")
    await fleet.settle()
    assert fleet.replica("hello2").method == "restore"


async def test_pardon_of_another_pool_or_host_changes_nothing(fleet):
    """What was not named stays."""
    await cold_beside_a_broken_generation(fleet)
    fleet.cordon.pardon("b", pool="other", actor="t")
    change = fleet.cordon.pardon("a", actor="t")
    assert change.progress == "no generation is quarantined on a"
    assert len(fleet.store.quarantine.all()) == 1
    with pytest.raises(Refused):
        fleet.cordon.pardon("nowhere", actor="t")


async def test_the_previous_generation_is_sent_and_taken_instead(fleet):
    """A step down is to the older generation, for names that never tried the new one too."""
    fleet.control.checkpoint("hello", actor="t")
    await fleet.settle()
    fleet.now += 1.0
    await cold_beside_a_broken_generation(fleet, replicas=2)
    assert [(r.method, r.generation) for r in fleet.world.replicas()] == [("restore", 1)] * 2


async def test_a_retired_generation_is_quarantined_no_more(fleet):
    """Its row goes with it."""
    await cold_beside_a_broken_generation(fleet)
    for _ in range(3):
        fleet.now += 1.0
        fleet.control.checkpoint("hello", actor="t")
        await fleet.settle()
    assert [g.number for g in fleet.store.generations("hello")] == [4, 3]
    assert fleet.store.quarantine.all() == ()


async def test_a_free_replica_goes_where_it_can_be_restored(fleet):
    """Placement counts a host with a quarantined generation as one without it."""
    await cold_beside_a_broken_generation(fleet)
    fleet.control.restore("hello", host="a", actor="t")
    await fleet.settle()
    fleet.control.scale("hello", replicas=3, actor="t")
    await fleet.settle()
    assert fleet.where()["hello3"] == "a"
