"""A pool whose replicas are restored by the OCI runtime: the same life as with podman."""

from __future__ import annotations

import json

import pytest

pytestmark = [pytest.mark.lab, pytest.mark.slow]

_BOXES = "/var/lib/containers/poold/containers"
_LOOK = f"""
import json, os, subprocess
from pathlib import Path
folder = Path({_BOXES!r})
boxes = [json.loads((each / "box.json").read_text()) for each in folder.iterdir()] if folder.is_dir() else []
listed = subprocess.run(["podman", "ps", "-a", "--no-trunc", "--format", "json"], capture_output=True, text=True)
podmans = json.loads(listed.stdout or "[]")
others = {{each["Id"] for each in podmans if "io.poold.fleet" not in (each["Labels"] or {{}})}}
print(json.dumps({{
    "names": sorted(box["name"] for box in boxes if box["name"]),
    "slots": sum(not box["name"] for box in boxes),
    "runc": sum(each.name not in others for each in Path("/run/runc").glob("*")),
    "namespaces": len(list(Path("/run/netns").glob("poold-*"))),
    "mounts": sum({_BOXES!r} in line for line in Path("/proc/self/mountinfo").read_text().splitlines()),
    "podman": len(podmans) - len(others),
}}))
"""  # noqa: E501 - a program for the host


def _look(fleet, host):
    return json.loads(fleet.on(host, "python3", "-c", _LOOK))


def _import_what_podman_exported(fleet, command):
    """Have a container that was run and frozen by hand become a generation, and refuse rubbish."""
    settings = "org.criu.config=/var/lib/poold-agent/criu/fast.conf"
    image = "localhost/poold-lab/counter:latest"
    made = ("podman", "run", "--detach", "--name", "by-hand", "--publish", "23800:8080")
    fleet.on("a", *made, "--annotation", settings, image, *json.loads(command))
    answers = "until curl -sf http://127.0.0.1:23800/; do sleep 0.05; done; sleep 0.1"
    fleet.on("a", "sh", "-c", f"timeout 20 sh -c '{answers}'")
    freeze = ("podman", "container", "checkpoint", "--compress", "gzip", "--export")
    fleet.on("a", *freeze, "/var/tmp/by-hand.tar.gz", "by-hand")
    fleet.on("a", "podman", "rm", "by-hand")
    wrong = fleet.failed(fleet.client.import_archive("fast", file="/etc/passwd"))
    assert wrong["code"] == "import.bad-archive"
    fleet.settled(fleet.client.import_archive("fast", file="/var/tmp/by-hand.tar.gz"))
    fleet.on("a", "rm", "/var/tmp/by-hand.tar.gz")
    fleet.settled(fleet.client.restore("fast", name="fast9", host="a"))
    (one,) = (one for one in fleet.client.replicas("fast") if one.name == "fast9")
    assert (one.generation, one.engine, fleet.count(one)) == (2, "oci", 1)


def test_replicas_of_the_runtime_live_as_podmans_do(make):
    """Restored in parallel, moved with their state, brought up again, kept by a new daemon."""
    pool = make.pool("fast", command=make.application(), engine="oci", slots=1)
    fleet = make.fleet("runtime", [make.host("a"), make.host("b"), pool])
    replicas = fleet.scaled("fast", 3)
    assert {replica.method for replica in replicas} == {"restore"}
    assert [fleet.count(replica) for replica in replicas] == [2, 2, 2]
    seen = [_look(fleet, host) for host in ("a", "b")]
    assert sorted(name for one in seen for name in one["names"]) == ["fast1", "fast2", "fast3"]
    assert sum(one["runc"] for one in seen) == 3
    assert [one["podman"] for one in seen] == [0, 0], "podman restored none of them"

    moving = replicas[0]
    there = "b" if moving.host == "a" else "a"
    fleet.settled(fleet.client.move(moving.name, to=there))
    moved = next(one for one in fleet.client.replicas("fast") if one.name == moving.name)
    assert (moved.host, moved.method, fleet.count(moved)) == (there, "move", 3)

    fleet.kill_with_agents()
    fleet.start()
    kept = fleet.ready("fast", 3)
    assert {one.container_id for one in kept} >= {moved.container_id}
    assert fleet.count(moved) == 4, "it ran on"

    victim = next(one for one in kept if one.name == moving.name)
    (pid,) = json.loads(
        fleet.on(there, "sh", "-c", f"cat {_BOXES}/{victim.container_id}/pidfile | sed 's/.*/[&]/'")
    )
    fleet.on(there, "kill", "-9", str(pid))

    def lives_again():
        found = next(one for one in fleet.client.replicas("fast") if one.name == victim.name)
        other = found.container_id not in (None, victim.container_id)
        return found if found.state == "ready" and other else None

    assert fleet.count(fleet.until("it lives again", lives_again)) == 2

    _import_what_podman_exported(fleet, make.application())
    fleet.scaled("fast", 0)
    fleet.stop()
    nothing = {"names": [], "slots": 0, "runc": 0, "namespaces": 0, "mounts": 0, "podman": 0}
    for host in ("a", "b"):
        fleet.until(f"{host} has nothing left", lambda host=host: _look(fleet, host) == nothing)
