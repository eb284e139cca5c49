"""Why a pool is as it is, in sentences."""

from __future__ import annotations

from poold.errors import Permanent
from poold.model.fleet import HostName

A, B = HostName("a"), HostName("b")


def because(explanation, topic):
    return [one for one in explanation.because if one.topic == topic]


async def test_a_pool_at_rest_waits_for_nothing(fleet):
    """All is as wished: every part is said, and nothing is waited for."""
    fleet.control.scale("hello", replicas=2, actor="test")
    await fleet.settle()
    found = fleet.loop.explain("hello")
    assert (found.sentence, found.waits_for) == ("hello 2/2", ())
    (wish,) = because(found, "wish")
    assert wish.text.startswith("2 replicas wished: hello1, hello2 (revision ")
    (generation,) = because(found, "generation")
    assert generation.text.startswith("generation 1 is current: proven ")
    assert [one.state for one in because(found, "replica")] == ["ready", "ready"]
    assert because(found, "replica")[0].text.endswith(", restored from generation 1")
    assert {one.subject for one in because(found, "host")} == {"a", "b"}
    assert found.events[-1].kind == "change.settled"


async def test_a_host_that_is_away_is_the_reason(fleet):
    """A lost host is named with the replicas that keep their names there."""
    fleet.control.scale("hello", replicas=2, actor="test")
    await fleet.settle()
    name = next(n for n, host in fleet.where().items() if host == "b")
    fleet[B].up = False
    await fleet.loop.cycle(fleet.pool.name)
    found = fleet.loop.explain("hello")
    assert any(text.startswith(f"{name} is unknown on b") for text in found.waits_for)
    host = because(found, "host")[1]
    assert host.state == "unknown"
    assert f"{name} may run there and keep their names" in host.text


async def test_what_failed_is_said_with_its_next_try(fleet):
    """A failed build is said with its reason, when it is tried again and how often it failed."""
    problem = Permanent("criu.live-connection", "cannot checkpoint: a live connection")
    fleet.control.checkpoint("hello", actor="test")
    await fleet.look()
    subject = f"build:{fleet.pool.application.fingerprint()}"
    for _ in range(2):
        fleet.loop._backoff.failed("hello", subject, problem, definite=True, base_seconds=10)
    found = fleet.loop.explain("hello")
    (generation,) = because(found, "generation")
    assert generation.text == (
        "making a generation failed: cannot checkpoint: a live connection;"
        " tried again in 20 s, failed 2 times"
    )
    assert generation.again_at == fleet.now + 20
    assert generation.text in found.waits_for
    (change,) = because(found, "change")
    assert change.text.startswith("change 1, checkpoint by test, is pending for 0 s: ")


async def test_what_a_failure_left_is_its_evidence(fleet):
    """The lines of CRIU's log are in the explanation and in the event, not only in the change."""
    log = "(00.1) Error (criu/mem.c:712): no pages\n…\n(00.2) Dumping FAILED."
    problem = Permanent("criu.checkpoint-failed", "cannot checkpoint hello: no pages", detail=log)
    fleet[A].fail["build"] = [problem] * 9
    change = fleet.control.checkpoint("hello", actor="test")
    await fleet.until(lambda: fleet.store.change(change.id).state == "failed")
    assert fleet.store.change(change.id).problem["detail"] == log
    found = fleet.loop.explain("hello")
    (generation,) = because(found, "generation")
    assert (generation.state, generation.evidence) == ("failed", log)
    failed = [event for event in found.events if event.kind == "generation.failed"]
    assert [event.data["problem"]["detail"] for event in failed] == [log] * len(failed)
    assert failed


async def test_a_pool_that_starts_says_what_is_under_way(fleet):
    """What would be done next is what is waited for."""
    await fleet.settle()
    fleet.control.scale("hello", replicas=1, actor="test")
    found = fleet.loop.explain("hello")
    assert found.waits_for
    assert any("checkpoint" in text or "generation" in text for text in found.waits_for)


async def test_explaining_changes_nothing(fleet):
    """Asking why is only reading: no wish, no event, no action comes of it."""
    fleet.control.scale("hello", replicas=2, actor="test")
    before = fleet.store.events.bounds(), fleet.store.wishes(), fleet.store.intents()
    for _ in range(3):
        fleet.loop.explain("hello")
    assert (fleet.store.events.bounds(), fleet.store.wishes(), fleet.store.intents()) == before
    assert not fleet.loop._jobs


async def test_a_pool_that_left_the_configuration_is_explained(fleet):
    """Even then there is an answer: what runs is left running."""
    fleet.control.scale("hello", replicas=1, actor="test")
    await fleet.settle()
    fleet.config = type(fleet.config)(
        daemon=fleet.config.daemon, hosts=fleet.config.hosts, pools={}
    )
    found = fleet.loop.explain("hello")
    assert "left the configuration" in because(found, "wish")[0].text
