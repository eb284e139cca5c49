"""The loop over hosts in memory: what an operator sees, step by step."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from dataclasses import replace

import pytest

from poold.errors import Permanent, Temporary


async def beats(fleet):
    """Wait until the loop's beat rises; fails by its deadline."""
    beat = fleet.loop.beat()
    async with asyncio.timeout(5):
        while fleet.loop.beat() <= beat:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_a_scale_out_ends_with_replicas_on_both_hosts_from_one_checkpoint(fleet):
    """One build, one transfer, three restores, spread over two hosts, and a settled change."""
    change = fleet.control.scale("hello", replicas=3, actor="test")
    await fleet.settle()
    assert fleet.change(change).state == "settled"
    assert fleet.change(change).progress == "hello 3/3"
    assert fleet.did("build") == ["hello"]
    assert fleet.where() == {"hello1": "a", "hello2": "b", "hello3": "a"}
    assert sorted(fleet.did("restore")) == ["hello1", "hello2", "hello3"]
    assert fleet.did("start") == []
    assert fleet.world.sentence() == "hello 3/3"
    replica = fleet.replica("hello2")
    assert (replica.method, replica.generation, replica.address) == ("restore", 1, "b:20001")


async def test_settled_means_nothing_is_asked_of_a_host(fleet):
    """After settling, cycles do nothing but look."""
    fleet.control.scale("hello", replicas=2, actor="test")
    await fleet.settle()
    before = [list(host.did) for host in fleet.hosts.values()]
    for _ in range(5):
        assert (await fleet.step()).actions == ()
    assert [host.did for host in fleet.hosts.values()] == before


async def test_a_scale_in_removes_the_highest_and_settles(fleet):
    """Scaling in removes what is too much and nothing else."""
    fleet.control.scale("hello", replicas=3, actor="test")
    await fleet.settle()
    change = fleet.control.scale("hello", replicas=1, actor="test")
    await fleet.settle()
    assert fleet.change(change).state == "settled"
    assert fleet.where() == {"hello1": "a"}
    assert fleet.store.assignments()[0].name == "hello1"
    assert len(fleet.store.assignments()) == 1


async def test_the_configured_number_is_the_first_wish_and_only_that(make_fleet):
    """`replicas` of the file counts when the pool is new; a later wish outlives a restart."""
    fleet = make_fleet(replicas=2)
    await fleet.settle()
    assert fleet.ready() == ["hello1", "hello2"]
    fleet.control.scale("hello", replicas=1, actor="test")
    await fleet.settle()
    await fleet.restart()
    await fleet.settle()
    assert fleet.ready() == ["hello1"]


async def test_a_named_replica_is_restored_on_the_host_it_is_pinned_to(fleet):
    """Restore takes a name and a host and waits for just that replica."""
    change = fleet.control.restore("hello", name="hello7", host="b", actor="test")
    await fleet.settle()
    assert fleet.where() == {"hello7": "b"}
    assert fleet.change(change).state == "settled"
    assert fleet.change(change).phases == {"restore": 0.1}


async def test_a_host_without_the_image_gets_it_first(fleet):
    """No registry is needed: the image goes from the builder to the other host."""
    fleet["b"].images.clear()
    fleet.control.restore("hello", host="b", actor="test")
    await fleet.settle()
    assert fleet.did("import-image") == ["hello:1"]
    assert fleet.where() == {"hello1": "b"}
    assert fleet.did("start") == []


async def test_the_image_is_sent_while_the_first_checkpoint_is_built(fleet):
    """What takes longest to send does not wait for what takes longest to make."""
    fleet["b"].images.clear()
    fleet["a"].hold["build"] = asyncio.Event()
    fleet.control.scale("hello", replicas=2, actor="test")
    await fleet.until(lambda: "hello:1" in fleet["b"].images)
    assert fleet.did("build") == []
    fleet["a"].hold.pop("build").set()
    await fleet.settle()
    assert fleet.did("import-image") == ["hello:1"]


async def test_a_failed_build_gives_cold_replicas_and_is_tried_again(fleet):
    """A user who asked for a replica gets a replica; the reason is shown."""
    fleet["a"].fail["build"] = [Permanent("criu.live-connection", "cannot dump: a live connection")]
    change = fleet.control.scale("hello", replicas=2, actor="test")
    await fleet.until(lambda: len(fleet.ready()) == 2)
    assert sorted(fleet.did("start")) == ["hello1", "hello2"]
    assert "a live connection" in fleet.replica("hello1").reason
    assert fleet.replica("hello1").method == "cold"
    await fleet.step()
    assert fleet.change(change).state == "settled"
    fleet.now += 3600
    await fleet.settle()
    assert fleet.did("build") == ["hello"]
    assert sorted(fleet.did("start")) == ["hello1", "hello2"], "running replicas are not touched"


async def test_a_failed_checkpoint_change_says_why(fleet):
    """A checkpoint that was asked for and failed is a failed change with the problem."""
    fleet["a"].fail["build"] = [Permanent("criu.watched-file", "cannot dump: a watched file")]
    change = fleet.control.checkpoint("hello", actor="test")
    await fleet.until(lambda: fleet.change(change).state != "pending")
    assert fleet.change(change).state == "failed"
    assert fleet.change(change).problem["code"] == "criu.watched-file"


async def test_a_checkpoint_change_settles_when_the_generation_is_on_every_host(fleet):
    """A second checkpoint is a second generation; the change carries its phases."""
    fleet.control.scale("hello", replicas=1, actor="test")
    await fleet.settle()
    fleet.now += 10
    change = fleet.control.checkpoint("hello", actor="test")
    await fleet.settle()
    assert fleet.change(change).state == "settled"
    assert fleet.change(change).phases["checkpoint"] == 0.25
    assert [g.number for g in fleet.store.generations("hello")] == [2, 1]
    current = fleet.store.generations("hello")[0].digest
    assert all(current in host.staged for host in fleet.hosts.values())


async def test_old_generations_are_retired_everywhere_when_nothing_uses_them(fleet):
    """keep_generations counts; the third checkpoint removes the first from all hosts."""
    fleet.change_pool(keep_generations=2)
    for _ in range(3):
        fleet.now += 10
        fleet.control.checkpoint("hello", actor="test")
        await fleet.settle()
    assert [g.number for g in fleet.store.generations("hello")] == [3, 2]
    await fleet.step()
    assert [len(host.staged) for host in fleet.hosts.values()] == [2, 2]
    assert fleet.store.garbage("hello") == ()


async def test_a_checkpoint_ends_with_the_reason_when_a_disk_is_full(fleet):
    """Nobody waits for a disk to get emptier by itself: on the builder, and where it is sent."""
    full = Temporary("host.disk-full", "cannot write: the disk is full")
    for host, verb in (("a", "build"), ("b", "stage")):
        fleet[host].fail[verb] = [full]
        fleet.now += 10
        change = fleet.control.checkpoint("hello", actor="test")
        await fleet.settle()
        assert fleet.change(change).state == "failed"
        assert fleet.change(change).problem["code"] == "host.disk-full"


async def test_a_checkpoint_that_waits_says_for_what(fleet):
    """Whoever follows it sees why nothing happens."""
    await fleet.settle()
    fleet["a"].up = False
    change = fleet.control.checkpoint("hello", actor="test")
    await fleet.step()
    await fleet.step()
    assert fleet.change(change).state == "pending"
    assert "the checkpoint waits: a is cut off" in fleet.change(change).progress


async def test_the_ladder_goes_down_step_by_step_and_says_so(fleet):
    """Current generation, previous generation, cold: each tried once, each failure kept."""
    fleet.control.checkpoint("hello", actor="test")
    await fleet.settle()
    fleet.now += 10
    fleet.control.checkpoint("hello", actor="test")
    await fleet.settle()
    fleet["a"].fail["restore"] = [
        Permanent("criu.refused", "cannot restore: first"),
        Permanent("criu.refused", "cannot restore: second"),
    ]
    change = fleet.control.restore("hello", host="a", actor="test")
    await fleet.settle()
    replica = fleet.replica("hello1")
    assert replica.method == "cold"
    assert replica.reason == (
        "restoring generation 2 failed: cannot restore: first; "
        "restoring generation 1 failed: cannot restore: second"
    )
    assert fleet.change(change).state == "settled"
    fallen = [event for event in fleet.events.told if event[0] == "fell back"]
    assert fallen == [("fell back", "previous-generation"), ("fell back", "cold")]


async def test_a_passing_trouble_of_the_host_is_no_step_down(fleet):
    """A full disk is waited out on the same rung."""
    fleet.control.checkpoint("hello", actor="test")
    await fleet.settle()
    fleet["a"].fail["restore"] = [Temporary("host.disk-full", "cannot write: disk full")] * 2
    fleet.control.restore("hello", host="a", actor="test")
    await fleet.settle()
    assert fleet.replica("hello1").method == "restore"
    assert fleet.replica("hello1").reason == ""


async def test_when_every_rung_fails_the_change_fails_and_the_wish_stays(make_fleet):
    """Failed is said with its reason, tried again later, and heals by itself."""
    fleet = make_fleet(hosts=("a",))
    fleet["a"].fail["build"] = [Permanent("x", "cannot build")] * 20
    fleet["a"].fail["start"] = [Permanent("podman.no-image", "cannot start: no image")]
    change = fleet.control.scale("hello", replicas=1, actor="test")
    await fleet.until(lambda: fleet.change(change).state != "pending")
    assert fleet.change(change).state == "failed"
    assert fleet.change(change).problem["code"] == "podman.no-image"
    assert fleet.replica("hello1").state == "failed"
    assert "no image" in fleet.replica("hello1").reason
    fleet.now += 100
    await fleet.until(lambda: fleet.ready() == ["hello1"])
    assert fleet.store.wishes()[0].name == "hello1"


async def test_a_replica_that_cannot_come_up_on_one_host_is_placed_on_another(fleet):
    """All rungs failed on a: the name is freed there, confirmed absent, and comes up on b."""
    fleet["a"].fail["restore"] = [Permanent("criu.refused", "cannot restore")]
    fleet["a"].fail["start"] = [Permanent("podman.broken", "cannot start")]
    fleet.control.scale("hello", replicas=1, actor="test")
    await fleet.settle()
    assert fleet.where() == {"hello1": "b"}


async def test_a_dead_replica_comes_back_on_its_host(fleet):
    """A container that died is removed and its name restored in the same place."""
    fleet.control.scale("hello", replicas=2, actor="test")
    await fleet.settle()
    fleet["b"].kill("hello2")
    await fleet.settle()
    assert fleet.where() == {"hello1": "a", "hello2": "b"}
    assert fleet["b"].did[-2:] == [("remove", "hello2"), ("restore", "hello2")]


async def test_a_host_that_cannot_be_reached_keeps_its_names(fleet):
    """Unknown is not gone: nothing is started twice, and nothing happens when it comes back."""
    fleet.control.scale("hello", replicas=2, actor="test")
    await fleet.settle()
    fleet["b"].up = False
    for _ in range(4):
        await fleet.step()
        fleet.now += 1000
    assert fleet.replica("hello2").state == "unknown"
    assert fleet.replica("hello2").reason == "b is cut off"
    assert "hello2 unknown: b is cut off" in fleet.world.sentence()
    fleet["b"].up = True
    await fleet.settle()
    assert sorted(fleet.did("restore")) == ["hello1", "hello2"]


async def test_a_rebooted_host_is_believed_to_be_empty(fleet):
    """After a reboot its replicas are restored again, each once."""
    fleet.control.scale("hello", replicas=2, actor="test")
    await fleet.settle()
    fleet["b"].reboot()
    await fleet.settle()
    assert fleet.where() == {"hello1": "a", "hello2": "b"}
    assert fleet["b"].did.count(("restore", "hello2")) == 2


async def test_somebody_elses_container_keeps_its_name(fleet):
    """A foreign container is never touched; the free name goes to the other host."""
    foreign = fleet["a"].run_by_hand("hello1", ours=False)
    fleet.control.scale("hello", replicas=1, actor="test")
    await fleet.settle()
    assert fleet["a"].containers["hello1"] == foreign
    assert fleet.where() == {"hello1": "b"}


async def test_a_name_taken_everywhere_fails_the_change_with_the_way_out(fleet):
    """Taken on the pinned host: the change fails and names the host."""
    fleet["b"].run_by_hand("hello1", ours=False)
    change = fleet.control.restore("hello", name="hello1", host="b", actor="test")
    await fleet.until(lambda: fleet.change(change).state != "pending")
    assert fleet.change(change).problem["code"] == "replica.name-taken"
    assert " on b" in fleet.change(change).problem["message"]


async def test_a_container_of_ours_that_nobody_wishes_is_removed(fleet):
    """An orphan goes, once its host was introduced."""
    await fleet.settle()
    fleet["b"].run_by_hand("hello5", ours=True)
    await fleet.settle()
    assert fleet.where() == {}
    assert fleet.did("remove") == ["hello5"]


async def test_a_lost_store_adopts_what_runs(make_fleet):
    """Promise 8: with a new store running replicas become wishes before the file's number."""
    fleet = make_fleet(replicas=1)
    fleet["a"].run_by_hand("hello2", ours=True)
    fleet["b"].run_by_hand("hello4", ours=True)
    await fleet.settle()
    assert fleet.where() == {"hello2": "a", "hello4": "b"}
    assert fleet.did("remove") == []
    assert fleet.replica("hello4").address == "b:20001"


async def test_a_pool_that_left_the_configuration_runs_on(fleet):
    """Its replicas are shown and left alone, and its pending changes fail."""
    fleet.control.scale("hello", replicas=1, actor="test")
    await fleet.settle()
    change = fleet.control.scale("hello", replicas=2, actor="test")
    fleet.config = replace(fleet.config, pools={})
    await fleet.step()
    assert fleet.world.sentence() == "hello left the configuration: 1 replicas left running"
    assert fleet.replica("hello1").state == "ready"
    assert fleet.where() == {"hello1": "a"}
    assert fleet.change(change).state == "failed"


async def test_a_changed_application_gets_a_generation_of_its_own(fleet):
    """New replicas are not restored from the old application; running ones are left alone."""
    fleet.control.scale("hello", replicas=1, actor="test")
    await fleet.settle()
    application = type(fleet.pool.application)(image="hello:1", port=8080, command=("new",))
    fleet.change_pool(application=application)
    fleet.control.scale("hello", replicas=2, actor="test")
    await fleet.settle()
    assert fleet.replica("hello1").generation == 1
    assert fleet.replica("hello2").generation == 2


async def test_progress_reaches_those_who_wait(fleet):
    """wait_change streams what the agent says while it works."""
    fleet["a"].hold["build"] = asyncio.Event()
    change = fleet.control.scale("hello", replicas=1, actor="test")
    await fleet.look()
    await fleet.loop.cycle("hello")
    news = await fleet.store.wait_change(change.id, after_seq=change.seq, timeout_seconds=5)
    assert news.seq > change.seq
    assert news.progress == "building a generation: build begun 50 %"
    assert fleet.world.sentence().startswith("hello 0/1: building a generation on a")
    fleet["a"].hold["build"].set()
    await fleet.settle()


async def test_the_loop_runs_by_itself_and_stops_without_touching_anything(fleet):
    """run(): a wish is fulfilled without anybody calling cycle; cancelling leaves replicas."""
    running = asyncio.create_task(fleet.loop.run())
    change = fleet.control.scale("hello", replicas=2, actor="test")
    seq = change.seq
    async with asyncio.timeout(10):
        while (change := fleet.change(change)).state == "pending":
            change = await fleet.store.wait_change(change.id, after_seq=seq, timeout_seconds=5)
            seq = change.seq
    assert change.state == "settled"
    await beats(fleet)
    assert fleet.loop.beat() <= time.monotonic()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert len(fleet.where()) == 2


async def test_a_daemon_without_pools_beats(fleet):
    """Nothing to do is not stuck."""
    fleet.config = replace(fleet.config, pools={})
    running = asyncio.create_task(fleet.loop.run())
    await beats(fleet)
    await beats(fleet)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_long_action_does_not_stop_the_beat(fleet):
    """The watchdog sees a living loop while a build takes its time."""
    fleet["a"].hold["build"] = asyncio.Event()
    running = asyncio.create_task(fleet.loop.run())
    fleet.control.scale("hello", replicas=1, actor="test")
    await beats(fleet)
    await beats(fleet)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_name_wished_elsewhere_is_not_ready_before_it_is_there(fleet):
    """Removed and wished again on another host: it leaves first, and only then settles."""
    fleet.control.restore("hello", name="hello1", host="b", actor="test")
    await fleet.settle()
    fleet["b"].fail["remove"] = [Permanent("podman.hangs", "cannot remove: podman hangs")] * 2
    fleet.control.remove("hello1", actor="test")
    await fleet.step()
    await fleet.step()
    assert fleet.replica("hello1").state == "removing"
    assert fleet.replica("hello1").reason == "cannot remove: podman hangs"
    change = fleet.control.restore("hello", name="hello1", host="a", actor="test")
    await fleet.step()
    assert fleet.change(change).state == "pending"
    await fleet.settle()
    assert fleet.where() == {"hello1": "a"}


async def test_a_cycle_reads_each_thing_once_however_many_hosts_there_are(fleet):
    """With hundreds of hosts and pools what is read once a host, or again to be shown, adds up."""
    fleet.control.scale("hello", replicas=2, actor="test")
    await fleet.settle()
    read = Counter()
    connection = fleet.store._database._connection
    connection.set_trace_callback(lambda sql: read.update(re.findall(r"FROM (\w+)", sql)))
    fleet.store.put_wish(fleet.store.wishes()[0])
    read.clear()
    await fleet.loop.cycle("hello")
    assert {read[table] for table in ("host_marks", "wishes", "generations", "garbage")} == {1}
    read.clear()
    await fleet.loop.cycle("hello")
    assert not read, "nothing was written since"
    connection.set_trace_callback(None)


async def test_a_listing_wakes_the_pools_only_with_something_new(fleet):
    """With hundreds of hosts some listing comes in all the time: pools at rest are left alone."""
    fleet.control.scale("hello", replicas=2, actor="test")
    await fleet.settle()
    await fleet.look()
    wake = fleet.loop._wakes["hello"]
    wake.clear()
    await fleet.look()
    assert not wake.is_set()
    fleet["a"].kill(next(name for name, host in fleet.where().items() if host == "a"))
    await fleet.look()
    assert wake.is_set()
