"""What all tests share: labs of their own, and the check that no test leaves anything.

Files may run side by side (`pytest -n 4`): each process has labs of its own and looks for what its
own tests left, so nothing is shared but the machine.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import subprocess
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import pytest
from fault_table import Table, as_markdown
from hypothesis import settings

from poold.lab import Lab

# By default hypothesis fails an example that takes 200 ms: on a busy machine any does.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

_SETTLE_SECONDS = 5.0
_TASKS_SETTLE_SECONDS = 1.0  # one that was cancelled has a turn or two to end


# What one process does as a whole, begun in this order: the longest first, so that none is left
# with one of them at the end. Files that use the same lab share it: a machine has room for some
# twenty hosts (systemd has six inotify instances on each, and root 128).
_SHARES = (
    ("demo", "acceptance/test_demo.py"),
    ("faults", "acceptance/test_when_things_go_wrong.py"),
    ("faults", "acceptance/test_when_the_daemon_dies.py"),
    ("faults", "acceptance/test_roll.py"),
    ("more faults", "acceptance/test_when_hosts_go_wrong.py"),
    ("more faults", "acceptance/test_when_podman_fails.py"),
    ("more faults", "acceptance/test_when_the_daemons_machine_fails.py"),
    ("more faults", "acceptance/test_hosts_and_reload.py"),
    ("soak", "faults/test_soak.py"),
    ("systemd", "acceptance/test_under_systemd.py"),
    ("deaths", "acceptance/test_when_replicas_die.py"),
    ("other faults", "acceptance/"),
    ("hosts", "contract/test_engines.py"),
    ("hosts", "integration/test_agent_podman.py"),
    ("hosts", "integration/test_lab.py"),
    ("hosts", "integration/test_oci_crashes.py"),
    ("failpoints", "faults/test_failpoints.py"),
    ("links", "contract/test_host_links.py"),
    ("plan", "unit/reconcile/test_plan.py"),
)
# A file whose tests share next to nothing goes in so many parts.
_PARTS = {"tests/faults/test_failpoints.py": 6}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give a whole share or file to the next process that is free, in the order of collection."""
    from xdist.scheduler import LoadScopeScheduling  # only there where it is asked for

    class ByShare(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            _, share = _share_of(file)
            return f"{share} {zlib.crc32(nodeid.encode()) % _PARTS.get(file, 1)}"

    config.option.loadscopereorder = False
    return ByShare(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the longest begin first where several processes share the work."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: _share_of(item.nodeid.partition("::")[0])[0])


def _share_of(file: str) -> tuple[int, str]:
    """Return a file's place in the order of all, and the name of its share: its own, if none."""
    for place, (share, begins) in enumerate(_SHARES):
        if file.startswith(f"tests/{begins}"):
            return place, share
    return len(_SHARES), file


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the fault table be asked for."""
    parser.addoption("--faults", type=Path, help="leave the fault table in this file and print it")


def pytest_configure(config: pytest.Config) -> None:
    """Collect the fault table; Ctrl-C reaches programs under test though a shell ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as for what runs in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.pluginmanager.register(Table(), "fault-table")


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the fault table."""
    path = config.getoption("--faults")
    if path is not None:
        table = config.pluginmanager.get_plugin("fault-table")
        table.write(path)
        terminalreporter.write_line(as_markdown(table.report()))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a lab where none can be; in CI that is a failure, not a skip."""
    if item.get_closest_marker("lab") is None or not (reason := _why_no_lab()):
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must run the lab's tests: {reason}", pytrace=False)
    pytest.skip(reason)


def _why_no_lab() -> str:
    if os.geteuid() != 0:
        return "lab hosts need root"
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8")
    if " cgroup2 " not in mounts:
        return "lab hosts need a cgroup2 file system"
    tried = subprocess.run(
        ["unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup", "--fork", "true"],
        check=False,
        capture_output=True,
        text=True,
    )
    return f"namespaces cannot be made: {tried.stderr.strip()}" if tried.returncode else ""


class MakeLab(Protocol):
    """Brings up a lab of this run; it is taken down, and looked for, when the run ends."""

    def __call__(self, purpose: str, **up: Any) -> Lab:
        """`up` is what `Lab.up` takes."""

    def release(self, lab: Lab) -> None:
        """Take a lab down before the run ends."""


class _Labs:
    """The labs of this run, each under a name of its own."""

    def __init__(self) -> None:
        self._keeps = "POOLD_KEEP_LAB" in os.environ  # for a look at what went wrong
        self._made: list[Lab] = []

    def __call__(self, purpose: str, **up: Any) -> Lab:
        lab = Lab(f"test-{os.getpid()}-{purpose}")
        self._made.append(lab)
        lab.up(**up)
        return lab

    def release(self, lab: Lab) -> None:
        if not self._keeps:
            lab.down()

    def end(self) -> None:
        for lab in self._made:
            self.release(lab)
        if not self._keeps:
            assert [trace for lab in self._made for trace in traces_of(lab)] == []


@pytest.fixture(scope="session")
def make_lab() -> Iterator[MakeLab]:
    """Labs for the whole run, each under a name of its own."""
    _remove_labs_of_dead_runs()
    labs = _Labs()
    yield labs
    labs.end()


@pytest.fixture(scope="session")
def lab(make_lab: MakeLab) -> Lab:
    """Two hosts, the counter's image on a only."""
    return make_lab("hosts", hosts=2, image_names=("counter",), images_on=("a",))


def _remove_labs_of_dead_runs() -> None:
    for name in Lab.names():
        pid = name.removeprefix("test-").partition("-")[0]
        if name.startswith("test-") and pid.isdigit() and not Path(f"/proc/{pid}").exists():
            Lab(name).down()


@pytest.fixture(autouse=True)
def _no_child_is_left() -> Iterator[None]:
    """Fail a test after which a child process remains, running or not waited for."""
    before = _children()
    yield
    deadline = time.monotonic() + _SETTLE_SECONDS
    while (left := _children() - before) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not left, f"child processes are left: {sorted(left)}"


def _children() -> set[int]:
    found = set()
    for task in Path("/proc/self/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that ends meanwhile
            found |= {int(pid) for pid in task.read_text(encoding="utf-8").split()}
    return found


@pytest.fixture(autouse=True)
def _no_task_is_left(request: pytest.FixtureRequest, _no_child_is_left: None) -> None:
    """Fail a coroutine test after which, its own fixtures gone, a task remains in its loop."""
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("_tasks_of_the_test")


@pytest.fixture
async def _tasks_of_the_test() -> AsyncIterator[None]:
    yield
    here = asyncio.current_task()
    if ending := asyncio.all_tasks() - {here}:
        await asyncio.wait(ending, timeout=_TASKS_SETTLE_SECONDS)
    left = asyncio.all_tasks() - {here}
    assert not left, f"tasks are left: {sorted(map(repr, left))}"


@pytest.fixture
def traces() -> Callable[[Lab], list[str]]:
    """Give a test the search for what a lab left behind."""
    return traces_of


def traces_of(lab: Lab) -> list[str]:
    """Return every mount, cgroup, process and folder that still belongs to a lab.

    A process that has ended and waits for the machine's init to notice is none of the lab's.
    """
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    found = [f"mount {line}" for line in mounts if f"{lab.state_dir}/" in line]
    found += [f"folder {path}" for path in (lab.state_dir, lab.cgroup) if path.exists()]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            cgroups = (process / "cgroup").read_text(encoding="utf-8")
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            ended = ") Z " in (process / "stat").read_text(encoding="utf-8")
        except (FileNotFoundError, ProcessLookupError):
            continue
        ours = f"/poold-lab-{lab.name}/" in cgroups or f"{lab.state_dir}/" in command
        if ours and not ended:
            found.append(f"process {process.name} {command}")
    return found
