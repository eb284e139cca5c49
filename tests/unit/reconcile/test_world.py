"""The world: outcomes beat older listings, and nothing is believed of a host that was not heard."""

from __future__ import annotations

import pytest

from poold.agent.messages import ContainerFact, Observation, Started
from poold.model.fleet import HostStatus
from poold.reconcile.world import World


class Link:
    """A link whose status a test sets."""

    def __init__(self, state="up", boot_id="1"):
        self.status = HostStatus("a", state, boot_id=boot_id)


@pytest.fixture
def link():
    return Link()


@pytest.fixture
def world(link):
    return World(links={"a": link}, clock=lambda: 5.0)


def fact(name, **fields):
    defaults = {"container_id": name, "ours": True, "pool": "hello", "role": "replica",
                "running": True, "status": "running", "ready": True}  # fmt: skip
    return ContainerFact(name=name, **{**defaults, **fields})


def seen(*facts, boot_id="1"):
    return Observation(boot_id=boot_id, now=0.0, containers=facts)


def view(world):
    return world.views("hello", ["hello1", "hello2"], rooms={"a": 9}, others={})["a"]


def names(world):
    return [c.name for c in view(world).containers]


def test_a_host_is_up_only_after_a_listing_in_this_boot(world, link):
    """Reached is not enough; a lost link or another boot takes the belief away."""
    assert view(world).state == "connecting"
    world.observed("a", world.begin(), seen(fact("hello1")))
    assert view(world).up
    link.status = HostStatus("a", "unknown", reason="cut")
    assert (view(world).state, view(world).reason) == ("unknown", "cut")
    link.status = HostStatus("a", "up", boot_id="1")
    assert view(world).state == "connecting", "it may have changed meanwhile"
    world.observed("a", world.begin(), seen(fact("hello1")))
    link.status = HostStatus("a", "up", boot_id="2")
    assert not view(world).up
    world.observed("a", world.begin(), seen(boot_id="2"))
    assert view(world).up
    assert names(world) == []


def test_a_listing_that_failed_makes_the_host_unknown_with_the_reason(world):
    """Nothing is decided on a host whose engine does not answer."""
    world.observed("a", world.begin(), seen())
    world.unheard("a", "cannot ask podman")
    assert (view(world).state, view(world).reason) == ("unknown", "cannot ask podman")
    assert world.hosts()[0].state == "unknown"


def test_an_outcome_beats_a_listing_that_began_before_it(world):
    """The listing was taken before the replica was there: it is not gone."""
    world.observed("a", world.begin(), seen(fact("hello2")))
    token = world.begin()
    world.started("a", "hello", Started("hello1", "c1", "a:1", "restore", 0.1), "sha256:d")
    world.gone("a", "hello2")
    world.observed("a", token, seen(fact("hello2")))
    assert names(world) == ["hello1"]
    world.observed("a", world.begin(), seen())
    assert names(world) == []


def test_a_removal_of_one_container_does_not_hide_another_of_that_name(world):
    """Only the very container that was removed is gone."""
    world.observed("a", world.begin(), seen(fact("hello1", container_id="new")))
    world.gone("a", "hello1", "old")
    assert names(world) == ["hello1"]


def test_unsure_lasts_until_a_listing_that_began_later(world):
    """A listing under way when the action failed does not settle it."""
    world.observed("a", world.begin(), seen())
    token = world.begin()
    world.unsure("a", "hello1")
    world.observed("a", token, seen())
    assert view(world).unsure == {"hello1"}
    assert world.hosts_unsure() == ("a",)
    world.observed("a", world.begin(), seen())
    assert view(world).unsure == frozenset()


def test_generations_follow_outcomes_too(world):
    """Staged and dropped are believed at once, and beat an older listing."""
    token = world.begin()
    world.staged("a", "hello", "sha256:d", 1)
    world.observed("a", token, seen())
    assert view(world).staged == {"sha256:d"}
    world.dropped("a", "sha256:d")
    assert view(world).held == frozenset()


def test_a_pool_sees_its_own_containers_and_foreign_ones_with_its_names(world):
    """Other pools' containers are nobody's business here."""
    world.observed(
        "a",
        world.begin(),
        seen(
            fact("hello1"),
            fact("other1", pool="other"),
            fact("hello2", ours=False, pool="", role="foreign"),
            fact("nginx", ours=False, pool="", role="foreign"),
        ),
    )
    assert sorted(names(world)) == ["hello1", "hello2"]


def test_before_the_first_plan_there_is_a_sentence(world):
    """Systemd's status line is never empty."""
    assert world.sentence() == "no pools yet"
    assert world.replicas() == ()


def test_a_listing_that_says_what_is_known_is_not_new(world, link):
    """Only what plans are made of counts, and going away and coming back do."""
    assert world.observed("a", world.begin(), seen(fact("hello1")))
    assert not world.observed("a", world.begin(), seen(fact("hello1")))
    world.unsure("a", "hello1")
    assert world.observed("a", world.begin(), seen(fact("hello1"))), "now it is sure"
    assert world.observed("a", world.begin(), seen(fact("hello1", ready=False)))
    assert world.observed("a", world.begin(), seen(fact("hello1", ready=False), boot_id="2"))
    assert world.unheard("a", "cannot list it")
    assert not world.unheard("a", "cannot list it")
    assert world.observed("a", world.begin(), seen(fact("hello1", ready=False), boot_id="2"))
    assert not world.observed("a", world.begin(), seen(fact("hello1", ready=False), boot_id="2"))
    link.status = HostStatus("a", "unknown", reason="cut")
    assert not view(world).up
    link.status = HostStatus("a", "up", boot_id="2")
    assert world.observed("a", world.begin(), seen(fact("hello1", ready=False), boot_id="2"))


def test_what_was_sorted_out_of_a_listing_does_not_outlive_it(world):
    """Outcomes between listings are seen at once, by the pools that they concern."""
    for listing in range(2):
        world.observed("a", world.begin(), seen(fact("hello1"), fact("other1", pool="other")))
        assert names(world) == ["hello1"]
        assert view(world).of_others == {}
        world.staged("a", "hello", "sha256:1", 1)
        assert view(world).staged == view(world).of_pool == {"sha256:1"}
        up = Started("hello2", "c2", "10.0.0.1:2", "restore", 0.1, {}, 1.0)
        world.started("a", "other" if listing else "hello", up, "sha256:1")
        assert view(world).of_others == ({"hello2": "other"} if listing else {})
        assert names(world) == (["hello1"] if listing else ["hello1", "hello2"])
        world.frozen("a", "hello1")
        assert view(world).ours("hello1").role == "captured"
        world.gone("a", "hello1")
        assert "hello1" not in names(world)
        world.dropped("a", "sha256:1")
        assert view(world).held == view(world).of_pool == frozenset()
