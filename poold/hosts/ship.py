"""Putting the agent on a host and starting it, in one command over SSH.

Flows in: a connection and the agent's code. Flows out: a running agent's streams. The code is
sent only when the host lacks it; it lies in the run folder, which a reboot empties unless that is
in an agent folder of the host's own. It refuses to know what the agent is asked.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

import asyncssh

from poold.errors import Permanent, Problem, Temporary
from poold.hosts.bundle import Bundle
from poold.model.fleet import Host

_NOISE_LINES = 100  # what a login shell may print before the agent speaks
_MARK = b"poold-agent: "

# Run by whatever python3 the host has, so old syntax only; says "old", "need", "have" or "failed".
_BOOTSTRAP = """
import sys
def say(text):
    sys.stdout.write("poold-agent: " + text + "\\n")
    sys.stdout.flush()
if sys.version_info < (3, 9):
    say("old %d.%d" % sys.version_info[:2])
    sys.exit(3)
import hashlib, os
folder, digest, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
path = os.path.join(folder, digest + ".pyz")
def is_there():
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest() == digest
    except OSError:
        return False
try:
    if not is_there():
        os.umask(0o077)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        say("need")
        code = b""
        while len(code) < size:
            chunk = os.read(0, size - len(code))
            if not chunk:
                sys.exit(3)
            code += chunk
        part = "%s.%d" % (path, os.getpid())
        with open(part, "wb") as file:
            file.write(code)
        os.rename(part, path)
        if not is_there():
            raise OSError("the code arrived damaged")
    say("have")
    os.execv(sys.executable, [sys.executable, "-E", "-s", path] + sys.argv[4:])
except OSError as error:
    say("failed %s" % error)
    sys.exit(3)
"""


@dataclass(frozen=True)
class Paths:
    """Where the agent's things are on a host."""

    agent_dir: str
    run_dir: str

    @property
    def code_dir(self) -> str:
        """The folder of the shipped agents."""
        return f"{self.run_dir}/code"

    def program(self, python: str, bundle: Bundle, *arguments: str) -> str:
        """Return the command line that runs the shipped agent, for the host's shell."""
        code = f"{self.code_dir}/{bundle.sha256}.pyz"
        return shlex.join([python, "-E", "-s", code, *arguments])


async def start_agent(
    connection: asyncssh.SSHClientConnection,
    host: Host,
    paths: Paths,
    bundle: Bundle,
    engine: str,
) -> asyncssh.SSHClientProcess[bytes]:
    """Start the agent and return it just before its first frame; the caller bounds the wait.

    Raises Permanent("host.no-python") and Temporary("host.no-agent").
    """
    serve = ["serve", "--dir", paths.agent_dir, "--run", paths.run_dir, "--engine", engine]
    serve += ["--reserve", host.disk_reserve]
    size = str(len(bundle.content))
    command = shlex.join(
        [host.python, "-c", _BOOTSTRAP, paths.code_dir, bundle.sha256, size, *serve]
    )
    process = await connection.create_process(command, encoding=None)
    try:
        word = await _next_word(process)
        if word == "need":
            process.stdin.write(bundle.content)
            word = await _next_word(process)
        if word == "have":
            return process
        problem = await _no_agent(process, host, word)
    except BaseException:
        process.close()
        raise
    process.close()
    raise problem


async def _next_word(process: asyncssh.SSHClientProcess[bytes]) -> str:
    for _ in range(_NOISE_LINES):
        line = await process.stdout.readline()
        if line.startswith(_MARK):
            return line[len(_MARK) :].decode(errors="replace").strip()
        if not line:
            break
    return ""


async def _no_agent(process: asyncssh.SSHClientProcess[bytes], host: Host, word: str) -> Problem:
    if word.startswith("old "):
        return Permanent(
            "host.no-python",
            f"cannot use host {host.name}: its {host.python} is {word[4:]}, older than 3.9",
            hint=f"install a newer python3 there and set python of host {host.name}",
        )
    said = (await process.stderr.read(4096)).decode(errors="replace").strip()
    if word.startswith("failed "):
        return Temporary(
            "host.no-agent", f"cannot put the agent on host {host.name}: {word[7:]}", detail=said
        )
    await process.wait_closed()
    if process.exit_status in (126, 127):
        return Permanent(
            "host.no-python",
            f"cannot use host {host.name}: there is no {host.python}",
            hint=f"install python3 (3.9 or newer) there, or set python of host {host.name}",
            detail=said,
        )
    last = said.splitlines()[-1] if said else f"exit status {process.exit_status}"
    return Temporary(
        "host.no-agent", f"cannot start the agent on host {host.name}: {last}", detail=said
    )
