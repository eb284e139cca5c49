"""CRIU's refusals, with excerpts of logs that CRIU 4.2.1 and podman 5.8 really wrote."""

from __future__ import annotations

import pytest

from poold.agent import criu
from poold.agent.process import Finished

RLIMIT = (
    "(00.001130) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self:"
    " Operation not permitted\n"
)
NOTHING = Finished(("podman", "container", "checkpoint", "hello"), 125, b"", b"Error: it failed\n")


def said(text: str) -> Finished:
    """Return podman's end with these words."""
    return Finished(("podman", "container", "restore"), 125, b"", text.encode())


LOGS = {
    "criu.live-connection": (
        "(00.111532) Error (criu/sk-inet.c:200): inet: Connected TCP socket, consider using"
        " --tcp-established option.\n"
        "(00.111548) Error (criu/cr-dump.c:1545): Dump files (pid: 10875) failed with -1"
    ),
    "criu.unsupported-socket": (
        "(00.174520) Error (criu/sk-unix.c:874): unix: External socket is used. Consider using"
        " --ext-unix-sk option.\n(00.179274) Error (criu/cr-dump.c:1975): Dumping FAILED."
    ),
    "criu.network-lock": (
        'Error (criu/util.c:642): execvp("ip6tables-restore", ...) failed: No such file\n'
        "(00.107051) Error (criu/util.c:657): exited, status=1\n"
        "(00.107069) Error (criu/net.c:3436): net: Locking network failed: iptables-restore"
        " returned -1. This may be connected to disabled CONFIG_NETFILTER_XT_MARK kernel build"
        " config option."
    ),
    "criu.settings-not-read": (
        "(00.001245) Error (criu/image.c:94): Need to set the --tcp-close options."
    ),
    "criu.changed-file": (
        "(00.029198)      1: Error (criu/files-reg.c:2175): File vol/f has bad size 11 (expect 6)\n"
        "(00.029203)      1: Error (criu/files.c:1221): Unable to open fd=3 id=0xa\n"
        "(00.030443) Error (criu/cr-restore.c:2331): Restoring FAILED."
    ),
    "criu.missing-file": (
        "(00.032550)      1: Error (criu/files-reg.c:2353): Can't open file vol/f on restore: No"
        " such file or directory\n(00.033097) Error (criu/cr-restore.c:2331): Restoring FAILED."
    ),
    "criu.watched-file": (
        "(00.115349) irmap: Refresh stat for /no-such-path\n"
        "(00.115656) Warn  (criu/irmap.c:105): irmap: Can't stat /no-such-path: No such file\n"
        "(00.115661) Error (criu/fsnotify.c:284): fsnotify: \tCan't dump that handle\n"
        "(00.115692) Error (criu/cr-dump.c:1545): Dump files (pid: 2479) failed with -1"
    ),
}
WORDS = {
    "criu.library-missing": (
        "could not load `libcriu.so.2`: `libcriu.so.2: cannot open shared object file: No such file"
        " or directory`\nError: `/usr/bin/crun checkpoint …` failed: exit status 1"
    ),
    "criu.missing": (
        'Error: failed to check for criu version: exec: "criu": executable file not found in $PATH'
    ),
    "criu.other-runtime": (
        "Error: checkpoint archive /tmp/x.tar was created with runtime 'runc' and cannot be"
        " restored with runtime 'crun'"
    ),
    "volume.missing": (
        "Error: runc: mount src=/tmp/vol, dst=/vol, dstFd=/proc/thread-self/fd/16,"
        " flags=MS_BIND|MS_REC: no such file or directory: OCI runtime attempted to invoke a"
        " command that was not found"
    ),
    "image.missing": (
        "Error: unable to copy from source docker://localhost/other:1: initializing source"
        " docker://localhost/other:1: pinging container registry localhost"
    ),
    "host.disk-full": "Error: writing /data/archive.tar: no space left on device",
}


@pytest.mark.parametrize("code", LOGS)
def test_each_refusal_in_the_log_has_its_code_and_way_out(code: str) -> None:
    """The log's cause decides, although each log also has errors that follow from it."""
    problem = criu.explain("checkpoint", "hello", log=RLIMIT + LOGS[code], finished=NOTHING)
    assert problem.code == code
    assert problem.message.startswith("cannot checkpoint hello: ")
    assert problem.hint
    assert LOGS[code].splitlines()[-1] in problem.detail


@pytest.mark.parametrize("code", WORDS)
def test_each_refusal_of_podman_has_its_code_and_way_out(code: str) -> None:
    """Where CRIU was not reached podman's own words decide."""
    problem = criu.explain("restore", "hello1", log="", finished=said(WORDS[code]))
    assert problem.code == code
    assert problem.message.startswith("cannot restore hello1: ")
    assert problem.hint


def test_only_what_passes_by_itself_is_temporary() -> None:
    """A live connection may be gone next time, a watched file will not."""
    kinds = {
        code: criu.explain("checkpoint", "hello", log=log, finished=NOTHING).kind
        for code, log in LOGS.items()
    }
    assert [code for code, kind in kinds.items() if kind == "temporary"] == ["criu.live-connection"]


def test_a_watched_file_is_named_with_the_folder_to_scan() -> None:
    """The path, where it was found out, and the line for the pool's table."""
    log = LOGS["criu.watched-file"]
    assert criu.is_about_watches(log)
    problem = criu.explain(
        "checkpoint",
        "hello",
        log=log,
        finished=NOTHING,
        watched=("/opt/wildfly/deployments/a.war",),
    )
    assert "/opt/wildfly/deployments/a.war" in problem.message
    assert 'scan_paths = ["/opt/wildfly/deployments"]' in problem.hint


def test_an_unknown_refusal_tells_the_first_error_not_what_follows() -> None:
    """The first error is the cause; RLIMIT_NOFILE, in every log, is not."""
    log = RLIMIT + (
        "(00.1) Error (criu/mem.c:1): Can't do the new thing\n"
        "(00.2) Error (criu/cr-dump.c:1975): Dumping FAILED."
    )
    problem = criu.explain("checkpoint", "hello", log=log, finished=NOTHING)
    assert problem.code == "criu.checkpoint-failed"
    assert problem.message == "cannot checkpoint hello: CRIU says: Can't do the new thing"
    assert "$ podman container checkpoint hello" in problem.detail


def test_a_clean_log_is_no_privilege_problem() -> None:
    """What each run warns of is not taken for a cause."""
    problem = criu.explain("restore", "hello1", log=RLIMIT, finished=said("Error: something else"))
    assert problem.code == "criu.restore-failed"
    assert problem.message == "cannot restore hello1: podman says: Error: something else"
    runtime = Finished(("/usr/sbin/runc", "restore"), 1, b"", b"something else")
    problem = criu.explain("restore", "hello1", log=RLIMIT, finished=runtime)
    assert problem.message == "cannot restore hello1: runc says: something else"


def test_scan_paths_become_irmap_settings() -> None:
    """Without scan paths no file is searched for; with them each folder is named."""
    assert not any("irmap" in line for line in criu.settings(()))
    assert criu.settings(("/a", "/b"))[-3:] == (
        "force-irmap", "irmap-scan-path /a", "irmap-scan-path /b",
    )  # fmt: skip
