"""Hosts that reboot, die for good or come back, and a configuration that changes under way."""

from __future__ import annotations

import signal
import time

import pytest

from poold.errors import Refused

pytestmark = [pytest.mark.lab, pytest.mark.slow]

_PERIOD_SECONDS = 2.0  # reconcile_seconds of these fleets
_BUSY_SECONDS = 3.0  # what the looking itself may take on a busy machine


def _container(fleet, name):
    (found,) = (one for one in fleet.client.replicas() if one.name == name)
    return found.host, found.container_id


@pytest.mark.fault(
    "a host reboots",
    how="all of it killed and booted again",
    ends="it is believed to be empty; its replicas are restored in place",
)
def test_a_host_that_rebooted_has_its_replicas_again_within_two_periods(fleet):
    """It is believed to be empty from the first listing on, and restored in place."""
    fleet.scaled("app", 2)
    (name,) = (one.name for one in fleet.client.replicas("app") if one.host == "b")
    host, old = _container(fleet, name)
    booted = fleet.host("b", "up").boot_id
    fleet.injected()
    fleet.lab.reboot("b")
    fleet.until("another boot is seen", lambda: fleet.host("b", "up").boot_id != booted)
    seen = time.monotonic()
    fleet.until("it has its replica again", lambda: _container(fleet, name)[1] != old)
    took = time.monotonic() - seen
    fleet.converged()
    (again,) = (one for one in fleet.ready("app", 2) if one.name == name)
    assert took < 2 * _PERIOD_SECONDS + (again.seconds or 0.0) + _BUSY_SECONDS, took
    assert _container(fleet, name)[0] == host


@pytest.mark.fault(
    "a host dies for good",
    how="all of it killed; the operator fences it",
    ends="its replica comes up elsewhere; back, it gets nothing before somebody says so",
)
def test_a_dead_host_is_fenced_and_used_again_after_uncordon(fleet):
    """Its replica comes up elsewhere; back, it gets nothing before somebody says so."""
    fleet.scaled("app", 2)
    with pytest.raises(Refused, match="in reach"):
        fleet.client.fence("b", confirmed=True)
    fleet.injected()
    fleet.lab.kill("b")
    try:
        fleet.host("b", "unknown")
        with pytest.raises(Refused, match="live twice"):
            fleet.client.fence("b", confirmed=False)
        assert fleet.client.fence("b", confirmed=True).state == "settled"
        assert {one.host for one in fleet.ready("app", 2)} == {"a"}
        fleet.converged()
    finally:
        fleet.lab.reboot("b")
        assert fleet.host("b", "up").mark == "fenced"
    assert {one.host for one in fleet.scaled("app", 3)} == {"a"}
    fleet.client.uncordon("b")
    assert {one.host for one in fleet.scaled("app", 5)} == {"a", "b"}


@pytest.mark.fault(
    "a fenced host lived on",
    how="cut off, fenced by mistake, mended",
    ends="the copy that nobody counts on goes, the other one stays",
)
def test_what_a_fenced_host_that_lived_on_brings_back_is_removed(make):
    """The operator was wrong: the copy that nobody counts on goes, the other one stays."""
    folder = "/var/lib/poold-fenced"
    tables = [make.host("a", agent_dir=folder), make.host("b", agent_dir=folder)]
    tables.append(make.pool("app", command=make.application()))
    fleet = make.fleet("fenced", tables, agent_dir=folder)
    fleet.scaled("app", 2)
    (name,) = (one.name for one in fleet.client.replicas("app") if one.host == "b")
    fleet.lab.cut("b")
    try:
        fleet.host("b", "unknown")
        fleet.client.fence("b", confirmed=True)
        assert {one.host for one in fleet.ready("app", 2)} == {"a"}
        before = _container(fleet, name)
    finally:
        fleet.injected()
        fleet.lab.mend("b")
    fleet.host("b", "up")
    fleet.until("b is rid of it", lambda: name not in fleet.names("b"))
    assert _container(fleet, name) == before
    fleet.converged()
    fleet.until("b may be used again", lambda: _uncordoned(fleet))
    fleet.scaled("app", 0)
    fleet.is_tidy()


def _uncordoned(fleet):
    try:
        return fleet.client.uncordon("b").state == "settled"
    except Refused:
        return False


def _reload(fleet, text, state):
    """Write the file, send SIGHUP and return the change that says what became of it."""
    fleet.config.write_text(text)
    last = max((one.id for one in fleet.client.changes(limit=1)), default=0)
    assert fleet.tell(signal.SIGHUP)

    def answered():
        found = [c for c in fleet.client.changes(limit=5) if c.kind == "reload" and c.id > last]
        return found[0] if found else None

    change = fleet.until("the reload is answered", answered)
    assert change.state == state, change
    return change


@pytest.mark.fault(
    "a configuration that cannot be used",
    how="SIGHUP with mistakes in the file",
    ends="refused whole with the key's path; replicas run on",
)
def test_reload_on_sighup(make):
    """Hosts and pools come and go with the file, mistakes change nothing, replicas run on."""
    folder = "/var/lib/poold-reload"
    one = [make.host("a", agent_dir=folder)]
    one.append(make.pool("app", command=make.application(), hosts=["a"]))
    fleet = make.fleet("reload", one, agent_dir=folder)
    fleet.scaled("app", 1)
    app = _container(fleet, "app1")
    narrow = fleet.config.read_text()
    other = make.pool("other", command=make.application(), hosts=["b"], replicas=1)
    wide = narrow + make.host("b", agent_dir=folder) + other
    assert _reload(fleet, wide, "settled").progress == "reloaded: hosts: +b, pools: +other"
    fleet.ready("other", 1)
    other_ran = _container(fleet, "other1")

    fleet.injected()
    problem = _reload(fleet, wide.replace('hosts = ["b"]', 'hosts = ["c"]'), "failed").problem
    assert problem["code"] == "config.invalid"
    assert "pools.other.hosts" in problem["detail"]
    assert "pools.other.hosts" in fleet.log.read_text()
    fleet.until("it is said", lambda: "not reloaded" in fleet.client.health()["sentence"])
    refused = _reload(fleet, wide.replace('fleet = "reload"', 'fleet = "x"'), "failed")
    assert "daemon.fleet" in refused.problem["message"]
    fleet.converged()

    _reload(fleet, narrow, "settled")
    fleet.until("b is gone", lambda: [host.name for host in fleet.client.hosts()] == ["a"])
    assert "not reloaded" not in fleet.client.health()["sentence"]
    assert "other1" in fleet.names("b")
    _reload(fleet, wide, "settled")
    fleet.ready("other", 1)
    assert _container(fleet, "other1") == other_ran
    assert _container(fleet, "app1") == app
    fleet.scaled("other", 0)
    fleet.scaled("app", 0)
    fleet.is_tidy()
