"""What goes wrong in an engine that only pretends, on request.

Flows in: faults, from a test or the variable POOLD_MEMORY, {"faults": [{"step": "restore", "name":
"hello2"}]}; the step and the container at hand. Flows out: a Problem, a delay, or the kind of
misbehaviour that the engine plays itself. It refuses to know how an engine works.
"""

from __future__ import annotations

import asyncio
import fnmatch
import json
import os
from dataclasses import dataclass

from poold.errors import Permanent, Temporary


@dataclass
class Fault:
    """What goes wrong: `step` (an engine's call, such as run or restore) of names like `name`.

    Kinds: "fail" raises; "hang" takes an hour; "mute" comes up and never listens; "exit" comes up
    and ends at once; "slow" takes `seconds` longer. `times` bounds how often; negative: always.
    """

    step: str
    name: str = "*"
    kind: str = "fail"
    times: int = -1
    seconds: float = 1.0


class Faults:
    """The faults that are left; without any, those of the environment."""

    def __init__(self, faults: tuple[Fault, ...] = ()) -> None:
        self._faults = list(faults) or _of_environment()

    async def strike(self, step: str, name: str, deadline_seconds: float) -> str:
        """Do what is asked to go wrong at this step; return the kinds that the caller plays."""
        for fault in self._faults:
            if fault.step == step and fault.times != 0 and fnmatch.fnmatchcase(name, fault.name):
                fault.times -= 1
                if fault.kind == "fail":
                    raise Permanent(
                        f"criu.{step}-failed", f"cannot {step} {name}: a fault was asked for",
                        detail="Error (memory): simulated",
                    )  # fmt: skip
                if fault.kind == "hang":
                    await asyncio.sleep(min(deadline_seconds, 3600.0))
                    raise Temporary("command.timeout", f"cannot {step} {name} in time")
                if fault.kind == "slow":
                    await asyncio.sleep(fault.seconds)
                return fault.kind
        return ""


def _of_environment() -> list[Fault]:
    said = json.loads(os.environ.get("POOLD_MEMORY") or "{}")
    return [Fault(**fault) for fault in said.get("faults", [])]
