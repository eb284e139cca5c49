"""Podman's language: arguments as they are given, JSON and errors as podman 5.8 gives them."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from poold.agent.engines import podman, podman_words as words
from poold.agent.engines.base import Launch, Published, Versions
from poold.agent.process import Finished
from poold.errors import Problem
from poold.model.application import Application, Limits, Volume

APPLICATION = Application(
    image="localhost/hello:1",
    port=8080,
    command=("serve", "--fast"),
    env={"TOKEN": "s3cret"},
    user="1000",
    volumes=(Volume("/srv/data", "/data", read_only=True),),
    tmpfs=("/tmp:size=10m",),
    limits=Limits(memory="512m", cpus=1.5, pids=100),
)
LAUNCH = Launch(
    "hello1",
    APPLICATION,
    {"io.poold.fleet": "f"},
    Path("/agent/criu/hello.conf"),
    (Published(8080, 20000, "10.0.0.1"), Published(9990, 20001)),
    Path("/agent/work/a1"),
)


def test_a_cold_start_says_all_that_the_pool_says() -> None:
    """Every setting is an option, the image and its command come last."""
    arguments = words.run_arguments(LAUNCH, Path("/agent/work/a1/environment"))
    text = " ".join(arguments)
    for part in (
        "run --detach", "--name hello1", "--label io.poold.fleet=f", "--user 1000",
        "--annotation org.criu.config=/agent/criu/hello.conf", "--network podman",
        "--publish 10.0.0.1:20000:8080", "--publish 20001:9990", "--volume /srv/data:/data:ro",
        "--tmpfs /tmp:size=10m", "--memory 512m", "--cpus 1.5", "--pids-limit 100",
    ):  # fmt: skip
        assert part in text
    assert arguments[-3:] == ["localhost/hello:1", "serve", "--fast"]


def test_a_cold_start_by_an_images_id_pulls_nothing() -> None:
    """The name may mean another one by now; without that very image it fails and says so."""
    launch = replace(LAUNCH, image_id="a" * 64)
    arguments = words.run_arguments(launch, Path("/e"))
    assert arguments[-4:] == ["--pull=never", "a" * 64, "serve", "--fast"]
    assert "localhost/hello:1" not in arguments
    finished = Finished(["podman"], 125, b"", b"Error: aaaa: image not known\n")
    problem = words.explain_start(finished, launch)
    assert problem.code == "image.missing"
    assert "the image aaaaaaaaaaaa, of which its pool's current generation is" in problem.message
    assert "poold checkpoint" in problem.hint


def test_no_secret_is_in_the_arguments() -> None:
    """Everybody on the host can read a program's arguments."""
    arguments = words.run_arguments(LAUNCH, Path("/agent/work/a1/environment"))
    assert not any("s3cret" in argument for argument in arguments)


def test_limits_that_are_not_set_are_not_given() -> None:
    """A host without controllers refuses limits: none must be named by default."""
    plain = replace(LAUNCH, application=Application(image="x", port=1))
    arguments = words.run_arguments(plain, Path("/e"))
    assert not {"--memory", "--cpus", "--pids-limit", "--user"} & set(arguments)


def test_a_version_6_address_is_bracketed() -> None:
    """Podman takes the last colons for the ports."""
    assert words.publish_arguments((Published(8080, 20000, "fd00::1"),)) == [
        "--publish", "[fd00::1]:20000:8080",
    ]  # fmt: skip


def test_a_listed_container_is_read() -> None:
    """State, labels and the start's time are what `podman ps` says."""
    found = words.container(
        {
            "Id": "ab",
            "Names": ["hello1"],
            "State": "exited",
            "Labels": None,
            "StartedAt": 1795501057,
        }
    )
    assert (found.name, found.running, found.status) == ("hello1", False, "exited")
    assert (dict(found.labels), found.started_at) == ({}, 1795501057.0)


def test_the_installation_is_read() -> None:
    """Versions for the manifest, folders for CRIU's log and conmon's pid file."""
    info = {
        "host": {"ociRuntime": {"name": "runc", "version": "runc version 1.3.6+ds1\ncommit: 1"}},
        "store": {"graphRoot": "/g", "runRoot": "/r", "graphDriverName": "overlay"},
        "version": {"Version": "5.8.6"},
    }
    found = words.read_installation(info, "Version: 4.2.1\n")
    assert found.versions.engine == "podman 5.8.6"
    assert found.versions.runtime == "runc 1.3.6+ds1"
    assert found.versions.criu == "criu 4.2.1"
    assert found.log("ab", "dump.log") == Path("/g/overlay-containers/ab/userdata/dump.log")
    assert found.pid("ab") == 0
    assert words.read_installation(info, "").versions.criu == ""


ERRORS = {
    "engine.port-taken": (
        "Error: cannot listen on the TCP port: listen tcp4 10.78.0.11:20001: bind: address already"
        " in use"
    ),
    "image.missing": (
        'Error: short-name "nope:1" did not resolve to an alias and no unqualified-search'
        ' registries are defined in "/etc/containers/registries.conf"'
    ),
    "network.missing": "Error: unable to find network with name or ID nonet: network not found",
    "volume.missing": "Error: statfs /nowhere: no such file or directory",
    "host.disk-full": "Error: copying layers: write /x: no space left on device",
    "engine.name-taken": (
        'Error: creating container storage: the container name "hello1" is already in use by ae27.'
        " You have to remove that container to be able to reuse that name"
    ),
    "engine.start-failed": "Error: unable to find user nobodyatall: no matching entries in passwd",
}


@pytest.mark.parametrize("code", ERRORS)
def test_each_failed_start_has_its_code(code: str) -> None:
    """What can be acted upon is told apart; the rest is told in podman's own words."""
    finished = Finished(("podman", "run"), 125, b"", ERRORS[code].encode())
    problem = words.explain_start(finished, LAUNCH)
    assert problem.code == code
    assert problem.message.startswith("cannot ")
    assert ERRORS[code] in problem.detail


def test_an_answer_that_is_no_id_is_refused() -> None:
    """A pull's chatter before the id is fine, its absence is not."""
    container_id = "ab" * 32
    said = f"Trying to pull…\n{container_id}\n".encode()
    assert words.container_id(Finished(("podman", "run"), 0, said, b"")) == container_id
    with pytest.raises(Problem, match="cannot read a container's id"):
        words.container_id(Finished(("podman", "run"), 0, b"done\n", b""))


def test_the_last_words_are_the_last_line_with_something_in_it() -> None:
    """As podman's log file has it: a time, a stream, a mark, and the text."""
    log = b"T stdout F first\nT stderr F boom: no heap \nT stdout F   \nT stdout F\n"
    assert words.last_words(log) == "boom: no heap"
    assert words.last_words(b"half a li") == ""


def test_a_listing_is_not_believed_where_a_process_is_gone(tmp_path: Path) -> None:
    """Podman says "running" for a moment after the end, and for ever when conmon was killed."""
    versions = Versions("podman 5", "runc 1", "criu 4")
    facts = words.Installation(versions, tmp_path, tmp_path, "overlay-containers")
    ended = subprocess.Popen(["true"])
    ended.wait()
    here, gone = os.getpid(), ended.pid
    folder = tmp_path / "overlay-containers" / "c1" / "userdata"
    folder.mkdir(parents=True)

    def status(pid: int, conmon: int) -> tuple[bool, str]:
        (folder / "conmon.pid").write_text(str(conmon))
        entry = {"Id": "c1", "Names": ["hello1"], "State": "running", "Pid": pid}
        seen = podman.as_it_is(entry, facts)
        return seen.running, seen.status

    assert status(here, here) == (True, "running")
    assert status(gone, here) == (False, "ended")
    assert status(here, gone) == (False, "without conmon")
