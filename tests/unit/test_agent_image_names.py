"""What names of images mean: read where that is enough, asked seldom where it is not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from poold.agent.engines.image_names import ASK_AGAIN_SECONDS, ImageNames, full

HELLO, OTHER = "localhost/hello:1", "docker.io/library/other:latest"


class Podman:
    """Answers as it is told, and counts how often it is asked."""

    def __init__(self, **knows: str) -> None:
        self.knows, self.asked, self.now = dict(knows), [], 0.0

    async def image_id(self, image: str) -> str:
        self.asked.append(image)
        return self.knows.get(image, "")

    def clock(self) -> float:
        return self.now


def write(file: Path, **ids: tuple[str, ...]) -> None:
    """Replace the file as containers/storage does: a new one takes the old one's name."""
    entries = [{"id": key, "names": list(names), "layer": "l"} for key, names in ids.items()]
    part = file.with_suffix(".part")
    part.write_text(json.dumps([*entries, {"id": "unnamed", "layer": "l"}]))
    part.replace(file)


def overwrite(file: Path) -> None:
    """Spoil the file such that it is the same one by all its signs."""
    before, descriptor = file.stat(), os.open(file, os.O_WRONLY)
    os.write(descriptor, b"x" * before.st_size)
    os.close(descriptor)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def swap(file: Path) -> None:
    """Let the names mean each other's images, by a file that is as long and as old."""
    before = file.stat()
    write(file, two=(HELLO,), one=(OTHER,))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "images.json"
    write(path, one=(HELLO,), two=(OTHER,))
    return path


async def test_names_are_read_and_nobody_is_asked(file: Path) -> None:
    """With their tag or without it, whichever registry."""
    podman = Podman()
    names = ImageNames(podman.image_id)
    wanted = (HELLO, "docker.io/library/other")
    assert await names.ids(wanted, file) == {HELLO: "one", "docker.io/library/other": "two"}
    assert podman.asked == []


async def test_a_tag_that_moved_is_seen_at_the_next_look(file: Path) -> None:
    """Even within the clock's grain, and though the file is as long as before."""
    names = ImageNames(Podman().image_id)
    assert await names.ids((HELLO,), file) == {HELLO: "one"}
    swap(file)
    assert await names.ids((HELLO,), file) == {HELLO: "two"}


async def test_what_is_not_changed_is_not_read_again(file: Path) -> None:
    """A listing costs one stat."""
    names = ImageNames(Podman().image_id)
    await names.ids((HELLO,), file)
    overwrite(file)
    assert await names.ids((HELLO,), file) == {HELLO: "one"}


async def test_what_the_file_does_not_tell_is_asked_at_a_change_and_once_a_minute(
    file: Path,
) -> None:
    """Short names are looked up by podman's own rules; an additional store has names as well."""
    podman = Podman(hello="one", **{"quay.io/far:1": "far"})
    names = ImageNames(podman.image_id, podman.clock)
    wanted = ("hello", "quay.io/far:1", "localhost/none")
    found = {"hello": "one", "quay.io/far:1": "far", "localhost/none": ""}
    assert [await names.ids(wanted, file) for _ in range(3)] == [found] * 3
    assert podman.asked == list(wanted)
    write(file, two=(HELLO,))
    await names.ids(wanted, file)
    assert len(podman.asked) == 6
    podman.now += ASK_AGAIN_SECONDS
    podman.knows["hello"] = "two"
    assert (await names.ids(wanted, file))["hello"] == "two"
    assert len(podman.asked) == 9


@pytest.fixture
def listing(file: Path) -> Path:
    """Return a file in which a name means a list of manifests."""
    file.write_text(json.dumps([{"id": "list", "names": [HELLO]}]))
    return file


async def test_a_list_of_manifests_stands_for_one_of_its_images(listing: Path) -> None:
    """It has an id of its own, which no container ever has: podman says what it runs."""
    names = ImageNames(Podman(**{HELLO: "one"}).image_id)
    assert await names.ids((HELLO,), listing) == {HELLO: "one"}


@pytest.fixture(params=[None, "{", "[1]", '{"a": 1}', '[{"layer": "l", "names": ["x"]}]'])
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a file that is not there, or of another form."""
    path = tmp_path / "odd.json"
    if request.param is not None:
        path.write_text(request.param)
    return path


async def test_a_store_that_is_kept_otherwise_is_asked(odd: Path) -> None:
    """It is no failure."""
    podman = Podman(**{HELLO: "one"})
    names = ImageNames(podman.image_id, podman.clock)
    assert [await names.ids((HELLO,), odd) for _ in range(2)] == [{HELLO: "one"}] * 2
    assert podman.asked == [HELLO]


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("localhost/hello", "localhost/hello:latest"),
        ("localhost:5000/hello", "localhost:5000/hello:latest"),
        ("quay.io/a/b:1.2", "quay.io/a/b:1.2"),
        ("hello:1", ""),
        ("team/hello:1", ""),
        ("quay.io/a/b@sha256:" + "0" * 64, ""),
        ("0" * 64, ""),
    ],
)
def test_only_whole_names_are_looked_for_in_the_file(name: str, kept: str) -> None:
    """What needs podman's rules for short names, or a digest, is podman's to find."""
    assert full(name) == kept
