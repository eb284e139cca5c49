"""The store without room on its file system: what it says, and that it opens while it can."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress

import pytest

from poold.errors import Temporary
from poold.store import Store

pytestmark = pytest.mark.lab  # it mounts


@pytest.fixture
def small(tmp_path):
    """Give a file system of 4 MiB with a store on it."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", tmp_path], check=True)
    try:
        store = Store(tmp_path / "state")
        store.accept(pool="hello", kind="scale", wish={"replicas": 1}, actor="t", reason="")
        store.close()
        yield tmp_path
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def fill(folder, *, but_bytes):
    """Leave so much free."""
    with (folder / "filler").open("wb", buffering=0) as file:
        with suppress(OSError):
            while file.write(bytes(4096)):
                pass
        os.ftruncate(file.fileno(), max(0, os.fstat(file.fileno()).st_size - but_bytes))


def test_without_any_room_it_says_that_the_disk_is_full(small):
    """SQLite calls it an I/O error; the lock is given back, and with room all is there."""
    fill(small, but_bytes=0)
    for _ in range(2):
        with pytest.raises(Temporary, match="the disk is full") as refused:
            Store(small / "state")
        assert refused.value.code == "store.disk-full"
    (small / "filler").unlink()
    store = Store(small / "state")
    (change,) = store.changes()
    assert change.wish == {"replicas": 1}
    store.close()


def test_with_room_for_no_row_it_opens_all_the_same(small):
    """What was accepted can be read and watched over; only writing waits for room."""
    fill(small, but_bytes=32 << 10)
    store = Store(small / "state")
    assert [change.state for change in store.pending_changes()] == ["pending"]
    with pytest.raises(Temporary, match="the disk is full"):
        store.accept(pool="hello", kind="checkpoint", wish={}, actor="t", reason="")
    store.close()
