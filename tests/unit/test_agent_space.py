"""A reserve stays free: what would take of it is refused before anything is done."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from poold.agent.actions import Actions
from poold.agent.blobs import Receiver
from poold.agent.engines.memory import MemoryEngine
from poold.agent.messages import (
    Build,
    Capture,
    ExportImage,
    ImportImage,
    Observe,
    Placement,
    Remove,
    Restore,
    Stage,
    Start,
)
from poold.agent.space import NOTHING, Reserve, free_bytes, read_reserve, require_space
from poold.errors import Temporary
from poold.model.application import Application, HttpProbe

GIB = 1 << 30
EVERYTHING = read_reserve("1000000t")
HELLO = Application(image="hello", port=8080, readiness=HttpProbe(path="/ready"))


@pytest.mark.parametrize(
    ("text", "share", "most"),
    [
        ("", 0.05, GIB),
        ("500m", 1.0, 500 << 20),
        ("2g", 1.0, 2 * GIB),
        ("1.5G", 1.0, 3 * GIB // 2),
        ("0", 1.0, 0),
        ("5%", 0.05, 1 << 62),
        ("2.5 %", 0.025, 1 << 62),
    ],
)
def test_a_reserve_is_a_size_or_a_percentage(text: str, share: float, most: int) -> None:
    """Sizes are powers of 1024, as podman's are; nothing said is five percent, 1 GiB at most."""
    assert read_reserve(text) == Reserve(share, most)


@pytest.mark.parametrize("text", ["much", "100%", "-1g", "5 percent", "1gb", "%", "1e3", "٣g"])
def test_what_is_neither_is_refused(text: str) -> None:
    """A typing mistake must not become a reserve of nothing."""
    with pytest.raises(ValueError, match="is needed"):
        read_reserve(text)


def test_the_reserve_is_of_the_file_system(tmp_path: Path) -> None:
    """A share, the bound where that is less; a folder to be made is on that of the one above."""
    whole = Reserve(1.0, 1 << 62).of(tmp_path)
    assert Reserve(0.5, 1 << 62).of(tmp_path / "not" / "yet") == pytest.approx(whole / 2, abs=1)
    assert Reserve(0.5, 4096).of(tmp_path) == 4096
    assert NOTHING.of(tmp_path) == 0


def test_a_refusal_has_its_figures_and_the_way_out(tmp_path: Path) -> None:
    """What is needed, what is free, what stays in reserve, and the setting."""
    free = free_bytes(tmp_path)
    require_space([(tmp_path, 1 << 20)], "freeze hello", NOTHING)
    with pytest.raises(Temporary) as caught:
        require_space([(tmp_path, free // 2)], "freeze hello", Reserve(1.0, free // 4 * 3))
    problem = caught.value
    assert problem.code == "host.disk-full"
    assert problem.message.startswith(f"cannot freeze hello: about {-(-(free // 2) >> 20)} MiB are")
    assert f"beside a reserve of {free // 4 * 3 >> 20} MiB" in problem.message
    assert "disk_reserve" in problem.hint


# -- what the agent refuses -----------------------------------------------------------------------


@pytest.fixture
async def agents(tmp_path: Path) -> AsyncIterator[Callable[[Reserve], Actions]]:
    """Return a function that makes the agent of one host with a reserve."""
    engine = MemoryEngine(images={"hello": "1" * 64}, storage=tmp_path)
    yield lambda reserve: Actions(
        tmp_path / "a", tmp_path / "run", engine, lambda: (), reserve=reserve
    )
    await engine.close()


def placement(name: str) -> Placement:
    return Placement("test", "hello", name, "127.0.0.1", "24900-24999")


async def do(agent: Actions, request: Any) -> Any:
    return await agent.handle(request, action=f"do-{type(request).__name__}", report=lambda _: None)


async def refused(agent: Actions, request: Any) -> Temporary:
    with pytest.raises(Temporary) as caught:
        await do(agent, request)
    assert caught.value.code == "host.disk-full"
    return caught.value


async def test_what_writes_much_is_refused_without_an_effect(
    agents: Callable[[Reserve], Actions], tmp_path: Path
) -> None:
    """No build is started, no replica frozen, nothing unpacked, exported or loaded."""
    roomy, full = agents(NOTHING), agents(EVERYTHING)
    sealed = await do(roomy, Build(placement("hello"), HELLO))
    folder = tmp_path / "a" / "generations" / sealed.digest[7:]
    started = await do(roomy, Start(placement("hello1"), HELLO))
    for file in ("archive.tar", "staged.json"):
        (folder / file).unlink()
    archive = tmp_path / "a" / "images" / "x.tar"
    archive.write_text("{}")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*.*")}

    problem = await refused(full, Build(placement("hello"), replace(HELLO, env={"NEW": "1"})))
    assert problem.message.startswith("cannot build hello: ")
    problem = await refused(full, Capture("test", "hello", "hello1", HELLO))
    assert problem.message.startswith("cannot freeze hello1: about 65 MiB are needed")
    problem = await refused(full, Stage(sealed.digest))
    assert problem.message.startswith(f"cannot unpack {sealed.digest[:19]}: ")
    problem = await refused(full, ExportImage("hello"))
    assert problem.message.startswith("cannot export the image hello: ")
    problem = await refused(full, ImportImage("images/x.tar", "other", "2" * 64))
    assert problem.message.startswith("cannot load the image other: ")

    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*.*")}
    criu = tmp_path / "a" / "criu" / "hello.conf"  # written again, the same
    assert {**after, criu: 0} == {**before, criu: 0}
    (fact,) = (await do(full, Observe("test"))).containers
    assert (fact.container_id, fact.role, fact.ready) == (started.container_id, "replica", True)


async def test_the_reserve_is_for_replicas(agents: Callable[[Reserve], Actions]) -> None:
    """Restores, cold starts and removals are done beside it; the listing tells both figures."""
    sealed = await do(agents(NOTHING), Build(placement("hello"), HELLO))
    full = agents(EVERYTHING)
    await do(full, Restore(placement("hello1"), HELLO, sealed.digest))
    await do(full, Start(placement("hello2"), HELLO))
    seen = await do(full, Observe("test"))
    assert {fact.name for fact in seen.containers if fact.ready} == {"hello1", "hello2"}
    assert 0 < seen.disk_free_bytes < seen.disk_reserve_bytes
    assert (await do(full, Remove("test", "hello1"))).changed


def test_a_file_that_does_not_fit_is_not_begun(tmp_path: Path) -> None:
    """Its size is known: no folder and no part is made. A manifest is let through."""
    path = "generations/" + "0" * 64 + "/archive.tar.zst"
    with pytest.raises(Temporary, match="cannot receive") as caught:
        Receiver(tmp_path, path, size=2 << 20, sha256="", offset=0, reserve=EVERYTHING)
    assert caught.value.code == "host.disk-full"
    assert list(tmp_path.iterdir()) == []
    Receiver(tmp_path, path, size=1 << 20, sha256="", offset=0, reserve=EVERYTHING).close()
