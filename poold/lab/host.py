"""One lab host: its disk in a folder, its life in a cgroup, its first process in namespaces.

A host is running when the process noted in its folder lives; the disk outlives it, as a real
machine's does. Knows nothing of images or of other hosts.
"""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from poold.errors import Permanent, Temporary
from poold.lab import cgroups, network
from poold.lab.cache import remove_tree
from poold.lab.commands import run

if TYPE_CHECKING:
    from collections.abc import Sequence

_BOOT_SCRIPT = Path(__file__).parent / "boot.sh"
_BOOT_DEADLINE_SECONDS = 60.0
_POLL_SECONDS = 0.02
_NAMESPACES = ("--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup", "--root", "--wd")
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "USER": "root",
    "LANG": "C.UTF-8",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Where a host's things are; running or not."""

    name: str
    address: str
    folder: Path
    cgroup: Path
    namespace: Path
    base: Path

    @property
    def storage(self) -> Path:
        """Where podman keeps its images and containers; absent before it ran."""
        return self.folder / "disk/containers/storage"

    @property
    def is_cut(self) -> bool:
        """Tell whether its cable is pulled; that outlives a reboot."""
        return (self.folder / "cut").exists()

    def prepare(self, *, client_key: str) -> None:
        """Make its disk, identity and keys; what is there already stays as it is."""
        for name in ("upper", "work", "root", "disk/containers", "disk/poold", "disk/tmp"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "disk/tmp").chmod(0o1777)
        ssh = self.folder / "upper/etc/ssh"
        if (ssh / "ssh_host_ed25519_key.pub").exists():
            return
        ssh.mkdir(parents=True, exist_ok=True)
        keygen = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"lab host {self.name}")
        private = ssh / "ssh_host_ed25519_key"
        private.unlink(missing_ok=True)
        hosts = f"127.0.0.1 localhost\n::1 localhost\n{self.address} {self.name}\n"
        etc = self.folder / "upper/etc"
        (etc / "hosts").write_text(hosts, encoding="utf-8")
        (etc / "hostname").write_text(f"{self.name}\n", encoding="utf-8")
        (etc / "machine-id").write_text(f"{uuid.uuid4().hex}\n", encoding="utf-8")
        authorized = self.folder / "upper/root/.ssh/authorized_keys"
        authorized.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        authorized.parent.parent.chmod(0o700)
        authorized.write_text(client_key, encoding="utf-8")
        authorized.chmod(0o600)
        run(*keygen, "-f", private, what=f"make host {self.name}'s key")

    def public_key(self) -> str:
        """Return the key by which its sshd proves itself, as in known_hosts."""
        file = self.folder / "upper/etc/ssh/ssh_host_ed25519_key.pub"
        kind, key, *_ = file.read_text(encoding="utf-8").split()
        return f"{kind} {key}"

    def process(self) -> int | None:
        """Return its first process as the machine counts, None when it is not running."""
        try:
            pid, started = (self.folder / "pid").read_text(encoding="utf-8").split()
        except (FileNotFoundError, ValueError):
            return None
        return int(pid) if _start_time(int(pid)) == started else None

    def start(self) -> None:
        """Boot, and return when systemd says that it is running."""
        if not self.base.is_dir():
            raise Permanent(
                "lab.base-gone",
                f"cannot start host {self.name}: its base system {self.base} is gone",
                hint="take the lab down and up again",
            )
        self.kill()
        (self.cgroup / "exec").mkdir(parents=True)
        boot = [str(_BOOT_SCRIPT), "enter", self.cgroup, self.base, self.folder, self.name]
        with (
            (self.folder / "console.log").open("wb") as log,
            subprocess.Popen(
                ["setsid", "--fork", "bash", *map(str, boot)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=_ENVIRONMENT,
            ) as starter,
        ):
            assert starter.stdin  # noqa: S101
            assert starter.stdout  # noqa: S101
            pid = starter.stdout.readline().decode().strip()
            if not pid.isdigit():
                raise self._boot_failed("its namespaces were not made")
            network.attach(
                self.namespace,
                name=self.name,
                address=self.address,
                process=int(pid),
                cut=self.is_cut,
            )
            (self.folder / "pid").write_text(f"{pid} {_start_time(int(pid))}\n", encoding="utf-8")
            starter.stdin.write(b"go\n")
        match self.wait_until_started():
            case "running":
                return
            case "degraded":
                failed = self.execute("systemctl", "--failed", "--plain", what="list failed units")
                raise self._boot_failed("a unit failed", failed)
            case _:
                raise self._boot_failed("its systemd does not answer")

    def kill(self) -> None:
        """Let it die at once with everything on it, and wait until it is gone."""
        cgroups.end(self.cgroup)
        (self.folder / "pid").unlink(missing_ok=True)

    def remove(self) -> None:
        """Kill it and throw its disk away."""
        self.kill()
        remove_tree(self.folder)

    def exec_argv(self, argv: Sequence[str]) -> list[str]:
        """Return the machine's command that runs `argv` there; refuse when it is not running."""
        pid = self.process()
        if pid is None:
            raise Temporary(
                "lab.host-down",
                f"cannot run a command on host {self.name}: it is not running",
                hint=f"start it: poold lab reboot {self.name}",
            )
        entered = ["nsenter", f"--target={pid}", *_NAMESPACES, "--", *argv]
        return cgroups.join_argv(self.cgroup / "exec", entered)

    def environment(self) -> dict[str, str]:
        """Return the environment of commands there: nothing of the machine's but the terminal."""
        return {**_ENVIRONMENT, "TERM": os.environ.get("TERM", "dumb")}

    def execute(self, *argv: str, what: str, timeout_seconds: float = 300) -> str:
        """Run a command there and return its output; `what` completes "cannot …".

        Its deadline is kept on the host: killing nsenter would leave the command running there.
        """
        bounded = ("timeout", "--kill-after=5", f"{timeout_seconds:g}", *argv)
        return run(
            *self.exec_argv(bounded),
            what=f"{what} on host {self.name}",
            environment=self.environment(),
            timeout_seconds=timeout_seconds + 30,
        )

    def wait_until_started(self) -> str:
        """Wait until systemd has nothing left to start; return its word for the outcome."""
        deadline = time.monotonic() + _BOOT_DEADLINE_SECONDS
        while (pid := self.process()) is not None and time.monotonic() < deadline:
            # Seen through the first process's root; asking earlier would only fail.
            if Path(f"/proc/{pid}/root/run/systemd/private").exists():
                state = self._system_state()
                if state in {"running", "degraded"}:
                    return state
            time.sleep(_POLL_SECONDS)
        return ""

    def _system_state(self) -> str:
        """Wait until systemd has ended starting and return its word for how that went."""
        done = subprocess.run(
            self.exec_argv(["systemctl", "is-system-running", "--wait"]),
            check=False,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_BOOT_DEADLINE_SECONDS,
        )
        return done.stdout.decode().strip()

    def _boot_failed(self, why: str, detail: str = "") -> Permanent:
        self.kill()
        console = (self.folder / "console.log").read_text(encoding="utf-8", errors="replace")
        return Permanent(
            "lab.boot-failed",
            f"cannot boot host {self.name}: {why}",
            hint=f"see {self.folder / 'console.log'}",
            detail=detail or console[-2000:],
        )


def _start_time(pid: int) -> str | None:
    """Return when the process started, in clock ticks; with the id it names one process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else fields[18]
