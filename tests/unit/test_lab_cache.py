"""The lab's cache: entries are whole or absent, and go only when nobody uses them."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from poold.lab.cache import Cache, folder_digests, recipe_key


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def write(folder: Path) -> None:
    (folder / "content").write_text("made")


def never(folder: Path) -> None:
    pytest.fail(f"built again: {folder}")


def test_an_entry_is_built_once(cache: Cache) -> None:
    """The second asking gets what the first made."""
    with cache.locked():
        first = cache.entry("base", "k1", write)
        assert (first / "content").read_text() == "made"
        assert cache.entry("base", "k1", never) == first


def test_a_failed_build_leaves_nothing(cache: Cache) -> None:
    """Neither an entry nor the unfinished folder remains, and the next build succeeds."""

    def fail(folder: Path) -> None:
        write(folder)
        raise OSError("disk full")

    with cache.locked():
        with pytest.raises(OSError, match="disk full"):
            cache.entry("base", "k1", fail)
        assert [path.name for path in cache.root.iterdir()] == [".lock"]
        cache.entry("base", "k1", write)


def test_what_a_killed_build_left_is_not_taken_for_whole(cache: Cache) -> None:
    """An unfinished folder is thrown away, not continued."""
    left = cache.root / ".base.unfinished"
    left.mkdir(parents=True)
    (left / "half").touch()
    with cache.locked():
        entry = cache.entry("base", "k1", write)
    assert [path.name for path in entry.iterdir()] == ["content"]


def test_superseded_entries_go_unless_in_use(cache: Cache) -> None:
    """A running host's lock keeps its base; the next clean-up after it takes it."""
    with cache.locked():
        old, new = (cache.entry("base", key, write) for key in ("k1", "k2"))
        other = cache.entry("jre", "k1", write)
        user = os.open(old, os.O_RDONLY)
        fcntl.flock(user, fcntl.LOCK_SH)
        cache.remove_superseded("base", {new})
        assert old.is_dir()
        os.close(user)
        cache.remove_superseded("base", {new})
        assert not old.exists()
        assert new.is_dir()
        assert other.is_dir()


def test_the_key_follows_the_recipe(tmp_path: Path) -> None:
    """A changed file, name or part gives another key; the same recipe the same."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a/file").write_text("one")
    before = recipe_key(1, folder_digests(tmp_path))
    assert recipe_key(1, folder_digests(tmp_path)) == before
    assert recipe_key(2, folder_digests(tmp_path)) != before
    (tmp_path / "a/file").write_text("two")
    assert recipe_key(1, folder_digests(tmp_path)) != before
