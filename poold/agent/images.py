"""Container images between hosts, without a registry.

Flows in: FindImage, ExportImage, ImportImage. Flows out: content ids and archives under images/.
An image that arrives under another content id than it left is refused: checkpoints name it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Optional

from poold.agent.engines.base import Engine
from poold.agent.folders import Folders
from poold.agent.generations import digest_file
from poold.agent.messages import ExportImage, FindImage, ImageFacts, ImportImage, Progress
from poold.errors import Permanent, Refused, Temporary

Report = Callable[[Progress], None]


class Images:
    """Images of this host's engine."""

    def __init__(self, folders: Folders, engine: Engine) -> None:
        self._folders = folders
        self._engine = engine
        self._exporting: Optional[asyncio.Lock] = None

    async def find(self, request: FindImage) -> ImageFacts:
        """Say which content is here; with `image_id`, "" unless that content is.

        A restore needs the content by its id and the name to stand for anything: a name that was
        lost is given back, one that means a newer image by now stays.
        """
        named = await self._engine.image_id(request.image)
        wanted = bare(request.image_id)
        if not wanted or bare(named) == wanted:
            return ImageFacts(named)
        by_id = await self._engine.image_id(wanted)
        if by_id and not named:
            await self._engine.name_image(wanted, request.image)
        return ImageFacts(by_id)

    async def export(self, request: ExportImage, scratch: Path, report: Report) -> ImageFacts:
        """Write the archive once; a later call finds it."""
        if self._exporting is None:  # not in __init__: Python 3.9 binds a lock to the loop of then
            self._exporting = asyncio.Lock()
        async with self._exporting:
            image_id = await self._engine.image_id(request.image)
            if not image_id:
                raise Permanent(
                    "image.missing",
                    f"cannot export the image {request.image}: this host does not have it",
                    hint="pull or load it on the pool's builder host",
                )
            path = self._folders.images / f"{bare(image_id)}.tar"
            if not path.exists():
                needs = [(scratch, await self._engine.image_bytes(request.image))]
                self._folders.require(needs, f"export the image {request.image}")
                report(Progress("exporting the image"))
                part = scratch / path.name
                await self._engine.save_image(request.image, part)
                part.chmod(0o600)
                part.replace(path)
            relative = str(path.relative_to(self._folders.root))
            sha256 = await digest_file(path)
            return ImageFacts(image_id, relative, path.stat().st_size, sha256)

    async def import_(self, request: ImportImage, report: Report) -> ImageFacts:
        """Load, compare, delete the archive. Loaded before: the archive is only deleted."""
        path = self._archive(request.path)
        wanted = bare(request.image_id)
        found = (await self.find(FindImage(request.image, request.image_id))).image_id
        if bare(found) != wanted:
            if not path.exists():
                raise Temporary(
                    "image.not-received",
                    f"cannot load the image {request.image}: {request.path} has not arrived",
                    hint="send it again",
                )
            needs = [(await self._engine.storage(), path.stat().st_size)]
            self._folders.require(needs, f"load the image {request.image}")
            report(Progress("loading the image"))
            found = await self._engine.load_image(path, request.image)
        path.unlink(missing_ok=True)
        if bare(found) != wanted:
            raise Permanent(
                "image.other-content",
                f"cannot use the image {request.image}: it arrived as {bare(found)[:12]} instead of"
                f" {wanted[:12]}",
                hint="load it on each host from the same archive or registry",
            )
        return ImageFacts(found)

    def _archive(self, relative: str) -> Path:
        path = Path(relative)
        if (
            path.parts[:1] != ("images",)
            or len(path.parts) != 2
            or not re.fullmatch(r"[\w.-]+", path.name)
        ):
            raise Refused("image.bad-path", f"cannot load {relative!r}: not a file under images/")
        return self._folders.root / path


def bare(image_id: str) -> str:
    """Return the id without its "sha256:"."""
    return image_id.rpartition(":")[2]
