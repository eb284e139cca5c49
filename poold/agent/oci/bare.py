"""The runtime's restore and nothing else: the floor that poold's own restores are measured against.

Flows in: a slot that was made beforehand, its stage. Flows out: a running container, until it is
taken away. No conmon, no name, no record: nothing is minded, and no listing shows it.
"""

from __future__ import annotations

import asyncio
import os

from poold.agent import proc
from poold.agent.oci.making import Maker
from poold.agent.oci.slots import Slot
from poold.agent.oci.stages import Stage
from poold.agent.process import CommandFailed, Finished, clean_environment, finish
from poold.errors import Temporary

_SAID_BYTES = 4000


class Bare:
    """One slot, restored into by hand."""

    def __init__(self, maker: Maker, stage: Stage, slot: Slot) -> None:
        self._maker = maker
        self._stage = stage
        self._slot = slot
        self._reading: list[int] = []

    async def restore(self, *, deadline_seconds: float) -> None:
        """Call the runtime; the application's output goes into pipes that nobody reads."""
        programs, places = self._maker.host.programs, self._maker.places(self._slot.box)
        out, err = os.pipe(), os.pipe()
        self._reading += [out[0], err[0]]
        argv = programs.restore_argv(places, self._stage.images)
        try:
            child = await asyncio.create_subprocess_exec(
                *argv, stdin=asyncio.subprocess.DEVNULL, stdout=out[1], stderr=err[1],
                env=clean_environment(), start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(out[1])
            os.close(err[1])
        try:
            status = await asyncio.wait_for(child.wait(), deadline_seconds)
        except asyncio.TimeoutError as error:
            raise Temporary(
                "command.timeout", f"cannot finish {argv[0]} within {deadline_seconds:g} s"
            ) from error
        finally:
            if child.returncode is None:
                child.kill()
                await finish(_ended(child))
        if status != 0:
            os.set_blocking(err[0], False)
            said = os.read(err[0], _SAID_BYTES)
            raise CommandFailed(Finished(tuple(argv), status, b"", said))

    async def remove(self) -> None:
        """End the container and take its slot away."""
        for descriptor in self._reading:
            os.close(descriptor)
        self._reading.clear()
        self._slot.let_go()
        await self._maker.remove(self._slot.box)

    async def memory_bytes(self) -> int:
        """Return the resident memory of its processes."""
        pid = self._maker.places(self._slot.box).pid()
        return await asyncio.get_running_loop().run_in_executor(None, proc.resident_bytes, pid)


async def _ended(child: asyncio.subprocess.Process) -> None:
    await child.wait()
