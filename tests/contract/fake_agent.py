"""An agent whose hands do nothing real: each request's name chooses how it behaves.

A real program (`fake_agent.py serve --dir D --run R`) and, for the host in process, a handler.
What it did is told by `ran.log` in its folder: one line "<action> <begin|end|undone>" a step.

Remove, by name: "quick*" is done at once; "wait*" until the file go-<name> appears; "stubborn*"
the same, and when cancelled takes a while to undo itself. Discard fails with a problem, Stage with
a bug, Examine never answers, Logs of "pid" tells the process, of "big" more than a frame holds.
A file event-<name> in its folder makes it tell an event of that name, once.
The environment: FAKE_AGENT_PRINTS writes to stdout on start, which must not hurt the wire.
"""

import asyncio
import os
import sys

from poold.agent.__main__ import main
from poold.agent.messages import (
    Discard,
    Done,
    Event,
    Examine,
    LogLines,
    Logs,
    Observation,
    Observe,
    Progress,
    Remove,
    Stage,
)
from poold.errors import Permanent

STUBBORN_SECONDS = 0.3


class FakeHandler:
    def __init__(self, root, run, running):
        self._root = root
        self._running = running
        if os.environ.get("FAKE_AGENT_PRINTS"):
            print("hello, this is no frame", flush=True)

    async def handle(self, request, *, action, report):
        if isinstance(request, Remove):
            return await self._remove(request.name, action, report)
        if isinstance(request, Discard):
            raise Permanent("fake.refused", "cannot discard it", hint="do not", detail="a\nb")
        if isinstance(request, Stage):
            raise ZeroDivisionError("a bug")
        if isinstance(request, Examine):
            await asyncio.Event().wait()
        if isinstance(request, Logs):
            words = {"pid": str(os.getpid()), "big": "x" * (17 << 20)}
            return LogLines((words.get(request.name, request.name),))
        if isinstance(request, Observe):
            return Observation("boot", 1.0, running_actions=self._running())
        raise AssertionError(request)

    async def watch(self, tell):
        told = set()
        while True:  # another process says when
            for file in set(self._root.glob("event-*")) - told:
                told.add(file)
                tell(Event("ended", file.name.partition("-")[2], "c1", 1.5, "a reason"))
            await asyncio.sleep(0.005)

    async def _remove(self, name, action, report):
        self._log(f"{action} begin")
        report(Progress("half", 1, 2))
        try:
            while not self._may_end(name):  # noqa: ASYNC110 - another process says when
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            if name.startswith("stubborn"):
                await asyncio.sleep(STUBBORN_SECONDS)
            self._log(f"{action} undone")
            raise
        self._log(f"{action} end")
        return Done(changed=True)

    def _may_end(self, name):
        return name.startswith("quick") or (self._root / f"go-{name}").exists()

    def _log(self, line):
        with (self._root / "ran.log").open("a") as file:
            file.write(line + "\n")


def make_handler(root, run, engine, running):
    return FakeHandler(root, run, running)


if __name__ == "__main__":
    sys.exit(main(make_handler=make_handler))
