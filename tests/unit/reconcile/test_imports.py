"""An archive that podman exported becomes a generation, or its change says why not."""

from __future__ import annotations

import pytest

from poold.errors import Refused
from poold.model.fleet import HostName

A, B = HostName("a"), HostName("b")


async def test_an_import_is_a_generation_that_is_restored_from(fleet):
    """It is numbered, sent to the other host, and the next replica comes from it."""
    change = fleet.control.import_archive("hello", file="/root/hello.tar.gz", actor="test")
    await fleet.settle()
    ended = fleet.store.change(change.id)
    assert (ended.state, ended.progress) == ("settled", "generation 1 is proven on a")
    assert ("import", "/root/hello.tar.gz") in fleet[A].did
    (generation,) = fleet.store.generations("hello")
    assert generation.builder == "a"
    fleet.control.scale("hello", replicas=2, actor="test")
    await fleet.settle()
    assert {replica.method for replica in fleet.world.replicas("hello")} == {"restore"}
    assert not any(verb == "build" for verb, _ in (*fleet[A].did, *fleet[B].did))


async def test_rubbish_fails_with_its_reason_and_is_not_tried_again(fleet):
    """The change says what is wrong; nothing became a generation."""
    change = fleet.control.import_archive("hello", file="/bad", host="b", actor="test")
    await fleet.settle()
    ended = fleet.store.change(change.id)
    assert ended.state == "failed"
    assert ended.problem["code"] == "import.bad-archive"
    assert fleet.store.generations("hello") == ()
    fleet.now += 1000
    await fleet.settle()
    assert fleet[B].did.count(("import", "/bad")) == 1


async def test_an_import_waits_for_its_host(fleet):
    """A host that is away is waited for, and the pool's sentence says so."""
    await fleet.settle()
    fleet[B].up = False
    await fleet.loop.cycle(fleet.pool.name)
    change = fleet.control.import_archive("hello", file="/root/x.tar", host="b", actor="test")
    await fleet.loop.cycle(fleet.pool.name)
    assert fleet.store.change(change.id).state == "pending"
    assert "the import waits for b" in fleet.loop.explain("hello").sentence


async def test_what_cannot_be_is_refused_at_once(fleet):
    """An unknown pool or host is no change."""
    with pytest.raises(Refused, match="cannot find the pool"):
        fleet.control.import_archive("nope", file="/x", actor="test")
    with pytest.raises(Refused, match="cannot find the host"):
        fleet.control.import_archive("hello", file="/x", host="z", actor="test")
