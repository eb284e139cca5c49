"""CRIU's settings for a pool, and CRIU's refusals in the operator's words.

Flows in: scan paths; the text of CRIU's log and what podman or the runtime said. Flows out: lines
of a configuration file; a Problem that names what could not be frozen or thawed and the way out,
with CRIU's last lines as evidence. Pure: it opens no file and runs nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Optional

from poold.agent import criu_log
from poold.agent.process import Finished
from poold.errors import Permanent, Problem, Temporary

_SAID_BYTES = 1000

Doing = Literal["checkpoint", "restore"]


def settings(scan_paths: tuple[str, ...]) -> tuple[str, ...]:
    """Return the lines of the CRIU configuration that dump and restore share.

    network-lock skip: nothing of the network is frozen, as only listening sockets are left, and the
    lock would run iptables (absent on some hosts, 74 ms where present). tcp-close: the second line
    against a connection that appears while freezing; podman's own flag for it fails with runc.
    manage-cgroups ignore: podman puts the container into its cgroup, and CRIU fails to write v1
    properties on hybrid hosts. file-locks: an application may hold some. irmap: finds the paths of
    watched files, for which overlayfs has no handles.
    """
    lines = ["network-lock=skip", "tcp-close", "manage-cgroups=ignore", "file-locks"]
    if scan_paths:
        lines.append("force-irmap")
        lines += [f"irmap-scan-path {path}" for path in scan_paths]
    return tuple(lines)


def explain(
    doing: Doing, name: str, *, log: str, finished: Finished, watched: tuple[str, ...] = ()
) -> Problem:
    """Say why CRIU, or who was to call it, refused; `watched` are paths that it watches."""
    kind, code, reason, hint = _translate(doing, log, finished, watched)
    detail = evidence(log, finished)
    return kind(code, f"cannot {doing} {name}: {reason}", hint=hint, detail=detail)


def evidence(log: str, finished: Optional[Finished] = None) -> str:
    """Return a problem's detail: an excerpt of CRIU's log, what the program said, its command."""
    parts = [criu_log.excerpt(log)]
    if finished is not None:
        said = criu_log.shortened(_said(finished), _SAID_BYTES)
        parts += [said, f"$ {finished.command}"]
    return "\n".join(part for part in parts if part)


def is_about_watches(log: str) -> bool:
    """Whether CRIU refused for a watched file: then it is worth finding out which."""
    return bool(_WATCHES.search("\n".join(criu_log.errors(log))))


def _translate(
    doing: Doing, log: str, finished: Finished, watched: tuple[str, ...]
) -> tuple[type[Problem], str, str, str]:
    said = _said(finished)
    errors = "\n".join(criu_log.errors(log))
    if is_about_watches(log):
        return (Permanent, *_watched_file(watched))
    for refusal in _REFUSALS:
        match = re.search(refusal.pattern, f"{errors}\n{said}", re.MULTILINE)
        if match:
            groups = [group or "" for group in match.groups()]
            kind = Temporary if refusal.passes else Permanent
            return kind, refusal.code, refusal.reason.format(*groups), refusal.hint
    found = re.findall(r"Error \([^)]*\): (.*)", errors)
    last = said.splitlines()[-1] if said else "no reason"
    # CRIU's first error is the cause, those after it are what it gave up for it.
    reason = f"CRIU says: {found[0].strip()}" if found else f"{finished.who} says: {last}"
    return Permanent, f"criu.{doing}-failed", reason, "the detail has the end of CRIU's log"


def _said(finished: Finished) -> str:
    """Return the program's own words; what it quotes of CRIU's log is in the log itself."""
    lines = finished.error_text.splitlines()
    return "\n".join(line for line in lines if "level=warning" not in line)


def _watched_file(watched: tuple[str, ...]) -> tuple[str, str, str]:
    which = ", ".join(watched[:3]) or "a file or folder"
    scan = (watched[0].rpartition("/")[0] if watched else "") or "/the/folder"
    return (
        "criu.watched-file",
        f"it watches {which} (inotify), whose path CRIU cannot find",
        f'give the pool checkpoint.scan_paths = ["{scan}"], or switch the watching off',
    )


_WATCHES = re.compile(r"fsnotify:.*(?:Can't dump|Failed to resolve)|Can't dump that handle")


@dataclass(frozen=True)
class _Refusal:
    """What CRIU or podman say, and what that means; {0} is what the pattern's group matched."""

    pattern: str
    code: str
    reason: str
    hint: str
    passes: bool = False  # by itself: trying again may help


_REFUSALS = (
    _Refusal(
        r"[Nn]o space left on device", "host.disk-full", "the disk is full",
        "free some space under podman's storage and the agent's folder", passes=True),
    _Refusal(
        r"read unixpacket [^\n]*EOF", "criu.broke-off", "CRIU ended in the middle of it",
        "see whether it crashed or was killed: journalctl -k, coredumpctl list criu", passes=True),
    _Refusal(
        r"could not load .?libcriu\.so", "criu.library-missing", "crun cannot load CRIU's library",
        "install libcriu2 (Debian) or criu-libs (Red Hat), or choose runc in containers.conf"),
    _Refusal(
        r"check for criu version|exec: .criu.|[Cc]heckpoint/[Rr]estore requires at least CRIU",
        "criu.missing", "this host has no usable CRIU",
        "install criu 3.17 or newer; poold doctor tries it"),
    _Refusal(
        r"(Connected TCP socket|In-flight connection)", "criu.live-connection",
        "a TCP connection is open ({0})",
        "close it in the before_checkpoint hook, or let the clients go first; pools of database"
        " connections are usual suspects", passes=True),
    _Refusal(
        r"Need to set the --tcp-(?:close|established)", "criu.settings-not-read",
        "CRIU did not read the settings that the checkpoint was made with",
        "see that the OCI runtime follows the annotation org.criu.config (runc does), and that"
        " agent_dir is the same on all hosts of the pool"),
    _Refusal(
        r"(External socket is used|Unsupported (?:socket|proto|family)[^\n]*|unix: [^\n]*(?:peer|"
        r"Can't)[^\n]*|packet: [^\n]*|netlink: [^\n]*|Unknown (?:socket|family)[^\n]*)",
        "criu.unsupported-socket", "it holds a socket that CRIU cannot freeze ({0})",
        "close it in the before_checkpoint hook, or keep the program on its other end inside the"
        " container"),
    _Refusal(
        r"ip6?tables-restore|Locking network failed|Can't lock network", "criu.network-lock",
        "CRIU cannot lock the container's network",
        "the agent asks for network-lock=skip: see that the OCI runtime follows the annotation"
        " org.criu.config (runc does), or write that line into /etc/criu/runc.conf"),
    _Refusal(
        r"was created with runtime '(\S+)' and cannot", "criu.other-runtime",
        "the checkpoint was made with the OCI runtime {0}, this host uses another one",
        "set the same runtime in /etc/containers/containers.conf on all hosts of the pool"),
    _Refusal(
        r"No mapping for (\S+) mountpoint", "criu.other-runtime",
        "the checkpoint was made with another OCI runtime (no mapping for {0})",
        "set the same runtime in /etc/containers/containers.conf on all hosts of the pool"),
    _Refusal(
        r"(File \S+ has bad (?:size|mode) .*)", "criu.changed-file",
        "a file that was open has changed since: {0}",
        "volumes must hold the same files on all hosts and not be written to by others"),
    _Refusal(
        r"Can't open file (\S+) on restore: No such file", "criu.missing-file",
        "{0} was open when it was frozen and is not here",
        "volumes must hold the same files on all hosts; keep what is written on tmpfs"),
    _Refusal(
        r"mount src=(/[^,]+), .*no such file or directory", "volume.missing",
        "the volume's folder {0} is not on this host", "create it on every host of the pool"),
    _Refusal(
        r"(?:pinging container registry|image not known|unable to copy from source|short-name)",
        "image.missing", "its image is not on this host",
        "it is sent when the pool is reconciled; or load it by hand under the pool's image name"),
    _Refusal(
        r"[vV](?:DSO|dso)[^\n]*|Can't get 1:16 opt|[Kk]erndat[^\n]*(?:fail|not)", "criu.kernel",
        "this CRIU does not fit this kernel", "install a newer criu; poold doctor tries it"),
    _Refusal(
        r"cpu: [^\n]*(?:required|not supported|mismatch|do not match)[^\n]*|FPU feature required",
        "criu.cpu", "this CPU lacks what the checkpoint's CPU had",
        "build on the host with the oldest CPU, or pool equal hosts only"),
    _Refusal(
        r"Operation not permitted|EPERM|CAP_[A-Z_]+|non-root|requires root", "criu.privilege",
        "CRIU lacks a privilege",
        "run the agent as root with all capabilities: CAP_SYS_ADMIN, CAP_SYS_PTRACE,"
        " CAP_CHECKPOINT_RESTORE and CAP_NET_ADMIN are needed"),
)  # fmt: skip
