"""What a container that somebody else described may be, to be restored as one of a pool's.

Flows in: spec.dump and config.dump of an archive that nobody vouches for, the pool's application.
Flows out: the reason why not, or the same descriptions with the pool's marks. Pure. An archive says
what the host is to give its container: nothing that the pool's own configuration would not give.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from poold.agent.oci.bundles import OWN_FILES, SHM
from poold.model.application import Application

_CRIU_CONFIG = "org.criu.config"
# What podman has given containers by default, in any version since 4.0.
_CAPABILITIES = frozenset(
    f"CAP_{name}"
    for name in (
        "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD",
        "NET_BIND_SERVICE", "NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
    )
)  # fmt: skip
_OWN_NAMESPACES = ("pid", "network", "ipc", "uts", "mount")
_KINDS = frozenset({"proc", "tmpfs", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2"})
_OF_PODMAN = re.compile(r"/[\w./-]+/overlay-containers/[0-9a-f]{64}/userdata(/[\w.-]+)?")
_SYSCTLS = ("net.", "kernel.msg", "kernel.sem", "kernel.shm", "fs.mqueue.")
_ANNOTATIONS = re.compile(
    r"io\.container\.manager|org\.opencontainers\.image\.\w+"
    r"|org\.systemd\.property\.(KillSignal|TimeoutStopUSec|CollectMode)"
)
_PATHS = ("conmonPidFile", "pid_file", "logPath", "secretsPath", "ShmDir", "staticDir")


def why_not(
    spec: Mapping[str, Any], config: Mapping[str, Any], application: Application
) -> Iterator[str]:
    """Yield what the container is or has that the pool's own could not."""
    for each in (spec, config.get("spec") or {}):
        yield from _of_spec(each, application)
    if config.get("privileged"):
        yield "is privileged"
    if config.get("namedVolumes") or config.get("imageVolumes") or config.get("overlayVolumes"):
        yield "has volumes that are not the pool's"
    for key in _PATHS:
        path = str(config.get(key) or "")
        if path and (".." in path or not _OF_PODMAN.fullmatch(path)):
            yield f"names a file of the host ({key})"
    if (config.get("newNetworks") is None and config.get("networks") is None) or (
        config.get("networkMode") == "host"
    ):
        yield "has no network of its own"


def adopt(
    spec: dict[str, Any], config: dict[str, Any], *, labels: Mapping[str, str], criu_config: str
) -> None:
    """Mark the container as the pool's, and take away what a description may ask for besides."""
    config["labels"] = {**(config.get("labels") or {}), **labels}
    config["logDriver"] = "k8s-file"
    for key in ("exitCommand", "hooks"):
        config.pop(key, None)
    for each in (spec, config.get("spec") or {}):
        known = each.get("annotations") or {}
        kept = {key: value for key, value in known.items() if _ANNOTATIONS.fullmatch(key)}
        each["annotations"] = {**kept, _CRIU_CONFIG: criu_config}


def _of_spec(spec: Mapping[str, Any], application: Application) -> Iterator[str]:
    process, linux = spec.get("process") or {}, spec.get("linux") or {}
    for kind, names in (process.get("capabilities") or {}).items():
        if more := sorted(set(names or ()) - _CAPABILITIES):
            yield f"has the capability {more[0]} ({kind})"
    if spec.get("hooks"):
        yield "has OCI hooks"
    if linux.get("devices"):
        yield "has devices of the host"
    if any(rule.get("allow") for rule in (linux.get("resources") or {}).get("devices") or ()):
        yield "may use devices of the host"
    if not linux.get("maskedPaths") or not linux.get("seccomp"):
        yield "is not confined (masked paths, seccomp)"
    for name in linux.get("sysctl") or {}:
        if not str(name).startswith(_SYSCTLS):
            yield f"sets {name} of the host"
    spaces = {each.get("type"): each.get("path", "") for each in linux.get("namespaces") or ()}
    for kind in _OWN_NAMESPACES:
        if kind not in spaces or (spaces[kind] and kind != "network"):
            yield f"shares the host's or another container's namespace ({kind})"
    yield from _mounts(spec, application)


def _mounts(spec: Mapping[str, Any], application: Application) -> Iterator[str]:
    volumes = {(volume.source, volume.target) for volume in application.volumes}
    for mount in spec.get("mounts") or ():
        source, target = str(mount.get("source", "")), str(mount.get("destination", ""))
        options = set(mount.get("options") or ())
        if mount.get("type") == "bind" or options & {"bind", "rbind"}:
            is_own = target in (*OWN_FILES, SHM) and ".." not in source
            if (source, target) not in volumes and not (is_own and _OF_PODMAN.fullmatch(source)):
                yield f"has {source} of the host at {target}, which is no volume of the pool's"
        elif mount.get("type") not in _KINDS or ("overlay" in options):
            yield f"has a mount of the kind {mount.get('type')} at {target}"
        elif mount.get("type") == "sysfs" and "ro" not in options:
            yield "may write to /sys"
