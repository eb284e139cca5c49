"""The engine oci on a lab host: whatever dies in the middle, the next listing leaves nothing."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from poold.hosts.bundle import build_bundle
from poold.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.slow]

_SOURCE = Path(__file__).with_name("oci_at_work.py")
_PROGRAM = "/var/tmp/oci-at-work.pyz"
_SECONDS = 120

AtWork = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def at_work(lab: Lab) -> Iterator[AtWork]:
    """Run one step in a process of its own on a lab host; a first archive is there."""
    host = lab.hosts()[0]
    main = b"import oci_at_work\n\noci_at_work.main()\n"
    bundle = build_bundle({"oci_at_work.py": _SOURCE.read_bytes(), "__main__.py": main})
    put = host.exec_argv(["dd", f"of={_PROGRAM}", "status=none"])
    subprocess.run(put, input=bundle.content, check=True)

    def step(*verb: str, failpoint: str = "") -> subprocess.CompletedProcess[str]:
        setting = f"POOLD_FAILPOINTS={failpoint}=kill" if failpoint else "POOLD_FAILPOINTS="
        argv = host.exec_argv(["env", setting, "python3", _PROGRAM, *verb])
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_SECONDS, check=False)
        if not failpoint:
            assert done.returncode == 0, done.stderr
        return done

    try:
        step("freeze", "localhost/poold-lab/counter:latest")
        step("restore", "first", "23301")
        step("clear")
        yield step
    finally:
        step("clear")
        lab.exec(host.name, "rm", "-rf", _PROGRAM, "/var/tmp/oci-at-work")


def nothing(at_work: AtWork) -> dict[str, Any]:
    """Let another process list and remove; return what is left, which should be nothing."""
    at_work("clear")
    found: dict[str, Any] = json.loads(at_work("left").stdout)
    return {what: these for what, these in found.items() if these}


@pytest.mark.parametrize(
    "failpoint",
    ["oci.written-down", "oci.mounted", "oci.connected", "oci.thawed"],
)
def test_an_agent_killed_while_it_restores_leaves_nothing(at_work: AtWork, failpoint: str) -> None:
    """Dead at each durable step of a restore without a slot."""
    done = at_work("restore", "copy", "23301", failpoint=failpoint)
    assert done.returncode != 0, "it was to be killed"
    assert nothing(at_work) == {}


@pytest.mark.parametrize(
    "failpoint",
    ["oci.written-down", "oci.mounted", "oci.connected", "oci.claimed", "oci.thawed"],
)
def test_an_agent_killed_with_a_slot_leaves_nothing(at_work: AtWork, failpoint: str) -> None:
    """Dead while a slot is made, claimed and used."""
    done = at_work("restore-slot", "copy", failpoint=failpoint)
    assert done.returncode != 0, "it was to be killed"
    assert nothing(at_work) == {}


def test_an_agent_killed_while_it_stages_leaves_nothing(at_work: AtWork, lab: Lab) -> None:
    """Unpacked to the last file, it is no stage before it has its name."""
    lab.exec(lab.hosts()[0].name, "touch", "/var/tmp/oci-at-work/archive.tar")  # another one now
    done = at_work("restore", "copy", "23301", failpoint="stage.before_rename")
    assert done.returncode != 0, "it was to be killed"
    assert nothing(at_work) == {}
    at_work("restore", "copy", "23301")
    assert nothing(at_work) == {}


@pytest.mark.parametrize("failpoint", ["oci.ended", "oci.disconnected"])
def test_an_agent_killed_while_it_removes_leaves_nothing(at_work: AtWork, failpoint: str) -> None:
    """What was half removed is still listed, and removed to its end."""
    at_work("restore", "copy", "23301")
    assert at_work("remove", "copy", failpoint=failpoint).returncode != 0
    assert nothing(at_work) == {}


def test_an_agent_killed_while_it_renames_leaves_one(at_work: AtWork) -> None:
    """It is listed by its new name alone; woken later it answers, and knows that name itself."""
    at_work("restore", "copy", "23301")
    assert at_work("rename", "copy", "other", "23301", failpoint="oci.renamed").returncode != 0
    done = json.loads(at_work("rename", "other", "third", "23301").stdout)
    assert done["names"] == ["third", "third"]
    assert nothing(at_work) == {}


def test_an_agent_killed_while_it_freezes_leaves_nothing(at_work: AtWork) -> None:
    """The frozen copy is listed, and can be removed."""
    at_work("restore", "copy", "23301")
    assert at_work("freeze-copy", "copy", failpoint="oci.frozen").returncode != 0
    assert nothing(at_work) == {}


@pytest.mark.parametrize("whom", ["conmon", "runc", "criu"])
@pytest.mark.parametrize("after_ms", [0, 15])
def test_a_program_killed_in_a_restore_leaves_nothing(
    at_work: AtWork, whom: str, after_ms: int
) -> None:
    """The runtime, CRIU or conmon, at moments of a restore; the agent lives and says it failed."""
    done = json.loads(at_work("interrupt", "copy", str(after_ms), whom).stdout)
    assert done["error"].startswith("cannot restore copy") or done["error"] == ""
    assert nothing(at_work) == {}


def test_a_burst_of_eight_comes_up_whole(at_work: AtWork) -> None:
    """Eight at once on one host, each at its own address and port."""
    done = json.loads(at_work("burst", "8").stdout)
    assert done["up"] == 8
    assert nothing(at_work) == {}


def test_a_slot_is_claimed_and_what_is_left_of_them_goes_with_the_agent(at_work: AtWork) -> None:
    """With a slot nothing but the claim and the runtime is on the way."""
    done = json.loads(at_work("restore-slot", "copy").stdout)
    assert "claim" in done["phases"]
    assert "slot" not in done["phases"]
    found = json.loads(at_work("left").stdout)
    assert len(found["boxes"]) == 1, "the slots that waited are gone, the replica is not"
    assert nothing(at_work) == {}


def test_podman_may_come_later_than_the_runtime(at_work: AtWork, lab: Lab) -> None:
    """After a boot that brought replicas up first, podman's first network hides none of theirs."""
    host = lab.hosts()[0].name
    lab.exec(host, "sh", "-c", "while umount --lazy /run/netns 2>/dev/null; do :; done")
    at_work("restore", "copy", "23301")
    lab.exec(host, "podman", "run", "--rm", "localhost/poold-lab/counter:latest", "true")
    assert nothing(at_work) == {}
