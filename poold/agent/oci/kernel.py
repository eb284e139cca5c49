"""Mounts, namespaces and control groups, by the kernel's own calls: no program is started for them.

Flows in: paths. Flows out: nothing, or OSError. What is to be taken away may be gone already. It
knows no container.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

_MNT_DETACH = 2
_MS_BIND, _MS_REC, _MS_PRIVATE, _MS_SHARED = 0x1000, 0x4000, 1 << 18, 1 << 20
_CLONE_NEWNS = 0x00020000
_CLONE_NEWUTS = 0x04000000
_PR_SET_MEMORY_MERGE = 67
_LONGEST_OPTIONS = 4000  # mount(2) takes one page, the terminating zero included
_LIBC = ctypes.CDLL(None, use_errno=True)


def mount(kind: str, target: Path, options: str, flags: int = 0) -> None:
    """Mount a file system that needs no device."""
    done = _LIBC.mount(
        kind.encode(), bytes(target), kind.encode(), ctypes.c_ulong(flags), options.encode()
    )
    if done != 0:
        raise _failed(target)


def mount_overlay(target: Path, lowers: Sequence[Path], upper: Path, work: Path) -> None:
    """Mount layers, the uppermost of `lowers` first.

    What moves or changes only its owner is copied whole, so that the upper folder can itself become
    a lower one of other mounts.
    """
    layers = ":".join(map(str, lowers))
    options = f"lowerdir={layers},upperdir={upper},workdir={work}"
    if len(options) > _LONGEST_OPTIONS:
        raise OSError(errno.E2BIG, "too many layers for one mount", str(target))
    mount("overlay", target, options)


def unmount(target: Path) -> None:
    """Unmount, also what is in use; nothing mounted there, or nothing there at all, is fine."""
    while _LIBC.umount2(bytes(target), _MNT_DETACH) == 0:
        continue  # mounted twice
    if ctypes.get_errno() not in (errno.EINVAL, errno.ENOENT):
        raise _failed(target)


def is_mounted(target: Path) -> bool:
    """Whether something is mounted at `target`, a file or a folder."""
    wanted = str(target)
    with Path("/proc/self/mountinfo").open(encoding="utf-8", errors="replace") as table:
        return any(line.split(" ", 5)[4] == wanted for line in table)


def share_folder(folder: Path) -> None:
    """Make a folder a shared mount of its own, as podman and `ip netns` make theirs.

    Whoever of them comes later would bind it upon itself, and hide what was mounted in it by then:
    that could never be unmounted again.
    """
    path, shared = bytes(folder), ctypes.c_ulong(_MS_SHARED | _MS_REC)
    if _LIBC.mount(None, path, None, shared, None) == 0:
        return
    if ctypes.get_errno() != errno.EINVAL:  # it is no mount yet
        raise _failed(folder)
    if _LIBC.mount(path, path, None, ctypes.c_ulong(_MS_BIND | _MS_REC), None) != 0:
        raise _failed(folder)
    if _LIBC.mount(None, path, None, shared, None) != 0:
        raise _failed(folder)


def remove_namespace(path: Path) -> None:
    """Let go of a named network namespace; its processes, if any, keep it alive."""
    unmount(path)
    path.unlink(missing_ok=True)


def name_host(pid: int, name: str) -> None:
    """Give the UTS namespace of a process another host name.

    In this very thread, which is there for a moment: a thread for it takes milliseconds to be run
    on a busy host. No other one is moved with it.
    """
    with Path("/proc/thread-self/ns/uts").open("rb") as own:
        with Path(f"/proc/{pid}/ns/uts").open("rb") as namespace:
            if _LIBC.setns(namespace.fileno(), _CLONE_NEWUTS) != 0:
                raise _failed(Path(namespace.name))
        try:
            if _LIBC.sethostname(name.encode(), len(name.encode())) != 0:
                raise _failed(Path(f"/proc/{pid}/ns/uts"))
        finally:
            if _LIBC.setns(own.fileno(), _CLONE_NEWUTS) != 0:
                raise _failed(Path(own.name))


def without_mounts(targets: Sequence[Path], work: Callable[[], None]) -> None:
    """Do something, and start programs, where nothing is mounted at `targets`.

    Nobody else sees that: the mounts are those of a thread, and go with it.
    """

    def elsewhere() -> None:
        if _LIBC.unshare(_CLONE_NEWNS) != 0:
            raise _failed(Path("/"))
        if _LIBC.mount(None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None) != 0:
            raise _failed(Path("/"))
        for target in targets:
            unmount(target)
        work()

    _in_thread_of_its_own(elsewhere)


def _in_thread_of_its_own(work: Callable[[], None]) -> None:
    """Call something that moves its thread to other namespaces; the thread ends with it."""
    failed: list[BaseException] = []

    def caught() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised below, where it is waited for
            failed.append(error)

    thread = threading.Thread(target=caught)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def ask_for_merging() -> None:
    """Have equal pages of this process, and of what it starts, merged by the kernel (KSM).

    Best effort: the kernel knows it since 6.4, and hands it on to other programs since 6.7. Called
    in a new process: one system call. CRIU's own processes inherit it, and so what CRIU restores.
    """
    _LIBC.prctl(_PR_SET_MEMORY_MERGE, 1, 0, 0, 0)


def cgroup_of(pid: int) -> Path:
    """Return a process's group in the unified hierarchy; FileNotFoundError where it has none."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        if line.startswith("0::/"):
            group = Path("/sys/fs/cgroup") / line[4:]
            if (group / "cgroup.freeze").exists():
                return group
    raise FileNotFoundError(
        errno.ENOENT, "no group in the unified hierarchy", f"/proc/{pid}/cgroup"
    )


def move_to_group(pid: int, name: str) -> None:
    """Put a process into a group of poold's own, that it does not end with the agent's session.

    Best effort: without the unified hierarchy it stays where it is.
    """
    with contextlib.suppress(OSError):
        group = Path("/sys/fs/cgroup") / name
        group.mkdir(exist_ok=True)
        (group / "cgroup.procs").write_text(str(pid))


def _failed(target: Path) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), str(target))
