"""The daemon ends by kill -9 at the worst moments: what was accepted is done all the same.

With it dies, in half of the cases, its agent on every host, as happens on the host that the daemon
runs on itself. The fixture looks afterwards that no name lived twice and that nothing is left over.
"""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.lab, pytest.mark.slow]

_HANDS = pytest.mark.parametrize("agents_too", [False, True], ids=["daemon", "daemon-and-agents"])


def _moments(*moments):
    """Return a mark: each moment once, every second time with the agents."""
    cases = [
        pytest.param(moment, bool(n % 2), id=moment.strip(": ")) for n, moment in enumerate(moments)
    ]
    return pytest.mark.parametrize(("moment", "agents_too"), cases)


def _die(fleet, agents_too):
    fleet.injected()
    if agents_too:
        fleet.kill_with_agents()
    else:
        fleet.kill()
    fleet.start()


@pytest.mark.fault(
    "the daemon dies while building",
    how="kill -9, in half of the cases of the agents on all hosts too",
    ends="the checkpoint is made, once",
)
@_moments("starting cold", "checkpointing", "proving", "compressing")
def test_while_building(fleet, moment, agents_too):
    """A checkpoint that was asked for is made, once, whenever in its making the daemon dies."""
    before = [one.number for one in fleet.client.generations("app")]
    change = fleet.client.checkpoint("app")
    fleet.during(change, moment)
    _die(fleet, agents_too)
    fleet.settled(change)
    fleet.converged()
    after = [one.number for one in fleet.client.generations("app")]
    assert after == [before[0] + 1 if before else 1]
    (replica,) = fleet.scaled("app", 1)
    assert replica.method == "restore", replica
    assert fleet.count(replica) == 2


@pytest.mark.fault(
    "the daemon dies while distributing",
    how="kill -9, in half of the cases of the agents on all hosts too",
    ends="what arrived is not sent again, the rest is",
)
@_moments("sending the image", "loading the image", "sending the check")
def test_while_distributing(fleet, moment, agents_too):
    """A host that lacks image and generation gets both, and what arrived is not sent again."""
    if "image" in moment:
        fleet.on("b", "podman", "rmi", "--force", "localhost/poold-lab/counter:latest")
    change = fleet.client.checkpoint("app")
    fleet.during(change, moment)
    _die(fleet, agents_too)
    fleet.settled(change)
    fleet.converged()
    found = fleet.settled(fleet.client.restore("app", host="b"))
    assert found.phases
    (replica,) = fleet.ready("app", 1)
    assert (replica.host, replica.method) == ("b", "restore")


@pytest.mark.fault(
    "the daemon dies while restoring",
    how="kill -9, in half of the cases of the agents on all hosts too",
    ends="every replica comes up, once",
)
@_HANDS
def test_while_restoring(fleet, agents_too):
    """Replicas that were wished for come up, each once, and go on from the checkpoint."""
    fleet.scaled("app", 1)
    change = fleet.client.scale("app", replicas=4)
    fleet.during(change, "restoring")
    _die(fleet, agents_too)
    fleet.settled(change)
    replicas = fleet.ready("app", 4)
    fleet.converged()
    assert {one.method for one in replicas} == {"restore"}
    assert [fleet.count(one) for one in replicas] == [2, 2, 2, 2]


@pytest.mark.fault(
    "the daemon dies while moving",
    how="kill -9, in half of the cases of the agents on all hosts too",
    ends="the replica is on exactly one host with its count, and the change says on which",
)
@_moments(": image", "checkpointing", "sealing", "sending", "restoring", ": forget")
def test_while_moving(fleet, moment, agents_too):
    """The replica ends on exactly one host with its count, and the change says on which."""
    (replica,) = fleet.scaled("app", 1)
    seen = fleet.count(replica)
    target = "b" if replica.host == "a" else "a"
    change = fleet.client.move(replica.name, to=target)
    fleet.during(change, moment)
    _die(fleet, agents_too)
    ended = fleet.ended(change)
    (moved,) = fleet.ready("app", 1)
    fleet.converged()
    assert moved.host == (target if ended.state == "settled" else replica.host), ended
    assert fleet.count(moved) == seen + 1
    if not agents_too:
        assert ended.state == "settled", ended


@pytest.mark.fault(
    "the daemon dies while removing",
    how="kill -9, in half of the cases of the agents on all hosts too",
    ends="what nobody wishes any more goes",
)
@_HANDS
def test_while_removing(fleet, agents_too):
    """What nobody wishes any more goes, whoever dies meanwhile."""
    fleet.scaled("app", 3)
    change = fleet.client.scale("app", replicas=0)
    fleet.during(change, "removing")
    _die(fleet, agents_too)
    fleet.settled(change)
    fleet.ready("app", 0)
    fleet.converged()


@pytest.mark.fault(
    "the daemon dies right after accepting",
    how="kill -9",
    ends="the wish is fulfilled by its next life",
)
def test_right_after_accepting(fleet):
    """A wish that was accepted a moment before the daemon died is fulfilled by its next life."""
    change = fleet.client.scale("app", replicas=2)
    _die(fleet, agents_too=False)
    fleet.settled(change)
    fleet.ready("app", 2)
    fleet.converged()
