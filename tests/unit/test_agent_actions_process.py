"""Running programs: real ones, that end, fail, hang and leave children."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from poold.agent import bringup, proc, runner
from poold.agent.engines import podman
from poold.agent.process import (
    KILL_SECONDS,
    TERM_SECONDS,
    CommandFailed,
    check,
    clean_environment,
    run,
)
from poold.errors import Problem


async def test_a_failure_can_be_pasted_and_has_its_last_words() -> None:
    """The command is quoted for a shell, the detail is what it wrote."""
    with pytest.raises(CommandFailed) as caught:
        await check(["sh", "-c", "echo so sorry >&2; exit 3"], deadline_seconds=10)
    assert caught.value.hint == "run it by hand: sh -c 'echo so sorry >&2; exit 3'"
    assert caught.value.detail == "so sorry"
    assert caught.value.finished.status == 3


async def test_a_missing_program_is_named() -> None:
    """What is to be installed is said."""
    with pytest.raises(Problem) as caught:
        await run(["no-such-program-here"], deadline_seconds=10)
    assert (caught.value.code, caught.value.kind) == ("command.not-found", "permanent")


async def test_input_and_merged_output_keep_their_order() -> None:
    """What is given is read, both streams come back as they were written."""
    finished = await run(
        ["sh", "-c", "cat; echo bad >&2; echo good"],
        deadline_seconds=10,
        stdin=b"in\n",
        merged=True,
    )
    assert finished.stdout == b"in\nbad\ngood\n"


async def test_past_the_deadline_the_whole_group_is_ended(tmp_path: Path) -> None:
    """A grandchild does not survive its grandfather's deadline."""
    script = f"sleep 100 & echo $! > {tmp_path}/pid; wait"
    with pytest.raises(Problem) as caught:
        await run(["sh", "-c", script], deadline_seconds=0.3)
    assert (caught.value.code, caught.value.kind) == ("command.timeout", "temporary")
    await asyncio.wait_for(proc.ended(int((tmp_path / "pid").read_text())), 10)


async def test_a_cancelled_program_may_finish_where_stopping_leaves_more_behind(
    tmp_path: Path,
) -> None:
    """The cancellation goes on only after the program ended by itself."""
    done = tmp_path / "done"
    script = f"touch {tmp_path}/begun; sleep 0.3; touch {done}"
    running = asyncio.ensure_future(
        run(["sh", "-c", script], deadline_seconds=30, finishing_seconds=20)
    )
    while not (tmp_path / "begun").exists():  # noqa: ASYNC110 - another program's
        await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert done.exists()


async def test_a_cancelled_program_that_ignores_the_polite_signal_is_killed(tmp_path: Path) -> None:
    """Cancelling ends within seconds, whatever the program does."""
    script = f"trap '' TERM; touch {tmp_path}/begun; while :; do sleep 0.1; done"
    running = asyncio.ensure_future(run(["sh", "-c", script], deadline_seconds=30))
    while not (tmp_path / "begun").exists():  # noqa: ASYNC110 - another program's
        await asyncio.sleep(0.01)
    running.cancel()
    done, _ = await asyncio.wait({running}, timeout=20)
    assert done
    assert running.cancelled()


def test_an_action_that_is_stopped_has_the_time_to_undo_itself() -> None:
    """Ending podman and removing what it left both fit into what the runner waits for."""
    ending = podman.FINISHING_SECONDS + TERM_SECONDS + KILL_SECONDS
    assert ending + bringup.UNDO_SECONDS < runner.CLEAN_UP_SECONDS


def test_the_units_own_variables_are_not_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """With INVOCATION_ID podman would tie replicas to the daemon's unit."""
    for name in ("INVOCATION_ID", "NOTIFY_SOCKET", "LISTEN_FDS", "WATCHDOG_USEC", "LC_ALL"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("PATH", "/somewhere")
    env = clean_environment({"EXTRA": "2"})
    assert env["PATH"] == "/somewhere"
    assert env["LC_ALL"] == "C"
    assert env["EXTRA"] == "2"
    assert not {"INVOCATION_ID", "NOTIFY_SOCKET", "LISTEN_FDS", "WATCHDOG_USEC"} & set(env)
