"""Hosts that cannot be reached, must not be trusted, lack podman, or die: what is said and done."""

from __future__ import annotations

import subprocess

import pytest

pytestmark = [pytest.mark.lab, pytest.mark.slow]

_PODMAN = "/usr/bin/podman"


@pytest.fixture
def second_sshd(faults_lab):
    """Let host b be reached by port 2222 as well, so that it can be configured twice."""
    unit = "second-sshd"
    faults_lab.exec("b", "systemd-run", "--unit", unit, "/usr/sbin/sshd", "-D", "-p", "2222")
    yield 2222
    faults_lab.exec("b", "systemctl", "stop", unit)


@pytest.mark.fault(
    "hosts that must not be used",
    how="the key is refused, the host's key is another one, nobody answers",
    ends="the pool runs on the host that is left; each reason with its way out",
)
def test_hosts_that_must_not_be_used(faults_lab, make, second_sshd, tmp_path):
    """Each fault is named with its way out, and the pool runs on the host that is left."""
    lab, other_key, pinned = faults_lab, tmp_path / "key", tmp_path / "known_hosts"
    keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other_key)]
    subprocess.run(keygen, check=True)
    public = other_key.with_suffix(".pub").read_text()
    pinned.write_text(f"[{lab.address('b')}]:{second_sshd} {public}")
    nowhere = lab.address("b").rpartition(".")[0] + ".99"
    tables = [
        make.host("a", agent_dir="/var/lib/poold-edge"),
        make.host("b", key_file=str(other_key)),
        make.host(
            "changed",
            address=lab.address("b"),
            port=second_sshd,
            known_hosts_file=str(pinned),
            publish_ports="21000-21099",
        ),
        make.host("never", address=nowhere),
        make.pool("edge", command=make.application(), hosts=["a", "b", "changed", "never"]),
    ]
    fleet = make.fleet("edge", tables, hosts=["a"], agent_dir="/var/lib/poold-edge")
    fleet.injected()
    fleet.settled(fleet.client.scale("edge", replicas=2))
    assert {one.host for one in fleet.ready("edge", 2)} == {"a"}
    said = {
        "b": ("refuses the key", "authorized_keys"),
        "changed": ("another key than the one in", "ssh-keyscan"),
        "never": (nowhere, ""),
    }
    for name, words in said.items():
        reason = fleet.host(name, "unknown").reason
        assert all(word in reason for word in words), reason
    found = fleet.client.doctor()["hosts"]
    for name in said:
        (finding,) = found[name]
        assert (finding["check"], finding["level"]) == ("reach", "error")
        assert finding["way_out"], finding
    change = fleet.client.restore("edge", name="edge5", host="never")
    fleet.during(change, "never")  # waits for it, and says so
    fleet.settled(fleet.client.remove("edge5"))
    fleet.settled(fleet.client.scale("edge", replicas=0))
    fleet.converged()


@pytest.mark.fault(
    "a host is cut off",
    how="its link is set down",
    ends="its replica is unknown, its name reserved; others come up; all is caught up with",
)
def test_a_host_that_is_cut_off(fleet):
    """Its replicas stay reserved, others come up elsewhere, and it is caught up with afterwards."""
    fleet.scaled("app", 2)
    (there,) = (one for one in fleet.client.replicas("app") if one.host == "b")
    fleet.injected()
    fleet.lab.cut("b")
    try:
        assert fleet.host("b", "unknown").reason
        fleet.until(
            "its replica is unknown, with a reason",
            lambda: (
                [
                    one.name
                    for one in fleet.client.replicas("app")
                    if one.state == "unknown" and one.reason
                ]
                == [there.name]
            ),
        )
        change = fleet.client.scale("app", replicas=4)
        fleet.until(
            "two more are ready",
            lambda: sum(one.state == "ready" for one in fleet.client.replicas("app")) == 3,
        )
        assert fleet.client.change(change.id).state == "pending"
        fleet.keeps_promises(change)
        fewer = fleet.client.scale("app", replicas=0)
        fleet.until("those in reach are gone", lambda: len(fleet.client.replicas("app")) == 1)
    finally:
        fleet.lab.mend("b")
    fleet.settled(fewer)
    assert fleet.client.change(change.id).state != "pending"
    fleet.converged()


@pytest.mark.fault(
    "a host is cut off while it restores",
    how="its link is set down",
    ends="what it did meanwhile counts, nothing is done twice",
)
def test_a_host_that_is_cut_off_while_it_restores(fleet):
    """What it did meanwhile counts: nothing is done twice, and the change settles."""
    change = fleet.client.restore("app", host="b")
    fleet.during(change, "restoring")
    fleet.injected()
    fleet.lab.cut("b")
    try:
        fleet.host("b", "unknown")
    finally:
        fleet.lab.mend("b")
    fleet.settled(change)
    (replica,) = fleet.ready("app", 1)
    assert (replica.host, replica.method) == ("b", "restore")
    fleet.converged()


@pytest.mark.fault(
    "a host lost podman",
    how="the program is moved away",
    ends="the host is unknown and says podman; the other one runs the replicas",
)
def test_a_host_without_podman(fleet):
    """Nothing is believed of it, the reason names podman, and the other host runs the replicas."""
    fleet.injected()
    fleet.on("b", "mv", _PODMAN, f"{_PODMAN}.away")
    try:
        reason = fleet.host("b", "unknown").reason
        assert "podman" in reason, reason
        found = fleet.client.doctor()["hosts"]["b"]
        (finding,) = (one for one in found if one["check"] == "podman")
        assert finding["level"] == "error"
        assert finding["way_out"]
        assert {one.host for one in fleet.scaled("app", 2)} == {"a"}
    finally:
        fleet.on("b", "mv", f"{_PODMAN}.away", _PODMAN)
    fleet.host("b", "up")
    fleet.converged()


@pytest.mark.fault(
    "the builder lost podman",
    how="the program is moved away",
    ends="the checkpoint waits, says why, and is made when podman is back",
)
def test_a_builder_without_podman(fleet):
    """A checkpoint that nobody can make now waits, says why, and is made when podman is back."""
    fleet.injected()
    fleet.on("a", "mv", _PODMAN, f"{_PODMAN}.away")
    try:
        assert "podman" in fleet.host("a", "unknown").reason
        change = fleet.client.checkpoint("app")
        fleet.during(change, "podman")
    finally:
        fleet.on("a", "mv", f"{_PODMAN}.away", _PODMAN)
    fleet.settled(change)
    fleet.converged()


@pytest.mark.fault(
    "a host dies while it restores",
    how="its first process is killed, all of it dies; booted again",
    ends="after its boot all that was wished for is there",
)
def test_a_host_that_dies_while_it_restores(fleet):
    """After its reboot, all that was wished for is there."""
    change = fleet.client.scale("app", replicas=4)
    fleet.during(change, "restoring")
    fleet.injected()
    fleet.lab.kill("b")
    fleet.host("b", "unknown")
    fleet.lab.reboot("b")
    fleet.settled(change)
    assert {one.host for one in fleet.ready("app", 4)} == {"a", "b"}
    fleet.converged()


@pytest.mark.fault(
    "a host dies in a move",
    how="source or target killed while sending, freezing or restoring; booted again",
    ends="the replica runs on exactly one host, with its count where its source lived on",
)
@pytest.mark.parametrize(
    ("which", "moment"),
    [("target", "sending"), ("target", "restoring"), ("source", "sending"), ("source", "capt")],
)
def test_a_host_that_dies_in_a_move(fleet, which, moment):
    """The replica runs on one host afterwards; where its source lived on, with its count."""
    (replica,) = fleet.scaled("app", 1)
    seen = fleet.count(replica)
    target = "b" if replica.host == "a" else "a"
    dies = target if which == "target" else replica.host
    change = fleet.client.move(replica.name, to=target)
    fleet.during(change, moment)
    fleet.injected()
    fleet.lab.kill(dies)
    try:
        if which == "target" and moment == "sending":
            problem = fleet.failed(change)
            assert problem["code"] == "host.unreachable", problem
            (back,) = fleet.ready("app", 1)
            assert fleet.count(back) == seen + 1
    finally:
        fleet.lab.reboot(dies)
    ended = fleet.ended(change)
    (after,) = fleet.ready("app", 1)
    assert after.host == (target if ended.state == "settled" else replica.host), ended
    fleet.converged()
    if which == "target" and ended.state == "failed":
        assert fleet.count(after) >= seen + 1
