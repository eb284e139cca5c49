"""What each engine must do, as plain coroutines: run here, or shipped to a lab host.

Standard library and the agent's own code only. Each case gets an engine, an image that answers on
port 8080 (GET /hello/ counts, GET /hello/ready does not), and an empty folder.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from poold.agent import criu, http, probe
from poold.agent.engines import build_engine
from poold.agent.engines.base import Chooser, Engine, Launch, Published
from poold.agent.http import Target
from poold.agent.probe import Reach
from poold.errors import Problem
from poold.model.application import Application, HttpProbe

NAME, COPY = "contract-1", "contract-2"
LABELS = {"io.poold.fleet": "contract", "io.poold.pool": "contract"}


class Bench:
    """An engine under test, and short words for what the cases do with it."""

    def __init__(self, engine: Engine, image: str, folder: Path) -> None:
        self.engine = engine
        self.folder = folder
        self.application = Application(image=image, port=8080, stop_timeout_seconds=1)
        self.config = folder / "criu.conf"
        self.config.write_text("".join(f"{line}\n" for line in criu.settings(())))

    async def start(self, name: str = NAME, port: int = 23100, image: str = "") -> str:
        app = Application(image=image or self.application.image, port=8080)
        launch = Launch(name, app, LABELS, self.config, published(port), self.folder)
        container_id = await self.engine.run(launch)
        await self.answers(container_id, port)
        return container_id

    async def answers(self, container_id: str, port: int) -> None:
        """Wait until the container answers on a published port."""
        reach = Reach(NAME, 8080, {8080: Target("127.0.0.1", port)}, self._no_command)

        async def died() -> None:
            await self.engine.wait_exit(container_id)

        await probe.until_ready(HttpProbe(path="/hello/ready"), reach, died)

    async def count(self, port: int = 23100) -> int:
        target = Target("127.0.0.1", port)
        answer = await http.request(target, "GET", "/hello/", timeout_seconds=10)
        return int(answer.body)

    async def quiet(self, container_id: str) -> None:
        """Wait until nothing but listening sockets is left, as whoever freezes must."""
        while await self.engine.connections(container_id):  # noqa: ASYNC110 - the kernel's
            await asyncio.sleep(0.02)

    async def freeze(self, container_id: str) -> Path:
        await self.quiet(container_id)
        archive = self.folder / "archive.tar"
        await self.engine.checkpoint(NAME, archive, deadline_seconds=60)
        return archive

    async def remove_all(self) -> None:
        for name in (NAME, COPY):
            await self.engine.remove(name, stop_timeout_seconds=0)

    async def _no_command(self, *_: Any) -> Any:
        raise AssertionError("no command was to be run")


def published(port: int) -> tuple[Published, ...]:
    return (Published(8080, port, "127.0.0.1"),)


async def problem(asked: Awaitable[Any]) -> Problem:
    try:
        await asked
    except Problem as error:
        return error
    raise AssertionError("it should have failed")


async def a_started_container_is_listed_with_its_labels(bench: Bench) -> None:
    container_id = await bench.start()
    found = await bench.engine.find(NAME)
    assert found is not None
    assert found == await bench.engine.find(container_id)
    assert (found.name, found.container_id, found.running) == (NAME, container_id, True)
    assert dict(found.labels).items() >= LABELS.items()
    assert found.image_id == await bench.engine.image_id(bench.application.image)
    assert found.started_at > time.time() - 60
    assert await bench.engine.memory_bytes(container_id) > 0
    assert await bench.engine.find("contract-none") is None


async def a_checkpoint_is_restored_under_another_name_and_counts_on(bench: Bench) -> None:
    container_id = await bench.start()
    assert [await bench.count() for _ in range(3)] == [0, 1, 2]
    archive = await bench.freeze(container_id)
    frozen = await bench.engine.find(NAME)
    assert frozen is not None
    assert not frozen.running, "the frozen container stays, stopped"
    copy = await bench.engine.restore(archive, COPY, published(23101), deadline_seconds=60)
    await bench.answers(copy, 23101)
    assert await bench.count(23101) == 3
    found = await bench.engine.find(COPY)
    assert found is not None
    assert dict(found.labels).items() >= LABELS.items(), "a copy inherits the labels"
    assert copy != container_id


async def a_frozen_container_is_thawed_where_it_was(bench: Bench) -> None:
    container_id = await bench.start()
    await bench.count()
    await bench.freeze(container_id)
    await bench.engine.thaw(container_id, deadline_seconds=60)
    await bench.answers(container_id, 23100)
    assert await bench.count() == 1
    found = await bench.engine.find(NAME)
    assert found is not None
    assert (found.container_id, found.running) == (container_id, True)


async def a_taken_name_is_told_and_its_owner_untouched(bench: Bench) -> None:
    container_id = await bench.start()
    archive = await bench.freeze(container_id)
    await bench.engine.thaw(container_id, deadline_seconds=60)
    await bench.answers(container_id, 23100)
    again = bench.engine.restore(archive, NAME, published(23101), deadline_seconds=60)
    assert (await problem(again)).code == "engine.name-taken"
    assert (await problem(bench.start())).code == "engine.name-taken"
    owner = await bench.engine.find(NAME)
    assert owner is not None
    assert (owner.container_id, owner.running) == (container_id, True)


async def a_taken_port_is_told(bench: Bench) -> None:
    container_id = await bench.start()
    archive = await bench.freeze(container_id)
    stranger = await asyncio.start_server(lambda *_: None, "127.0.0.1", 23101)
    try:
        copy = bench.engine.restore(archive, COPY, published(23101), deadline_seconds=60)
        assert (await problem(copy)).code == "engine.port-taken"
    finally:
        stranger.close()
        await stranger.wait_closed()


async def a_missing_image_is_told(bench: Bench) -> None:
    told = await problem(bench.start(image="localhost/poold-missing:none"))
    assert told.code == "image.missing"
    assert await bench.engine.image_id("localhost/poold-missing:none") == ""


async def a_damaged_archive_is_refused(bench: Bench) -> None:
    container_id = await bench.start()
    archive = await bench.freeze(container_id)
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    copy = bench.engine.restore(archive, COPY, published(23101), deadline_seconds=60)
    assert (await problem(copy)).kind == "permanent"
    left = await bench.engine.find(COPY)
    assert left is None or not left.running


async def the_end_of_a_container_is_an_event(bench: Bench) -> None:
    container_id = await bench.start()
    watching = asyncio.ensure_future(bench.engine.wait_exit(container_id))
    await asyncio.sleep(0.05)
    assert not watching.done()
    assert await bench.engine.remove(NAME, stop_timeout_seconds=1)
    await asyncio.wait_for(watching, 10)
    assert not await bench.engine.remove(NAME, stop_timeout_seconds=1)
    assert await bench.engine.find(NAME) is None


async def a_lost_container_is_told_with_how(bench: Bench) -> None:
    container_id = await bench.start()
    watching = asyncio.ensure_future(bench.engine.lost(container_id))
    await asyncio.sleep(0.05)
    assert not watching.done()
    said = await bench.engine.last_words(container_id)
    assert said
    assert said in {line.strip() for line in await bench.engine.logs(NAME, 100)}
    assert await bench.engine.remove(NAME, stop_timeout_seconds=1)
    assert await asyncio.wait_for(watching, 10) == "its first process ended"
    assert await bench.engine.last_words("f" * 64) == ""


async def a_command_inside_gets_its_input_and_tells_its_status(bench: Bench) -> None:
    await bench.start()
    heard = await bench.engine.execute(NAME, ("cat",), stdin=b"a seed", timeout_seconds=10)
    assert (heard.status, heard.output) == (0, "a seed")
    failed = await bench.engine.execute(NAME, ("false",), stdin=b"", timeout_seconds=10)
    assert failed.status == 1
    slow = bench.engine.execute(NAME, ("sleep", "5"), stdin=b"", timeout_seconds=0.3)
    assert (await problem(slow)).code == "command.timeout"


async def an_open_connection_is_seen(bench: Bench) -> None:
    container_id = await bench.start()
    await bench.quiet(container_id)
    _, writer = await asyncio.open_connection("127.0.0.1", 23100)
    try:
        while not await bench.engine.connections(container_id):  # noqa: ASYNC110 - the kernel's
            await asyncio.sleep(0.01)
        (seen,) = await bench.engine.connections(container_id)
        assert "ESTABLISHED" in seen
    finally:
        writer.close()
        await writer.wait_closed()


async def a_paused_container_answers_when_it_runs_on(bench: Bench) -> None:
    container_id = await bench.start()
    await bench.quiet(container_id)
    await bench.engine.pause(NAME)
    asked = asyncio.ensure_future(bench.count())
    await asyncio.sleep(0.1)
    assert not asked.done()
    await bench.engine.unpause(NAME)
    assert await asyncio.wait_for(asked, 10) == 0


async def a_paused_container_gets_another_name_and_runs_on(bench: Bench) -> None:
    """Its id, ports and memory stay; the old name is free, and nobody else's name is taken."""
    container_id = await bench.start()
    await bench.count()
    await bench.quiet(container_id)
    await bench.engine.pause(NAME)
    await bench.engine.rename(NAME, COPY)
    found = await bench.engine.find(COPY)
    assert found is not None
    assert found.container_id == container_id
    assert found in await bench.engine.containers()
    assert await bench.engine.find(NAME) is None
    await bench.engine.unpause(container_id)
    await bench.answers(container_id, 23100)
    assert await bench.count() == 1
    assert (await problem(bench.engine.rename(NAME, "contract-3"))).code == "engine.no-container"
    other = await bench.start(NAME, 23101)
    assert (await problem(bench.engine.rename(NAME, COPY))).code == "engine.name-taken"
    left = await bench.engine.find(NAME)
    assert left is not None
    assert left.container_id == other


async def a_restored_container_gets_another_name_while_paused(bench: Bench) -> None:
    archive = await bench.freeze(await bench.start())
    await bench.engine.remove(NAME, stop_timeout_seconds=0)
    copy = await bench.engine.restore(archive, NAME, published(23101), deadline_seconds=60)
    await bench.answers(copy, 23101)
    watching = asyncio.ensure_future(bench.engine.lost(copy))
    await bench.engine.pause(copy)
    await bench.engine.rename(NAME, COPY)
    await bench.engine.unpause(copy)
    await bench.answers(copy, 23101)
    found = await bench.engine.find(COPY)
    assert found is not None
    assert (found.container_id, found.running) == (copy, True)
    assert not watching.done()
    again = bench.engine.restore(archive, COPY, published(23102), deadline_seconds=60)
    assert (await problem(again)).code == "engine.name-taken"
    second = await bench.engine.restore(archive, NAME, published(23102), deadline_seconds=60)
    assert second != copy, "the old name is free"
    assert await bench.engine.remove(COPY, stop_timeout_seconds=1)
    assert await asyncio.wait_for(watching, 10) == "its first process ended"


async def a_paused_container_is_removed_at_once(bench: Bench) -> None:
    archive = await bench.freeze(await bench.start())
    copy = await bench.engine.restore(archive, COPY, published(23101), deadline_seconds=60)
    await bench.answers(copy, 23101)
    await bench.engine.pause(copy)
    assert await bench.engine.remove(copy, stop_timeout_seconds=0)
    assert await bench.engine.find(copy) is None


async def a_copy_is_all_that_its_original_was(bench: Bench) -> None:
    """Everything that can be asked of a container can be asked of a restored one."""
    archive = await bench.freeze(await bench.start())
    engine = bench.engine
    copy = await engine.restore(archive, COPY, published(23101), deadline_seconds=60)
    await bench.answers(copy, 23101)
    found = await engine.find(COPY)
    assert found is not None
    assert found == await engine.find(copy)
    assert found in await engine.containers()
    assert (found.running, found.started_at > time.time() - 60) == (True, True)
    assert found.image_id == await engine.image_id(bench.application.image)
    assert await engine.memory_bytes(copy) > 0
    heard = await engine.execute(COPY, ("cat",), stdin=b"a seed", timeout_seconds=10)
    assert (heard.status, heard.output) == (0, "a seed")
    assert isinstance(await engine.logs(COPY, 5), tuple)
    await bench.quiet(copy)
    watching = asyncio.ensure_future(engine.lost(copy))
    await engine.pause(copy)
    asked = asyncio.ensure_future(bench.count(23101))
    await asyncio.sleep(0.1)
    assert not asked.done()
    await engine.unpause(copy)
    assert await asyncio.wait_for(asked, 10) == 0
    assert not watching.done()
    assert (await problem(bench.start(COPY, 23102))).code == "engine.name-taken"
    assert await engine.remove(COPY, stop_timeout_seconds=1)
    assert await asyncio.wait_for(watching, 10) == "its first process ended"
    assert await engine.find(copy) is None
    assert not await engine.remove(COPY, stop_timeout_seconds=1)


async def a_copy_is_frozen_and_restored_like_its_original(bench: Bench) -> None:
    archive = await bench.freeze(await bench.start())
    copy = await bench.engine.restore(archive, COPY, published(23101), deadline_seconds=60)
    await bench.answers(copy, 23101)
    assert [await bench.count(23101) for _ in range(2)] == [0, 1]
    await bench.quiet(copy)
    second = bench.folder / "second.tar"
    await bench.engine.checkpoint(COPY, second, deadline_seconds=60)
    frozen = await bench.engine.find(COPY)
    assert frozen is not None
    assert not frozen.running, "the frozen copy stays, stopped"
    await bench.engine.thaw(copy, deadline_seconds=60)
    await bench.answers(copy, 23101)
    assert await bench.count(23101) == 2, "it runs on where it was"
    await bench.engine.remove(COPY, stop_timeout_seconds=0)
    again = await bench.engine.restore(second, COPY, published(23102), deadline_seconds=60)
    await bench.answers(again, 23102)
    assert await bench.count(23102) == 2, "its archive is as good as the first one"
    await bench.engine.remove(COPY, stop_timeout_seconds=0)
    if isinstance(bench.engine, Chooser):
        again = await bench.engine.restore(
            second, COPY, published(23103), deadline_seconds=60, way="podman"
        )
        await bench.answers(again, 23103)
        assert await bench.count(23103) == 2, "and podman can restore it as well"


async def an_image_comes_back_with_its_content_id(bench: Bench) -> None:
    image = bench.application.image
    wanted = await bench.engine.image_id(image)
    archive = bench.folder / "image.tar"
    await bench.engine.save_image(image, archive)
    assert await bench.engine.load_image(archive, image) == wanted
    assert await bench.engine.image_id(wanted) == wanted


CASES: dict[str, Callable[[Bench], Awaitable[None]]] = {
    case.__name__: case
    for case in (
        a_started_container_is_listed_with_its_labels,
        a_checkpoint_is_restored_under_another_name_and_counts_on,
        a_frozen_container_is_thawed_where_it_was,
        a_taken_name_is_told_and_its_owner_untouched,
        a_taken_port_is_told,
        a_missing_image_is_told,
        a_damaged_archive_is_refused,
        the_end_of_a_container_is_an_event,
        a_lost_container_is_told_with_how,
        a_command_inside_gets_its_input_and_tells_its_status,
        an_open_connection_is_seen,
        a_paused_container_answers_when_it_runs_on,
        a_paused_container_gets_another_name_and_runs_on,
        a_restored_container_gets_another_name_while_paused,
        a_paused_container_is_removed_at_once,
        a_copy_is_all_that_its_original_was,
        a_copy_is_frozen_and_restored_like_its_original,
        an_image_comes_back_with_its_content_id,
    )
}


async def run_case(engine: Engine, case: str, image: str, folder: Path) -> None:
    """Run one case and remove what it made."""
    bench = Bench(engine, image, folder)
    try:
        await CASES[case](bench)
    finally:
        await bench.remove_all()


def main(arguments: list[str] | None = None) -> None:
    """Run cases on this host: ENGINE IMAGE CASE...; one line of JSON each."""
    engine, image, *cases = arguments or sys.argv[1:]
    for case in cases:
        with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
            error = ""
            try:
                asyncio.run(run_case(build_engine(engine), case, image, Path(folder)))
            except (Problem, AssertionError) as failure:
                error = f"{type(failure).__name__}: {failure} {getattr(failure, 'detail', '')}"
        print(json.dumps({"case": case, "error": error}), flush=True)


if __name__ == "__main__":
    main()
