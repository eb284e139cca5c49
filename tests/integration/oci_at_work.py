"""The engine oci at work on a lab host, one step a process, so that each can be killed.

Standard library and the agent's own code only. Verbs: `freeze` an image into an archive; `restore`
an archive; `restore-slot` the same through a slot made ahead; `rename` a paused one and wake it;
`remove`; `freeze-copy` a restored one; `burst` of restores at once; `interrupt` one; `clear` what
there is; `left`: what still is.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from poold.agent import criu, probe
from poold.agent.engines.base import Ahead, Launch, Published
from poold.agent.engines.oci import OciEngine
from poold.agent.http import Target
from poold.agent.probe import Reach
from poold.model.application import Application, HttpProbe

ROOT = Path("/var/lib/containers/poold")
SCRATCH = Path("/var/tmp/oci-at-work")
ARCHIVE = SCRATCH / "archive.tar"
PORTS = (8080,)


def published(port: int) -> tuple[Published, ...]:
    return (Published(8080, port, "127.0.0.1"),)


async def answers(engine: OciEngine, container_id: str, port: int) -> None:
    async def no_command(*_: object) -> object:
        raise AssertionError("no command was to be run")

    async def died() -> None:
        await engine.wait_exit(container_id)

    reach = Reach("x", 8080, {8080: Target("127.0.0.1", port)}, no_command)  # type: ignore[arg-type]
    await probe.until_ready(HttpProbe(path="/hello/ready", interval_ms=2), reach, died)


async def freeze(engine: OciEngine, image: str) -> None:
    config = SCRATCH / "criu.conf"
    config.write_text("".join(f"{line}\n" for line in criu.settings(())))
    app = Application(image=image, port=8080)
    launch = Launch("origin", app, {"io.poold.fleet": "w"}, config, published(23300), SCRATCH)
    container_id = await engine.run(launch)
    await answers(engine, container_id, 23300)
    while await engine.connections(container_id):  # noqa: ASYNC110 - the kernel's
        await asyncio.sleep(0.02)
    await engine.checkpoint("origin", ARCHIVE, deadline_seconds=60)
    await engine.remove("origin", stop_timeout_seconds=0)


async def restore(engine: OciEngine, name: str, port: str) -> None:
    await engine.restore(ARCHIVE, name, published(int(port)), deadline_seconds=60)
    print(json.dumps({"restored": name}))


async def restore_slot(engine: OciEngine, name: str) -> None:
    """Keep one slot, then restore with it."""
    await engine.stage(ARCHIVE)
    ahead = Ahead("w", 23400, 23410, PORTS, "127.0.0.1", 1)
    engine.keep(ARCHIVE, ahead, frozenset)
    tending = asyncio.ensure_future(engine.tend())
    while not (offered := engine.offer(ARCHIVE, ahead)):
        if tending.done():
            tending.result()
        await asyncio.sleep(0.02)
    container_id = await engine.restore(ARCHIVE, name, offered, deadline_seconds=60)
    await answers(engine, container_id, offered[0].host_port)
    told = engine.restored(container_id)
    tending.cancel()
    await asyncio.wait({tending})
    print(json.dumps({"restored": name, "phases": told.phases if told else {}}))


async def rename(engine: OciEngine, name: str, new_name: str, port: str) -> None:
    """Do with a restored one what a spare goes through, and tell how long waking it took."""
    found = await engine.find(name)
    assert found is not None
    await engine.unpause(name)  # who did this before may have died over it
    await answers(engine, found.container_id, int(port))
    await engine.pause(name)
    began = time.monotonic()
    await engine.rename(name, new_name)
    await engine.unpause(found.container_id)
    await answers(engine, found.container_id, int(port))
    seconds = time.monotonic() - began
    own = await engine.execute(new_name, ("cat", "/etc/hostname"), stdin=b"", timeout_seconds=10)
    kernel = ("cat", "/proc/sys/kernel/hostname")
    host = await engine.execute(new_name, kernel, stdin=b"", timeout_seconds=10)
    print(json.dumps({"seconds": seconds, "names": [own.output.strip(), host.output.strip()]}))


async def freeze_copy(engine: OciEngine, name: str) -> None:
    found = await engine.find(name)
    assert found is not None
    while await engine.connections(found.container_id):  # noqa: ASYNC110 - the kernel's
        await asyncio.sleep(0.02)
    await engine.checkpoint(name, SCRATCH / "copy.tar", deadline_seconds=60)


async def remove(engine: OciEngine, name: str) -> None:
    await engine.remove(name, stop_timeout_seconds=0)


async def burst(engine: OciEngine, count: str) -> None:
    """Restore many at once; every one answers at its own port."""
    began = time.monotonic()

    async def one(number: int) -> str:
        port = 23500 + number
        ports = published(port)
        container_id = await engine.restore(ARCHIVE, f"burst{number}", ports, deadline_seconds=120)
        await answers(engine, container_id, port)
        return container_id

    ids = await asyncio.gather(*(one(number) for number in range(int(count))))
    found = {each.container_id for each in await engine.containers() if each.running}
    print(json.dumps({"up": len(found.intersection(ids)), "seconds": time.monotonic() - began}))


async def interrupt(engine: OciEngine, name: str, after_ms: str, whom: str) -> None:
    """Kill a program of a restore some time after it began: conmon, runc or criu."""
    await engine.stage(ARCHIVE)  # podman asks conmon and runc for their versions
    restoring = asyncio.ensure_future(
        engine.restore(ARCHIVE, name, published(23301), deadline_seconds=60)
    )
    pids: list[int] = []
    for _ in range(10_000):
        pids = _programs(whom)
        if pids or restoring.done():
            break
        await asyncio.sleep(0.001)
    await asyncio.sleep(int(after_ms) / 1000)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    await asyncio.wait({restoring})
    error = "" if restoring.exception() is None else str(restoring.exception())
    print(json.dumps({"killed": len(pids), "error": error}))


def _programs(word: str) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "comm").read_text().strip() == word:
                found.append(int(process.name))
        except OSError:
            continue
    return found


async def clear(engine: OciEngine) -> None:
    """List, as another agent would; remove what is listed."""
    for container in await engine.containers():
        if container.labels.get("io.poold.fleet") == "w":
            await engine.remove(container.container_id, stop_timeout_seconds=0)
    await engine.containers()


async def left(_: OciEngine) -> None:
    """Tell everything of a box that is still on this host."""
    look()


def look() -> None:
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    rules = _said("nft", "list", "ruleset")
    print(
        json.dumps(
            {
                "boxes": _names(ROOT / "containers"),
                "names": _names(ROOT / "names"),
                "mounts": [line.split()[4] for line in mounts if f"{ROOT}/" in line],
                "namespaces": _names(Path("/run/netns")),
                "devices": [
                    line.split(":")[1].strip()
                    for line in _said("ip", "-o", "link").splitlines()
                    if "veth" in line
                ],
                "runc": _names(Path("/run/runc")),
                "programs": [word for word in ("conmon", "criu", "perl") if _programs(word)],
                "rules": [line.strip() for line in rules.splitlines() if "dport 23" in line],
                "groups": [str(path) for path in Path("/sys/fs/cgroup").rglob("poold-*.scope")],
                "parts": [path for path in _names(ROOT / "stages") if path.endswith(".part")],
            }
        )
    )


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def _said(*argv: str) -> str:
    return subprocess.run(argv, check=False, capture_output=True, text=True).stdout


VERBS = {
    "freeze": freeze, "restore": restore, "restore-slot": restore_slot, "rename": rename,
    "remove": remove,
    "freeze-copy": freeze_copy, "burst": burst, "interrupt": interrupt, "clear": clear,
    "left": left,
}  # fmt: skip


def main() -> None:
    os.umask(0o077)
    SCRATCH.mkdir(exist_ok=True)
    verb, *arguments = sys.argv[1:]
    asyncio.run(VERBS[verb](OciEngine(falls_back=False), *arguments))  # type: ignore[operator]


if __name__ == "__main__":
    main()
