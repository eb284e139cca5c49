"""Looking over the daemon's machine and the hosts, with links of the test's own."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from poold.agent.messages import Examine, Finding, Findings
from poold.config import Config, DaemonConfig
from poold.doctor import examine_daemon, examine_hosts
from poold.errors import Permanent, Problem, Temporary
from poold.model.fleet import Host


@dataclass
class Link:
    """A host that answers, or fails to be reached or to examine."""

    name: str
    reach: Problem | None = None
    answer: Findings | Problem = field(
        default_factory=lambda: Findings((Finding("podman", "ok", "5.8.6"),))
    )
    meets: asyncio.Barrier | None = None

    async def wait_up(self, timeout_seconds):
        if self.reach:
            raise self.reach

    async def call(self, request, *, action, deadline_seconds, progress=None):
        assert isinstance(request, Examine)
        assert request.now == 1000.0
        if self.meets:
            await asyncio.wait_for(self.meets.wait(), 5)
        if isinstance(self.answer, Problem):
            raise self.answer
        return self.answer


async def _examined(*links):
    return await examine_hosts({link.name: link for link in links}, now=lambda: 1000.0)


async def test_findings_stand_by_host():
    """What an agent finds stands under its host's name, after that it answers."""
    found = await _examined(Link("a"), Link("b"))
    assert {name: [f.check for f in findings] for name, findings in found.items()} == {
        "a": ["reach", "podman"],
        "b": ["reach", "podman"],
    }


async def test_hosts_are_examined_at_once():
    """Both examinations are under way at the same time: each waits for the other."""
    meets = asyncio.Barrier(2)
    await _examined(Link("a", meets=meets), Link("b", meets=meets))


@pytest.mark.parametrize(
    "link",
    [
        Link("b", reach=Temporary("host.unreachable", "cannot reach b", hint="plug it in")),
        Link("b", answer=Permanent("command.not-found", "cannot reach b", hint="plug it in")),
    ],
    ids=["unreachable", "failing"],
)
async def test_a_host_that_fails_is_a_finding(link):
    """A host that cannot be examined is an error with a way out; the others are examined."""
    found = await _examined(Link("a"), link)
    (finding,) = found["b"]
    assert (finding.level, finding.what) == ("error", "cannot reach b")
    assert finding.way_out == "plug it in"
    assert found["a"][-1].level == "ok"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Everything in order: a key, a known_hosts file, a token, folders."""
    for name in ("key", "known_hosts", "token"):
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(0o600)
    (tmp_path / "state").mkdir()
    host = Host(
        name="a",
        key_file=str(tmp_path / "key"),
        known_hosts_file=str(tmp_path / "known_hosts"),
    )
    daemon = DaemonConfig(
        state_dir=str(tmp_path / "state"),
        socket=str(tmp_path / "s"),
        listen="127.0.0.1:8080",
        token_file=str(tmp_path / "token"),
    )
    return Config(daemon=daemon, hosts={"a": host}, pools={})


def _worse(config: Config, uid: int = 0) -> dict[str, Finding]:
    return {f.check: f for f in examine_daemon(config, uid=uid) if f.level != "ok"}


def test_a_daemon_in_order_has_no_complaint(config):
    """Nothing is found where nothing is wrong."""
    assert set(_worse(config)) <= {"disk"}  # the machine's own disk may be full


def test_a_state_folder_without_its_reserve_is_a_warning(config):
    """The figures are named: wishes are refused there."""
    config = replace(config, daemon=replace(config.daemon, disk_reserve="1000000t"))
    assert "less than the reserve" in _worse(config)["disk"].what


@pytest.mark.parametrize(
    ("name", "check"),
    [("key", "key of a"), ("known_hosts", "known_hosts of a"), ("token", "token")],
)
def test_a_missing_file_is_an_error(config, tmp_path, name, check):
    """Key, known_hosts and token files must be there."""
    (tmp_path / name).unlink()
    assert _worse(config)[check].level == "error"
    assert _worse(config)[check].way_out


@pytest.mark.parametrize(("name", "check"), [("key", "key of a"), ("token", "token")])
def test_a_secret_that_others_can_read_is_a_warning(config, tmp_path, name, check):
    """A wide mode is named, with the command that narrows it."""
    (tmp_path / name).chmod(0o644)
    finding = _worse(config)[check]
    assert (finding.level, "mode 0644" in finding.what) == ("warning", True)
    assert finding.way_out == f"chmod 600 {tmp_path / name}"


def test_a_state_folder_that_is_a_file_is_an_error(config, tmp_path):
    """A file where the state folder should be is found."""
    (tmp_path / "state").rmdir()
    (tmp_path / "state").write_text("x")
    assert _worse(config)["state"].level == "error"


def test_a_state_folder_to_be_made_is_fine(config):
    """A folder that is not there yet is judged by its nearest parent."""
    daemon = replace(config.daemon, state_dir=config.daemon.state_dir + "/x/y")
    assert "state" not in _worse(replace(config, daemon=daemon))


def test_the_sockets_place_is_looked_at(config):
    """Another file at the socket's path is an error; a socket is not."""
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(config.daemon.socket)
    assert "socket" not in _worse(config)
    Path(config.daemon.socket).unlink()
    Path(config.daemon.socket).write_text("x")
    assert _worse(config)["socket"].level == "error"


@pytest.mark.parametrize(("uid", "complains"), [(0, False), (1000, True)])
def test_a_local_host_needs_root(config, uid, complains):
    """Checkpoints on the daemon's own machine need root."""
    local = replace(config, hosts={"here": Host(name="here", kind="local")})
    assert ("host here" in _worse(local, uid)) == complains


async def test_a_reload_meanwhile_does_not_mix_the_hosts_up():
    """Each finding stands under the host that it was made on, though the daemon's links changed."""
    links = {"a": Link("a"), "b": Link("b", reach=Temporary("host.unreachable", "cannot reach b"))}

    @dataclass
    class Leaving(Link):
        async def wait_up(self, timeout_seconds):
            del links["a"]
            links["c"] = Link("c")

    links["a"] = Leaving("a")
    found = await examine_hosts(links, now=lambda: 1000.0)
    assert {name: findings[0].level for name, findings in found.items()} == {
        "a": "ok",
        "b": "error",
    }
