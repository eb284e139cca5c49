"""What the lab needs of the machine it runs on: root, programs, Debian's mirror, a cgroup2 tree.

Missing programs are installed through apt-get, saying so; without root or apt-get the error
names the packages. Knows nothing of hosts or images.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from poold.errors import Permanent, Refused
from poold.lab.commands import run

if TYPE_CHECKING:
    from collections.abc import Iterable

# program -> the Debian package that brings it
_PACKAGES = {
    "bash": "bash",
    "debootstrap": "debootstrap",
    "flock": "util-linux",
    "ip": "iproute2",
    "javac": "default-jdk-headless",
    "mvn": "maven",
    "nsenter": "util-linux",
    "setsid": "util-linux",
    "ssh-keygen": "openssh-client",
    "tar": "tar",
    "unshare": "util-linux",
}
TO_RUN = ("bash", "flock", "ip", "nsenter", "setsid", "ssh-keygen", "unshare")
TO_BUILD_BASE = ("debootstrap",)
TO_BUILD_IMAGES = ("debootstrap", "javac", "mvn", "tar")


def say(text: str) -> None:
    """Tell the user what takes long, on standard error."""
    print(f"lab: {text}", file=sys.stderr, flush=True)  # noqa: T201


def need_root() -> None:
    """Refuse to go on without the privilege that namespaces and mounts need."""
    if os.geteuid() != 0:
        raise Refused(
            "lab.not-root",
            "cannot run lab hosts: namespaces, mounts and a bridge need root",
            hint="run the same command with sudo",
        )


def need_programs(programs: Iterable[str]) -> None:
    """Install the packages of those programs that are missing."""
    missing = sorted({_PACKAGES[name] for name in programs if not shutil.which(name)})
    if not missing:
        return
    wanted = " ".join(missing)
    if os.geteuid() != 0:
        raise Refused(
            "lab.not-root",
            f"cannot install {wanted}: not root",
            hint=f"run `apt-get install {wanted}` as root",
        )
    if not shutil.which("apt-get"):
        raise Permanent(
            "lab.no-apt",
            f"cannot install {wanted}: this machine has no apt-get",
            hint="install these programs with the machine's own package manager",
        )
    say(f"installing missing Debian packages: {wanted}")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ("apt-get", "install", "-y", "--no-install-recommends", *missing)
    run("apt-get", "update", what="refresh the list of Debian packages", environment=quiet)
    run(*install, what=f"install {wanted}", environment=quiet)


def debian_mirror(apt: Path = Path("/etc/apt")) -> str:
    """Return the mirror that the machine's own apt uses; POOLD_LAB_MIRROR overrides it."""
    if chosen := os.environ.get("POOLD_LAB_MIRROR"):
        return chosen
    sources = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]
    for file in sources:
        if not file.is_file():
            continue
        for address in _addresses(file.read_text(encoding="utf-8", errors="replace")):
            if address.rstrip("/").endswith("/debian"):
                return address
    raise Permanent(
        "lab.no-mirror",
        f"cannot find a Debian mirror in the sources under {apt}",
        hint="name one in the environment variable POOLD_LAB_MIRROR",
    )


def _addresses(sources: str) -> list[str]:
    """Return the addresses in either of apt's two formats, in order."""
    found = []
    for line in sources.splitlines():
        words = line.split()
        if words[:1] in (["URIs:"], ["deb"]):
            found += [word for word in words[1:] if "://" in word]
    return found


def cgroup2() -> Path:
    """Return where the machine has cgroup2 mounted, on hybrid systems too."""
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    raise Permanent(
        "lab.no-cgroup2",
        "cannot give lab hosts a cgroup: no cgroup2 file system is mounted",
        hint="mount one: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified",
    )
