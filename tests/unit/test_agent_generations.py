"""Small parts below generations: files that are whole, space that is there, names that are safe."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import threading
from pathlib import Path

import pytest

from poold.agent import folders, space
from poold.agent.codec import encode
from poold.agent.freezing import cpu_flags
from poold.agent.generations import Generations, pack, sha256_of
from poold.agent.messages import Seal
from poold.errors import Problem, Refused
from poold.model.fleet import Digest


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    """A reader sees the old or the new content; nothing else is left beside it."""
    path = tmp_path / "record.json"
    folders.write_whole(path, b"old")
    folders.write_whole(path, b"new", durable=True)
    assert path.read_bytes() == b"new"
    assert [found.name for found in tmp_path.iterdir()] == ["record.json"]


def test_needs_on_one_file_system_add_up(tmp_path: Path) -> None:
    """Two folders on the same disk do not both get all of it."""
    free = space.free_bytes(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    space.require_space([(tmp_path, free // 3), (other, free // 3)], "freeze hello")
    with pytest.raises(Problem) as caught:
        space.require_space([(tmp_path, free // 3 * 2), (other, free // 3 * 2)], "freeze hello")
    assert caught.value.code == "host.disk-full"
    assert caught.value.message.startswith("cannot freeze hello: about ")


def test_a_scratch_folder_goes_with_its_action(tmp_path: Path) -> None:
    """Also when the action fails; an earlier one's rest is not inherited."""
    place = folders.Folders(tmp_path)
    place.make()
    (place.work / "a1").mkdir()
    (place.work / "a1" / "rest").write_text("old")
    with place.scratch("a1") as scratch:
        assert list(scratch.iterdir()) == []
    with pytest.raises(FileNotFoundError), place.scratch("a1") as scratch:
        (scratch / "missing").read_text()
    assert list(place.work.iterdir()) == []


async def test_packing_digests_what_it_compresses(tmp_path: Path) -> None:
    """Both digests are those of the files, and progress is reported."""
    archive = tmp_path / "archive.tar"
    archive.write_bytes(os.urandom(1 << 20) + bytes(1 << 20))
    news: list[str] = []
    packed = await pack(archive, lambda progress: news.append(progress.text))
    stop = threading.Event()
    assert packed.archive_sha256 == sha256_of(archive, stop)
    assert packed.packed_sha256 == sha256_of(tmp_path / "archive.tar.zst", stop)
    assert packed.archive_bytes == 2 << 20
    assert 1 << 20 < packed.packed_bytes < 2 << 20
    assert news[0].startswith("compressing")
    assert news[-1] == "sealing"


def test_a_digest_is_not_a_path(tmp_path: Path) -> None:
    """Only 64 hex digits name a folder."""
    store = Generations(folders.Folders(tmp_path))
    for bad in ("sha256:../../etc", "sha256:" + "A" * 64, "0" * 64, "sha256:" + "0" * 63):
        with pytest.raises(Refused):
            store.folder(Digest(bad))


async def test_putting_a_generation_on_disk_holds_nobody_up(tmp_path: Path) -> None:
    """The loop goes on meanwhile; cancelled, it ends when the folder is let go of, not moved."""
    place = folders.Folders(tmp_path)
    place.make()
    store, digest = Generations(place), Digest("sha256:" + "0" * 64)
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    os.mkfifo(prepared / "archive.tar")  # opening it waits for a writer, as for a slow disk
    for cancelled in (False, True):
        admitting = asyncio.ensure_future(store.admit(prepared, digest))
        await asyncio.sleep(0.05)
        if cancelled:
            admitting.cancel()
            await asyncio.sleep(0.05)
        assert not admitting.done()
        os.close(os.open(prepared / "archive.tar", os.O_WRONLY | os.O_NONBLOCK))
        with pytest.raises(OSError, match="Invalid argument"):  # no fsync for a pipe
            await admitting
        assert store.list() == ()
    (prepared / "archive.tar").unlink()
    assert (await store.admit(prepared, digest)).is_dir()


def test_listing_bears_what_comes_and_goes(tmp_path: Path) -> None:
    """Receivers rename parts and discards delete folders, in threads, while the host is listed."""
    place = folders.Folders(tmp_path)
    place.make()
    ended = threading.Event()

    def come_and_go() -> None:
        folder = place.generations / ("0" * 64)
        while not ended.is_set():
            folder.mkdir()
            (folder / "manifest.json").write_text("{}")
            (folder / "archive.tar.zst.part").write_text("half")
            (folder / "archive.tar.zst.part").rename(folder / "archive.tar.zst")
            shutil.rmtree(folder)

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        listed = [Generations(place).list() for _ in range(3000)]
    finally:
        ended.set()
        thread.join()
    assert {len(facts) for facts in listed} <= {0, 1}


def test_a_vanished_file_counts_for_nothing(tmp_path: Path) -> None:
    """What is there is listed with the size of the rest."""
    place = folders.Folders(tmp_path)
    place.make()
    folder = place.generations / ("0" * 64)
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    (folder / "archive.tar.zst.part").symlink_to("gone")
    assert [fact.bytes for fact in Generations(place).list()] == [2]


def test_cpu_flags_are_read_on_both_architectures(tmp_path: Path) -> None:
    """x86 says flags, Arm says Features."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: sse fpu avx\n\nflags\t\t: other\n")
    assert cpu_flags(cpuinfo) == ("avx", "fpu", "sse")
    cpuinfo.write_text("processor\t: 0\nFeatures\t: fp asimd\n")
    assert cpu_flags(cpuinfo) == ("asimd", "fp")


def test_a_seal_is_listed_as_it_was_written(tmp_path: Path) -> None:
    """The host only keeps it; one that cannot be read is none."""
    place = folders.Folders(tmp_path)
    place.make()
    folder = place.generations / ("0" * 64)
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    seal = Seal("hello", 7, "a", 1763900000.125, "ab" * 64)
    for text, expected in ((json.dumps(encode(seal)), seal), ("{}", None), ("\0", None)):
        (folder / "seal.json").write_text(text)
        assert [fact.seal for fact in Generations(place).list()] == [expected]
