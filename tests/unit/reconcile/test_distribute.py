"""Sending images and checkpoints: nothing twice, nothing half, nothing that is not what it says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from poold.checkpoints.distribute import manifest_bytes, send_checkpoint, send_image
from poold.errors import Permanent
from poold.model.fleet import ActionId


@pytest.fixture
def ask(fleet):
    """Return a way to ask the fleet's hosts."""
    count = iter(range(1000))

    async def ask(host, request):
        return await fleet[host].call(
            request, action=f"{request.verb}-{next(count)}", deadline_seconds=1.0
        )

    return ask


async def send(fleet, ask, sealed, target="b"):
    return await send_checkpoint(
        ask, fleet["a"], fleet[target], digest=sealed.digest, manifest=sealed.manifest,
        action=ActionId("copy-1"),
    )  # fmt: skip


def seal(fleet):
    return fleet["a"]._seal(fleet.pool.application, "build-1", counter=7, cold_seconds=5.0)


async def test_a_generation_arrives_whole_and_staged(fleet, ask):
    """Manifest and packed archive are on the target, byte for byte, and it is staged there."""
    sealed = seal(fleet)
    sent = await send(fleet, ask, sealed)
    assert fleet["b"].blobs == fleet["a"].blobs
    assert fleet["b"].staged == {sealed.digest}
    assert list(sent.phases) == ["send", "stage"]
    assert sent.archive_bytes == sealed.manifest.packed_bytes


async def test_what_is_there_is_not_sent_again(fleet, ask):
    """A second sending sends no byte of the archive; staging on the source sends nothing."""
    sealed = seal(fleet)
    await send(fleet, ask, sealed)
    assert (await send(fleet, ask, sealed)).archive_bytes == 0
    assert list((await send(fleet, ask, sealed, target="a")).phases) == ["stage"]


async def test_the_manifest_comes_last(fleet, ask):
    """A broken transfer leaves no folder that looks like a generation."""
    sealed = seal(fleet)
    fleet["b"].fail["write-blob"] = [Permanent("blob.damaged", "cannot receive")]
    with pytest.raises(Permanent):
        await send(fleet, ask, sealed)
    assert fleet["b"]._held() == []
    assert fleet["b"].did == []


def test_a_manifest_that_is_not_the_digests_is_not_sent(fleet):
    """Promise 3 begins at the sender."""
    sealed = seal(fleet)
    with pytest.raises(Permanent, match="another digest"):
        manifest_bytes(sealed.digest, replace(sealed.manifest, kernel="other"))
    assert manifest_bytes(sealed.digest, sealed.manifest) in fleet["a"].blobs.values()


async def test_an_image_is_sent_only_where_it_is_missing(fleet, ask):
    """No registry: exported at the source, imported at the target, once."""
    fleet["b"].images.clear()
    arguments = {"image": "hello:1", "image_id": "sha256:image", "action": ActionId("copy-1")}
    first = await send_image(ask, fleet["a"], fleet["b"], **arguments)
    second = await send_image(ask, fleet["a"], fleet["b"], **arguments)
    assert (first.image_bytes, second.image_bytes) == (len(b"sha256:image"), 0)
    assert fleet["b"].did == [("import-image", "hello:1")]


async def test_an_image_is_sent_by_its_id_where_its_name_means_another_one(fleet, ask):
    """A checkpoint names the content of its image; the tag may have moved on, here and there."""
    fleet["a"].retag("sha256:next")
    fleet["b"].images["hello:1"] = "sha256:third"
    arguments = {"image": "hello:1", "image_id": "sha256:image", "action": ActionId("copy-1")}
    first = await send_image(ask, fleet["a"], fleet["b"], **arguments)
    second = await send_image(ask, fleet["a"], fleet["b"], **arguments)
    assert (first.image_bytes, second.image_bytes) == (len(b"sha256:image"), 0)
    assert fleet["b"]._has("sha256:image")
    assert fleet["b"].images == {"hello:1": "sha256:third"}


async def test_an_image_without_a_name_is_sent_by_its_id(fleet, ask):
    """What serves is there as long as nobody prunes it, whatever was untagged."""
    fleet["a"].unnamed.add(fleet["a"].images.pop("hello:1"))
    fleet["b"].images.clear()
    arguments = {"image": "hello:1", "image_id": "sha256:image", "action": ActionId("copy-1")}
    await send_image(ask, fleet["a"], fleet["b"], **arguments)
    assert fleet["b"].images == {"hello:1": "sha256:image"}


async def test_an_image_that_changed_under_its_name_is_not_sent(fleet, ask):
    """Where the one that is asked for is gone, no other one is sent for it."""
    fleet["b"].images.clear()
    with pytest.raises(Permanent, match="another one by now") as problem:
        await send_image(
            ask, fleet["a"], fleet["b"], image="hello:1", image_id="sha256:old",
            action=ActionId("copy-1"),
        )  # fmt: skip
    assert problem.value.code == "image.changed"
