"""Making a host hold a checkpoint: the image first, then manifest and archive, then unpacked.

In: a source that has it, a target, a sealed manifest. Out: the target able to restore from it, and
what was sent. Idempotent: what the target has is not sent again, and a broken transfer is resumed.
It does not know why; sending a recorded action is the caller's `ask`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from poold.agent.messages import ExportImage, FindImage, ImageFacts, ImportImage, Request, Stage
from poold.errors import Permanent
from poold.hosts.base import HostLink, OnProgress
from poold.hosts.transfer import copy_blob, write_bytes
from poold.model.application import EngineChoice
from poold.model.fleet import ActionId, Digest, HostName, Manifest, Phases

R = TypeVar("R")


class Ask(Protocol):
    """Send an action to a host, recorded where it changes something, and return its answer."""

    def __call__(self, host: HostName, request: Request[R], /) -> Awaitable[R]:
        """Return the answer or raise its Problem."""


@dataclass(slots=True)
class Sent:
    """What was done, in seconds by phase and bytes by kind."""

    phases: Phases = field(default_factory=dict)
    image_bytes: int = 0
    archive_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Archive:
    """The form in which a checkpoint travels."""

    path: str
    bytes: int
    sha256: str


def folder_of(digest: Digest) -> str:
    """Return the folder of a generation or capture, relative to the agent's."""
    return f"generations/{digest.removeprefix('sha256:')}"


def archive_of(digest: Digest, manifest: Manifest) -> Archive:
    """Return what travels: the packed archive."""
    path = f"{folder_of(digest)}/archive.tar.zst"
    return Archive(path, manifest.packed_bytes, manifest.packed_sha256)


def manifest_bytes(digest: Digest, manifest: Manifest) -> bytes:
    """Return the manifest's canonical form; raises when it is not the digest's."""
    if manifest.digest() != digest:
        raise Permanent(
            "generation.damaged", f"cannot send {digest[:19]}: its manifest has another digest"
        )
    return manifest.canonical()


async def send_image(
    ask: Ask,
    source: HostLink,
    target: HostLink,
    *,
    image: str,
    image_id: str,
    action: ActionId,
    progress: OnProgress | None = None,
) -> Sent:
    """Make the target have an image, by its content id where one is given.

    That one is sent even where its name means another one at the source by now.
    """
    sent = Sent()
    found: ImageFacts = await ask(target.name, FindImage(image=image, image_id=image_id))
    if found.image_id:
        return sent
    begun = time.monotonic()
    called = await _called(ask, source, image, image_id)
    exported: ImageFacts = await ask(source.name, ExportImage(image=called))
    sent.image_bytes = await copy_blob(
        source,
        target,
        exported.path,
        size=exported.bytes,
        sha256=exported.sha256,
        action=action,
        progress=progress,
    )
    await ask(target.name, ImportImage(path=exported.path, image=image, image_id=exported.image_id))
    sent.phases["image"] = time.monotonic() - begun
    return sent


async def send_checkpoint(
    ask: Ask,
    source: HostLink,
    target: HostLink,
    *,
    digest: Digest,
    manifest: Manifest,
    action: ActionId,
    engine: EngineChoice = "podman",
    progress: OnProgress | None = None,
) -> Sent:
    """Make the target hold a checkpoint, verified and unpacked for the engine."""
    sent = Sent()
    archive = archive_of(digest, manifest)
    if source.name != target.name:
        begun = time.monotonic()
        manifest_text = manifest_bytes(digest, manifest)
        sent.archive_bytes = await copy_blob(
            source,
            target,
            archive.path,
            size=archive.bytes,
            sha256=archive.sha256,
            action=action,
            progress=progress,
        )
        # Last: a folder with a manifest is a whole generation.
        await write_bytes(target, f"{folder_of(digest)}/manifest.json", manifest_text)
        sent.phases["send"] = time.monotonic() - begun
    begun = time.monotonic()
    await ask(target.name, Stage(digest=digest, engine=engine))
    sent.phases["stage"] = time.monotonic() - begun
    return sent


async def _called(ask: Ask, source: HostLink, image: str, image_id: str) -> str:
    """Return what the source calls an image: its name, or its id where that means another one."""
    if not image_id:
        return image
    named: ImageFacts = await ask(source.name, FindImage(image=image))
    if _same_image(named.image_id, image_id):
        return image
    found: ImageFacts = await ask(source.name, FindImage(image=image, image_id=image_id))
    if found.image_id:
        return image_id.removeprefix("sha256:")
    if not named.image_id:
        return image  # it has neither, and says so
    raise Permanent(
        "image.changed",
        f"cannot send the image {image}: on {source.name} it is another one by now, and"
        f" {image_id.removeprefix('sha256:')[:12]} is not there any more",
        hint="make a new checkpoint",
    )


def _same_image(one: str, other: str) -> bool:
    return one.removeprefix("sha256:") == other.removeprefix("sha256:")
