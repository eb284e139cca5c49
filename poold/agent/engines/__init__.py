"""Engines freeze and thaw containers on a host; `build_engine` chooses one by its name."""

from __future__ import annotations

from poold.agent.engines.base import Engine
from poold.errors import Refused


def build_engine(name: str) -> Engine:
    """Return a new engine of that name.

    "podman"; "oci" for one that also calls the OCI runtime itself; "memory" for simulated fleets
    and tests.
    """
    if name in ("oci", "oci-alone"):
        from poold.agent.engines.oci import OciEngine

        return OciEngine(falls_back=name == "oci")
    if name == "podman":
        from poold.agent.engines.podman import PodmanEngine

        return PodmanEngine()
    if name == "memory":
        from poold.agent.engines.memory import MemoryEngine

        return MemoryEngine()
    raise Refused(
        "engine.unknown", f"cannot use the engine {name!r}", hint="choose podman, oci or memory"
    )
