"""What of CRIU's log goes with a failure, however podman ends."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from poold.agent import criu, criu_log
from poold.agent.engines.podman import PodmanEngine
from poold.agent.process import Finished
from poold.errors import Problem

ID = "ab" * 32
ERROR = "(00.107772) Error (criu/mem.c:712): fault: Dump VMA pages failure!"
RLIMIT = "(00.1) Error (criu/util.c:1): rlimit: Can't setup RLIMIT_NOFILE for self: not permitted"


def test_errors_come_first_then_what_criu_did_last() -> None:
    """The cause is not lost among thousands of lines, nor is how it went on."""
    noise = [f"(00.2) pie: 1: line {number}" for number in range(3000)]
    log = "\n".join([RLIMIT, *noise[:1500], ERROR, *noise[1500:], "(00.3) Unfreezing tasks"])
    lines = criu_log.excerpt(log).splitlines()
    assert lines[:2] == [ERROR, "…"]
    assert lines[-1] == "(00.3) Unfreezing tasks"
    assert lines[-2] == noise[-1]


def test_a_log_without_errors_tells_its_end() -> None:
    """A CRIU that was killed had no time to say why."""
    assert criu_log.excerpt(f"{RLIMIT}\nfault: CRIU sudden detach\n\n") == (
        f"{RLIMIT}\nfault: CRIU sudden detach"
    )
    assert criu_log.excerpt("") == ""


@given(st.lists(st.text(max_size=3000) | st.just(f"{ERROR}é") | st.just("x" * 5000), max_size=60))
def test_an_excerpt_is_short_and_printable(lines: list[str]) -> None:
    """Whatever paths and sizes the log has, it fits into an event and spoils no terminal."""
    text = criu_log.excerpt("\n".join(lines))
    assert len(text.encode()) <= criu_log.EXCERPT_BYTES
    assert all(character.isprintable() or character == "\n" for character in text)


def test_an_older_log_is_another_storys(tmp_path: Path) -> None:
    """Where CRIU was not reached this time, the last time's error would mislead."""
    log = tmp_path / "dump.log"
    log.write_text(ERROR)
    assert criu_log.read(log, since=time.time() - 60) == ERROR
    os.utime(log, (1, 1))
    assert criu_log.read(log, since=time.time()) == ""
    assert criu_log.read(tmp_path / "absent") == ""


def test_the_whole_evidence_is_bounded() -> None:
    """Podman's own words may be long as well; its last ones are kept."""
    said = "\n".join(f"line {number} of podman" for number in range(500)).encode()
    finished = Finished(("podman", "container", "restore"), 125, b"", said)
    detail = criu.explain("restore", "a1", log=f"{ERROR}\n" * 100, finished=finished).detail
    assert len(detail.encode()) < 3200
    assert detail.startswith(ERROR)
    assert detail.endswith("line 499 of podman\n$ podman container restore")


# -- with a podman that fails on request ----------------------------------------------------------

PODMAN = """#!/bin/sh
folder={folder}/overlay-containers/{id}/userdata
case "$1 $2" in
  info*) echo '{{"store": {{"graphRoot": "{folder}", "graphDriverName": "overlay"}}}}' ;;
  ps*) echo '[{{"Id": "{id}", "Names": ["a1"], "State": "running"}}]' ;;
  container*) mkdir -p $folder; echo '{error}' > $folder/{log}; {then} ;;
esac
"""


@pytest.fixture
def make_engine(tmp_path: Path) -> Callable[[str, str], PodmanEngine]:
    """Return a function that makes an engine whose podman lets CRIU fail, then does `then`."""

    def make(log: str, then: str) -> PodmanEngine:
        program = tmp_path / "podman"
        program.write_text(
            PODMAN.format(folder=tmp_path, id=ID, error=ERROR, log=log, then=then), "utf-8"
        )
        program.chmod(0o755)
        return PodmanEngine(str(program))

    return make


CALLS = {
    "checkpoint": "dump.log",
    "restore": "restore.log",
    "thaw": "restore.log",
}
ENDS = {
    "exit 125": "criu.",
    "echo 'Error: read unixpacket @->@: EOF' >&2; exit 125": "criu.broke-off",
    "echo 'Error: write /x: no space left on device' >&2; exit 125": "host.disk-full",
    "exec sleep 600": "command.timeout",
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("then", ENDS)
async def test_every_failure_has_the_words_of_criu(
    make_engine: Callable[[str, str], PodmanEngine], tmp_path: Path, call: str, then: str
) -> None:
    """Refused, killed, out of space or hanging: the log says how far it came."""
    engine = make_engine(CALLS[call], then)
    (tmp_path / "x").touch()
    seconds = 0.5 if "sleep" in then else 60.0
    asked = {
        "checkpoint": lambda: engine.checkpoint("a1", tmp_path / "x", deadline_seconds=seconds),
        "restore": lambda: engine.restore(tmp_path / "x", "a1", (), deadline_seconds=seconds),
        "thaw": lambda: engine.thaw("a1", deadline_seconds=seconds),
    }
    with pytest.raises(Problem) as caught:
        await asked[call]()
    assert caught.value.code.startswith(ENDS[then])
    assert caught.value.detail.startswith(ERROR)
