"""Sending between hosts ends in time, one at a time where it would meet another."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from poold.errors import Permanent


async def one_on_a(fleet, *, deadline_seconds=3600.0):
    fleet.control.restore("hello", name="hello1", host="a", actor="t")
    await fleet.settle()
    daemon = replace(fleet.config.daemon, transfer_deadline_seconds=deadline_seconds)
    fleet.config = replace(fleet.config, daemon=daemon)


async def test_a_move_whose_image_does_not_arrive_ends(fleet):
    """The replica was not touched; the change says what took too long and what helps."""
    await one_on_a(fleet, deadline_seconds=0.05)
    fleet["b"].images.clear()
    fleet["b"].hold["import-image"] = asyncio.Event()
    change = fleet.control.move("hello1", to="b", actor="t")
    await fleet.until(lambda: fleet.change(change).state == "failed")
    assert fleet.change(change).problem["code"] == "transfer.deadline"
    assert fleet.change(change).progress == "cannot finish sending the image of hello1 to b in time"
    assert "transfer_deadline_seconds" in fleet.change(change).problem["hint"]
    assert "capture" not in [verb for verb, _ in fleet["a"].asked]
    fleet["b"].hold["import-image"].set()


async def test_a_frozen_replica_does_not_wait_for_ever_for_its_memory_to_arrive(fleet):
    """It is thawed where it ran, with its memory."""
    await one_on_a(fleet, deadline_seconds=0.05)
    fleet["b"].hold["stage"] = asyncio.Event()
    change = fleet.control.move("hello1", to="b", actor="t")
    await fleet.until(lambda: fleet.change(change).state == "failed")
    assert fleet.change(change).problem["code"] == "transfer.deadline"
    assert fleet.ready() == ["hello1"]
    assert fleet.where() == {"hello1": "a"}
    fleet["b"].hold["stage"].set()


async def test_the_image_of_a_move_waits_for_what_a_host_is_receiving(fleet):
    """The image may be what is received: the two would write the same file."""
    await one_on_a(fleet)
    fleet["b"].images.clear()
    asked = len(fleet["a"].asked)
    async with fleet.loop._apply.receiving["b"]:
        change = fleet.control.move("hello1", to="b", actor="t")
        for _ in range(3):
            await fleet.step()
        assert "export-image" not in [verb for verb, _ in fleet["a"].asked[asked:]]
    await fleet.until(lambda: fleet.change(change).state == "settled")
    assert "import-image" in [verb for verb, _ in fleet["b"].asked]


async def test_a_cold_start_without_the_builders_image_says_why_it_had_to_do_without(fleet, caplog):
    """The engine may pull the image: that it had to is in the log."""
    fleet["b"].images.clear()
    fleet["a"].fail["build"] = [Permanent("criu.failed", "cannot checkpoint")] * 9
    fleet["a"].fail["export-image"] = [Permanent("image.gone", "cannot export the image")] * 9
    fleet.control.restore("hello", host="b", actor="t")
    with caplog.at_level(logging.WARNING):
        await fleet.settle()
    said = [r for r in caplog.records if getattr(r, "replica", "") == "hello1"]
    assert "cannot export the image" in [record.getMessage() for record in said]
