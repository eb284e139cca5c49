"""The root file system that all lab hosts share read-only: a small Debian forky.

The recipe is the data in this module and the files below rootfiles/; its digest is the key.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from poold.lab.cache import folder_digests, recipe_key, remove_tree
from poold.lab.commands import run
from poold.lab.machine import debian_mirror, say

SUITE = "forky"
_FORMAT = 1
_ROOT_FILES = Path(__file__).parent / "rootfiles"
_PACKAGES = (
    "aardvark-dns,ca-certificates,conmon,criu,crun,curl,dbus,iproute2,libcriu2,netavark,nftables,"
    "openssh-server,podman,procps,python3,python3-venv,runc,strace,systemd-sysv,tar,zstd"
)
# The machine's devices, kernel modules and settings, clock and names are not a lab host's business;
# others want a network beyond the lab, make keys that nobody has pinned, or cost time at each boot.
_MASKED = (
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "console-getty.service",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "dpkg-db-backup.timer",
    "fstrim.timer",
    "getty@tty1.service",
    "kmod-static-nodes.service",
    "modprobe@.service",
    "netavark-dhcp-proxy.socket",
    "sshd-keygen.service",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-modules-load.service",
    "systemd-networkd.service",
    "systemd-pstore.service",
    "systemd-remount-fs.service",
    "systemd-resolved.service",
    "systemd-sysctl.service",
    "systemd-timesyncd.service",
    "systemd-tmpfiles-setup-dev-early.service",
    "systemd-tmpfiles-setup-dev.service",
    "systemd-udevd.service",
)


def key() -> str:
    """Return the digest of the recipe."""
    return recipe_key(_FORMAT, SUITE, _PACKAGES, _MASKED, folder_digests(_ROOT_FILES))


def build(folder: Path) -> None:
    """Fill an empty folder with the root file system; takes a minute or two."""
    say(f"building the hosts' base system: Debian {SUITE} (one to two minutes)")
    bootstrap(folder, _PACKAGES)
    shutil.copytree(_ROOT_FILES, folder, dirs_exist_ok=True)
    for unit in _MASKED:
        mask = folder / "etc/systemd/system" / unit
        mask.unlink(missing_ok=True)
        mask.symlink_to("/dev/null")
    for own in folder.glob("etc/ssh/ssh_host_*"):
        own.unlink()
    for name in ("etc/machine-id", "etc/hostname", "var/lib/dbus/machine-id"):
        (folder / name).unlink(missing_ok=True)
    for name in ("var/lib/containers", "var/lib/poold", "root/.ssh"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "root/.ssh").chmod(0o700)


def bootstrap(folder: Path, packages: str) -> None:
    """Run debootstrap, and drop what only apt and human readers need.

    In mount and process namespaces of its own: what it mounts below the folder goes with it,
    however it ends. Debian 12's debootstrap has no script named forky; sid's is the same.
    """
    run(
        *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"),
        *("--mount-proc", "debootstrap", "--variant=minbase", f"--include={packages}"),
        *(SUITE, folder, debian_mirror(), "/usr/share/debootstrap/scripts/sid"),
        what=f"bootstrap Debian {SUITE}",
        timeout_seconds=3600,
    )
    for name in ("var/cache/apt", "var/lib/apt/lists", "var/log", "usr/share/doc"):
        remove_tree(folder / name)
        (folder / name).mkdir()
    for name in ("usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian"):
        remove_tree(folder / name)
