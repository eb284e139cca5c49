"""The article's five commands, typed as it typed them and timed from outside.

What comes in is a way to run a command on a lab host; what goes out are seconds. Nothing of
poold's own way of restoring is known here, so that the comparison is with podman alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from poold.bench.http import first_answer, get
from poold.errors import Temporary

ARCHIVE = "/var/tmp/chkpt.tar.gz"  # noqa: S108 - on the lab host's disk, where the article has it in /tmp
_CRIU_FILE = "/etc/criu/article.conf"
_PORT = 18080
_DEADLINE_SECONDS = 120.0

Run = Callable[..., str]  # run(host, *argv) -> standard output


@dataclass(frozen=True, slots=True, kw_only=True)
class Took:
    """How long something took, and what of it was podman's command."""

    seconds: float
    phases: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Article:
    """One application, run by hand on one host.

    `criu_lines` is what CRIU must be told on such a host for the article's commands to work at
    all; they are given to the container as an annotation and cost nothing.
    """

    run: Run
    host: str
    address: str
    image: str
    port: int
    ready_path: str
    count_path: str
    criu_lines: tuple[str, ...]

    @property
    def published(self) -> str:
        """Where the container answers."""
        return f"{self.address}:{_PORT}"

    def prepare(self) -> None:
        """Write CRIU's settings; idempotent."""
        script = 'mkdir -p "${1%/*}" && printf "%s\\n" "$2" > "$1"'
        text = "\n".join(self.criu_lines)
        self.run(self.host, "sh", "-c", script, "sh", _CRIU_FILE, text)

    def start_cold(self, name: str) -> Took:
        """`podman run`; from the command to the first answer."""
        return self._until_it_answers(
            "run", "podman", "run", "-d", "--name", name,
            "-p", f"{_PORT}:{self.port}",
            "--annotation", f"org.criu.config={_CRIU_FILE}",
            self.image,
        )  # fmt: skip

    def checkpoint(self, name: str) -> float:
        """`podman container checkpoint -e`, after two requests and a quiet moment."""
        for _ in range(2):
            get(self.published, self.count_path)
        self._wait_quiet(name)
        began = time.monotonic()
        self.run(self.host, "podman", "container", "checkpoint", name, "-e", ARCHIVE)
        took = time.monotonic() - began
        self.remove(name)
        return took

    def restore(self, name: str) -> Took:
        """`podman container restore -i`; from the command to the first answer."""
        return self._until_it_answers(
            "restore", "podman", "container", "restore", "-i", ARCHIVE, "-n", name
        )

    def remove(self, name: str) -> None:
        """Remove the container, running or not; idempotent."""
        self.run(self.host, "podman", "rm", "-f", "-t", "0", "-i", name)

    def archive_bytes(self) -> int:
        """Return the size of the checkpoint archive."""
        return int(self.run(self.host, "stat", "-c", "%s", ARCHIVE))

    def clean(self) -> None:
        """Delete what the commands left on the host; idempotent."""
        self.run(self.host, "rm", "-f", ARCHIVE, _CRIU_FILE)

    def _until_it_answers(self, phase: str, *argv: str) -> Took:
        began = time.monotonic()
        self.run(self.host, *argv)
        returned = time.monotonic()
        answered = first_answer(self.published, self.ready_path, deadline_seconds=_DEADLINE_SECONDS)
        phases = {phase: returned - began, "ready": answered - returned}
        return Took(seconds=answered - began, phases=phases)

    def _wait_quiet(self, name: str) -> None:
        """Wait until only listening sockets are left, else every restore of it would fail."""
        pid = self.run(self.host, "podman", "inspect", "-f", "{{.State.Pid}}", name).strip()
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while time.monotonic() < deadline:
            tables = self.run(self.host, "cat", f"/proc/{pid}/net/tcp", f"/proc/{pid}/net/tcp6")
            states = [line.split()[3] for line in tables.splitlines() if ":" in line.split()[0]]
            if all(state == "0A" for state in states):
                return
            time.sleep(0.1)  # the kernel tells no event for it
        raise Temporary(
            "demo.not-quiet",
            f"cannot checkpoint {name}: after {_DEADLINE_SECONDS:g} s it still holds connections",
            hint=f"look: poold lab exec {self.host} -- podman exec {name} cat /proc/net/tcp",
        )
