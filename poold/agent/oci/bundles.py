"""From the specification in a checkpoint archive to the bundle that a runtime restores from.

Flows in: podman's spec.dump and config.dump. Flows out: a template, and from it the config.json of
one box; everything that podman gave the container stays as it was but what is a box's own. What
cannot be given again faithfully is refused, so that podman restores it. Pure: it opens no file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from poold.errors import Refused

# What each box has of its own, by its place in the container.
OWN_FILES = {
    "/etc/hosts": "hosts",
    "/etc/resolv.conf": "resolv.conf",
    "/etc/hostname": "hostname",
    "/run/.containerenv": "containerenv",
}
SHM = "/dev/shm"  # noqa: S108
_CRIU_CONFIG = "org.criu.config"
_UNSUPPORTED_KEYS = {
    "Dependencies": "depends on other containers",
    "pod": "belongs to a pod",
    "namedVolumes": "has named or anonymous volumes",
    "overlayVolumes": "has overlay volumes",
    "imageVolumes": "has images mounted",
    "ctrArtifactVolumes": "has artifacts mounted",
    "secrets": "has secrets mounted",
    "rootfs": "has a root file system that is no image",
    "rootfs_mapping": "has a mapped root file system",
    "dnsServer": "has name servers of its own",
    "dnsSearch": "has search domains of its own",
    "dnsOption": "has resolver options of its own",
    "hostsAdd": "has host names added",
    "hostAdd": "has host names added",
    "staticIP": "has a fixed address",
    "staticMAC": "has a fixed hardware address",
    "stdin": "reads its standard input",
    "UseImageResolvConf": "brings its own resolv.conf",
    "UseImageHosts": "brings its own hosts file",
    "isInfra": "is a pod's infra container",
    "isService": "is a service container",
    "noCgroups": "has no control group",
}


@dataclass(frozen=True)
class Template:
    """What all boxes of a stage have in common."""

    spec: Mapping[str, Any]
    runtime: str
    image_id: str
    labels: Mapping[str, str]
    network: str
    stop_signal: int
    shm_bytes: int
    host_name: str
    criu_config: str

    @property
    def volumes(self) -> tuple[str, ...]:
        """The host's folders and files that are bound into the container."""
        return tuple(
            str(mount["source"])
            for mount in self.spec.get("mounts", ())
            if _is_bind(mount) and mount["destination"] not in (*OWN_FILES, SHM)
        )


def read(spec: Mapping[str, Any], config: Mapping[str, Any]) -> Template:
    """Understand an archive; Refused("oci.unsupported") with what cannot be given again."""
    why_not = _why_not(spec, config)
    if why_not:
        raise unsupported(f"the container {why_not}")
    annotations = spec.get("annotations") or {}
    (network,) = config.get("newNetworks") or config.get("networks") or ("podman",)
    return Template(
        spec=spec,
        runtime=str(config.get("runtime") or "runc"),
        image_id=str(config["rootfsImageID"]),
        labels=dict(config.get("labels") or {}),
        network=str(network),
        stop_signal=int(config.get("stopSignal") or 15),
        shm_bytes=int(config.get("shmSize") or 0),
        host_name=str(spec.get("hostname") or ""),
        criu_config=str(annotations.get(_CRIU_CONFIG, "")),
    )


def bundle(
    template: Template,
    folder: Path,
    *,
    rootfs: Path,
    namespace: Path,
    group: str,
    criu_config: Optional[Path],
) -> dict[str, Any]:
    """Return the config.json of one box."""
    spec: dict[str, Any] = json.loads(json.dumps(template.spec))
    spec["root"]["path"] = str(rootfs)
    for mount in spec["mounts"]:
        own = OWN_FILES.get(mount["destination"])
        if own is not None:
            mount["source"] = str(folder / own)
        elif mount["destination"] == SHM and _is_bind(mount):
            mount["source"] = str(folder / "shm")
    for each in spec["linux"]["namespaces"]:
        if each["type"] == "network":
            each["path"] = str(namespace)
    spec["linux"]["cgroupsPath"] = group
    annotations = spec.setdefault("annotations", {})
    if criu_config is not None:
        annotations[_CRIU_CONFIG] = str(criu_config)
    return spec


def unsupported(why: str) -> Refused:
    """Say that the engine cannot restore something; podman can."""
    return Refused(
        "oci.unsupported",
        f"cannot restore with the engine oci: {why}",
        hint='podman restores it, slower; engine = "podman" in the pool says so',
    )


def _why_not(spec: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    for key, why in _UNSUPPORTED_KEYS.items():
        if config.get(key):
            return why
    if not config.get("rootfsImageID"):
        return "has a root file system that is no image"
    mapping = config.get("idMappingsOptions") or {}
    if mapping.get("UIDMap") or mapping.get("GIDMap") or mapping.get("AutoUserNs"):
        return "has a user namespace of its own"
    if config.get("restartPolicy") not in (None, "", "no"):
        return "is to be restarted by podman"
    process = spec.get("process") or {}
    if process.get("terminal"):
        return "has a terminal"
    if process.get("selinuxLabel") or (spec.get("linux") or {}).get("mountLabel"):
        return "has SELinux labels"
    if spec.get("hooks"):
        return "has OCI hooks"
    if len(config.get("newNetworks") or config.get("networks") or {"podman": None}) != 1:
        return "is connected to several networks"
    return _namespaces(spec) or _mounts(spec)


def _namespaces(spec: Mapping[str, Any]) -> str:
    found = {each["type"]: each.get("path", "") for each in spec["linux"]["namespaces"]}
    if not found.get("network"):
        return "has no network of its own"
    for kind, path in found.items():
        if kind == "user" or (path and kind != "network"):
            return f"shares a namespace ({kind})"
    return ""


def _mounts(spec: Mapping[str, Any]) -> str:
    for mount in spec.get("mounts", ()):
        source = str(mount.get("source", ""))
        own = mount["destination"] in (*OWN_FILES, SHM)
        if _is_bind(mount) and not own and "/overlay-containers/" in source:
            return f"has {mount['destination']} from podman's own folder"
    return ""


def _is_bind(mount: Mapping[str, Any]) -> bool:
    return mount.get("type") == "bind" or bool(
        {"bind", "rbind"}.intersection(mount.get("options") or ())
    )
