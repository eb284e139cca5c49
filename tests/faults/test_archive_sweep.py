"""Archives cut short and with bits flipped at many places: none of them is ever staged.

The short form tries some dozens of places, `make faults SWEEP=5000` so many of each kind.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from dataclasses import replace

import pytest
from fault_table import CLOCK
from promises import broken
from test_failpoints import seen
from test_promises import GENERATION, MANIFEST as SEALED
from view import Books, View

from poold.agent.folders import Folders
from poold.agent.generations import ARCHIVE, MANIFEST, PACKED, STAGED, Generations, pack, seal
from poold.errors import Problem

PLACES = int(os.environ.get("SWEEP") or 60)
ARCHIVE_BYTES = 300_000
pytestmark = pytest.mark.slow


@pytest.fixture
async def sealed(tmp_path):
    """Seal a small archive, half of it hard to compress; return its folder and digest."""
    folder = tmp_path / "sealed"
    folder.mkdir(mode=0o700)
    noise = random.Random(7).randbytes(ARCHIVE_BYTES // 2)
    (folder / ARCHIVE).write_bytes(noise + bytes(ARCHIVE_BYTES // 2))
    (folder / ARCHIVE).chmod(0o600)
    packed = await pack(folder / ARCHIVE, lambda _: None)
    manifest = replace(
        SEALED,
        archive_sha256=packed.archive_sha256,
        archive_bytes=packed.archive_bytes,
        packed_sha256=packed.packed_sha256,
        packed_bytes=packed.packed_bytes,
    )
    return folder, seal(folder, manifest)


def _cut(size):
    """Return lengths: none, one byte, all but one, and the rest evenly spread."""
    return sorted({0, 1, size - 1, *(n * size // PLACES for n in range(PLACES))})


def _broken(data):
    """Return the archive, broken in many ways, each with what was done to it."""
    for length in _cut(len(data)):
        yield f"cut to {length}", data[:length]
    chance = random.Random(PLACES)
    for _ in range(PLACES):
        place = chance.randrange(8 * len(data))
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        yield f"bit {place} flipped", bytes(flipped)
    yield "one byte more", data + b"\0"
    yield "blocks swapped", data[4096:8192] + data[:4096] + data[8192:]


@pytest.mark.fault(
    "an archive is broken anywhere",
    how="cut to many lengths, bits flipped at many places; packed and staged",
    ends="refused and deleted with the reason; whole again, it is staged",
)
@pytest.mark.parametrize("file", [PACKED, ARCHIVE])
async def test_no_broken_archive_is_staged(file, sealed, tmp_path):
    """Wherever it is broken: refused by its digest, deleted, and what comes whole is taken."""
    source, digest = sealed
    agent = tmp_path / "a" / "agent"
    folders = Folders(agent)
    folders.make()
    store = Generations(folders)
    place = store.folder(digest)
    data = (source / file).read_bytes()
    view = View(
        fleet="test",
        generations=(replace(GENERATION, digest=digest),),
        books=Books(generations={("hello", 1): digest}),
    )

    async def use():
        """Stage what was received and restore from what is staged."""
        if file == PACKED:
            with folders.scratch("stage") as scratch:
                await store.stage(digest, scratch, lambda _: None)
        await store.staged(digest)

    for what, content in _broken(data):
        shutil.copytree(source, place)
        if file == PACKED:
            (place / STAGED).unlink()
            (place / ARCHIVE).unlink()
        (place / file).write_bytes(content)
        CLOCK.injected()
        with pytest.raises(Problem) as refused:
            await use()
        assert refused.value.code == "generation.damaged", what
        assert not (place / file).exists(), what
        assert not any(fact.staged for fact in store.list()), what
        shutil.copy2(source / file, place / file)
        shutil.copy2(source / MANIFEST, place / MANIFEST)
        if file == ARCHIVE:
            with folders.scratch("stage") as scratch:
                await store.stage(digest, scratch, lambda _: None)
        await use()
        CLOCK.converged(time.monotonic())
        CLOCK.looked()
        assert broken(replace(view, hosts=(seen("a", tmp_path / "a"),))) == [], what
        shutil.rmtree(place)
