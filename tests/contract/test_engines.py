"""One contract for all engines: the memory engine here, podman and oci on a lab host."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from poold.agent.engines.memory import MemoryEngine
from poold.hosts.bundle import build_bundle
from poold.lab import Lab

_SOURCE = Path(__file__).with_name("engine_cases.py")


def _cases() -> ModuleType:
    spec = importlib.util.spec_from_file_location("engine_cases", _SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CASES = _cases()


@pytest.mark.parametrize("case", CASES.CASES)
async def test_the_memory_engine_keeps_the_contract(case: str, tmp_path: Path) -> None:
    """What simulated fleets are built on behaves as the real engine does."""
    images = {"hello": "1" * 64}
    engine = MemoryEngine(images=images, storage=tmp_path)
    try:
        await CASES.run_case(engine, case, "hello", tmp_path)
    finally:
        await engine.close()


@pytest.fixture(scope="module")
def podman_outcomes(lab: Lab) -> Iterator[dict[str, str]]:
    """Each error by its case, "" for none."""
    yield from _outcomes(lab, "podman")


@pytest.fixture(scope="module")
def oci_outcomes(lab: Lab) -> Iterator[dict[str, str]]:
    """Each error by its case, where nobody helps the runtime when it fails."""
    yield from _outcomes(lab, "oci-alone")


def _outcomes(lab: Lab, engine: str) -> Iterator[dict[str, str]]:
    """Run all cases on a lab host, in one go."""
    host = lab.hosts()[0]
    program = "/var/tmp/poold-contract.pyz"
    bundle = build_bundle(
        {
            "engine_cases.py": _SOURCE.read_bytes(),
            "__main__.py": b"import engine_cases\n\nengine_cases.main()\n",
        }
    )
    put = host.exec_argv(["dd", f"of={program}", "status=none"])
    subprocess.run(put, input=bundle.content, check=True)
    image = "localhost/poold-lab/counter:latest"
    try:
        said = lab.exec(host.name, "python3", program, engine, image, *CASES.CASES)
        outcomes = [json.loads(line) for line in said.splitlines()]
        yield {outcome["case"]: outcome["error"] for outcome in outcomes}
    finally:
        lab.exec(host.name, "rm", "-f", program)


@pytest.mark.lab
@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.CASES)
def test_podman_keeps_the_contract(case: str, podman_outcomes: dict[str, str]) -> None:
    """The real thing, with runc and CRIU."""
    assert podman_outcomes[case] == ""


@pytest.mark.lab
@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.CASES)
def test_the_runtime_keeps_the_contract(case: str, oci_outcomes: dict[str, str]) -> None:
    """Restored without podman, a container can do and says what podman's can."""
    assert oci_outcomes[case] == ""
