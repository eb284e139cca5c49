"""A host behind a network that drips, goes mute or cuts at the worst moment: real TCP, by a proxy.

The daemon reaches host b through the proxy only; host a directly. One fleet for all of it.
"""

from __future__ import annotations

import pytest
from wire_proxy import ProxyProcess

from poold.lab.network import BRIDGE_ADDRESS

pytestmark = [pytest.mark.lab, pytest.mark.slow]

_FOLDER = "/var/lib/poold-network"


@pytest.fixture(scope="module")
def bad_network(faults_lab, make_for_all):
    """Make the proxy, and the fleet that reaches b through it."""
    lab, make = faults_lab, make_for_all
    gateway = BRIDGE_ADDRESS
    command = ProxyProcess.argv(gateway, lab.address("b"), 22)
    with ProxyProcess(lab.run_argv(command)) as proxy:
        keys = [line.split() for line in lab.known_hosts_path.read_text().splitlines()]
        pinned = lab.state_dir / "known_hosts.proxy"
        (key,) = (" ".join(rest) for name, *rest in keys if name == lab.address("b"))
        pinned.write_text(f"[{gateway}]:{proxy.port} {key}\n")
        tables = [
            make.host("a", agent_dir=_FOLDER),
            make.host(
                "b",
                agent_dir=_FOLDER,
                address=gateway,
                port=proxy.port,
                publish_address=lab.address("b"),
                known_hosts_file=str(pinned),
            ),
            make.pool("app", command=make.application(ballast_mib=8), keep_generations=1),
        ]
        fleet = make.fleet("network", tables, agent_dir=_FOLDER)
        fleet.scaled("app", 2)
        fleet.rest()
        yield fleet, proxy


@pytest.fixture
def fleet(bad_network, lend):
    """Lend the fleet at rest, its network in order before and afterwards."""
    fleet, proxy = bad_network
    with lend(fleet):
        try:
            yield fleet
        finally:
            proxy.tell("open")


@pytest.fixture
def proxy(bad_network):
    """Lend the network."""
    return bad_network[1]


def _is_done(fleet, verb):
    """Whether b has done it all: nothing runs there any more, and this is what is left."""
    seen = fleet.look("b")
    lives = [one.running for one in seen.containers if one.name == "app7"]
    return not seen.actions and lives == {"restore": [True], "remove": [], "capture": [False]}[verb]


@pytest.mark.fault(
    "a host is slow",
    how="a proxy before its sshd lets one byte a second pass each way",
    ends="unknown within seconds, its names reserved; the others work on; used again when fast",
)
def test_one_byte_a_second(fleet, proxy):
    """The slow host is out of reach, with a reason; nothing else waits for it."""
    fleet.scaled("app", 2)
    proxy.tell("drip 1")
    fleet.injected()
    assert fleet.host("b", "unknown").reason
    fleet.settled(fleet.client.restore("app", host="a"))
    there = [one for one in fleet.client.replicas("app") if one.host == "b"]
    assert {one.state for one in there} == {"unknown"}
    proxy.tell("open")
    fleet.host("b", "up")
    fleet.ready("app", 3)
    fleet.converged()
    after = [one.container_id for one in fleet.client.replicas("app") if one.host == "b"]
    assert after == [one.container_id for one in there]


@pytest.mark.fault(
    "a host becomes slow while it is sent a generation",
    how="a proxy before its sshd lets one byte a second pass each way",
    ends="the rest is sent when it is fast again, not all of it anew",
)
def test_one_byte_a_second_while_sending(fleet, proxy):
    """What arrived is kept: the sending goes on where it was."""
    change = fleet.client.checkpoint("app")
    fleet.during(change, "sending the check")
    proxy.tell("drip 1")
    fleet.injected()
    fleet.host("b", "unknown")
    proxy.tell("open")
    fleet.settled(change)
    fleet.converged()
    fleet.settled(fleet.client.restore("app", host="b"))
    (replica,) = fleet.ready("app", 1)
    assert (replica.host, replica.method) == ("b", "restore")


@pytest.mark.fault(
    "the connection drops after the action succeeded and before the reply",
    how="a proxy holds back what the host says until it is done, then resets the connection",
    ends="the outcome is read from the host's journal, nothing is done twice",
)
@pytest.mark.parametrize("verb", ["restore", "remove", "capture"])
def test_the_reply_is_lost(fleet, proxy, verb):
    """What the host did counts, once, and the change settles."""
    if verb != "restore":
        fleet.settled(fleet.client.restore("app", name="app7", host="b"))
        before = fleet.count(fleet.ready("app", 1)[0])
    if verb == "restore":
        change = fleet.client.restore("app", name="app7", host="b")
        fleet.during(change, "restoring")
    elif verb == "remove":
        change = fleet.client.remove("app7")
        fleet.during(change, "removing")
    else:
        change = fleet.client.move("app7", to="a")
        fleet.during(change, "checkpointing")
    proxy.tell("mute")
    fleet.injected()
    fleet.until("it is done", lambda: _is_done(fleet, verb))
    made = [one.id for one in fleet.look("b").containers if one.name == "app7" and one.running]
    proxy.tell("cut")
    proxy.tell("open")
    fleet.settled(change)
    replicas = fleet.ready("app", 0 if verb == "remove" else 1)
    fleet.converged()
    if verb == "remove":
        assert made == []
    elif verb == "restore":
        assert [one.container_id for one in replicas] == made
        assert replicas[0].method == "restore"
    else:
        assert replicas[0].host == "a"
        assert fleet.count(replicas[0]) == before + 1
