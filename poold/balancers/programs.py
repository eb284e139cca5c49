"""Balancers behind a program: a rendered file and a command, or a command that gets the set.

In: the set. Out: a file that is whole, and a program that ended well, or a Problem with what it
said. Of a template: lines with `@address@` are written once for each server (`@name@`, `@port@`
and `@endpoint@` too), lines that begin with `@empty@` only when there is none; `@pool@` is the
pool's name everywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from poold.balancers.base import Server
from poold.balancers.told import as_json, endpoint
from poold.errors import Permanent, Temporary
from poold.model.balancing import BalancerName
from poold.model.fleet import Pool

_PER_SERVER: Final = ("@address@", "@endpoint@", "@name@", "@port@")
_EMPTY: Final = "@empty@"
_TOLD_BYTES: Final = 2000  # of what a program says when it fails


def render(template: str, pool: str, servers: tuple[Server, ...]) -> str:
    """Return the file's text. Pure."""
    lines = []
    for line in template.splitlines(keepends=True):
        if line.startswith(_EMPTY):
            lines += [] if servers else [line.removeprefix(_EMPTY).lstrip(" ")]
        elif any(mark in line for mark in _PER_SERVER):
            lines += [_filled(line, each) for each in servers]
        else:
            lines.append(line)
    return "".join(lines).replace("@pool@", pool)


def _filled(line: str, server: Server) -> str:
    line = line.replace("@endpoint@", endpoint(server)).replace("@address@", server.address)
    return line.replace("@port@", str(server.port)).replace("@name@", server.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileTeller:
    """Renders a file for each pool and has it read. The file is compared at each call."""

    name: BalancerName
    template: Path
    path: str
    command: tuple[str, ...]
    timeout_seconds: float

    async def tell(self, pool: Pool, servers: tuple[Server, ...], *, anew: bool) -> bool:
        """See `Teller.tell`."""
        path = Path(self.path.replace("@pool@", pool.name))
        try:
            template = await asyncio.to_thread(self.template.read_text, "utf-8")
            text = render(template, pool.name, servers)
            written = await asyncio.to_thread(_replace_unless_same, path, text)
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
            raise Permanent(
                "balancer.file",
                f"cannot write {path} from {self.template}: {why}",
                hint="both folders must be there, and poold's user may write to the first",
            ) from error
        if not (written or anew):
            return False
        await run(self.name, self.command, b"", self.timeout_seconds)
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandTeller:
    """Runs a program with the set as JSON on its standard input, when it is news."""

    name: BalancerName
    command: tuple[str, ...]
    timeout_seconds: float

    async def tell(self, pool: Pool, servers: tuple[Server, ...], *, anew: bool) -> bool:
        """See `Teller.tell`."""
        if anew:
            told = json.dumps(as_json(pool, servers)).encode() + b"\n"
            await run(self.name, self.command, told, self.timeout_seconds)
        return anew


async def run(
    name: BalancerName, command: tuple[str, ...], told: bytes, timeout_seconds: float
) -> None:
    """Run a program to its end; cancelled or late, it is killed."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise Permanent(
            "balancer.command",
            f"cannot tell {name}: {command[0]}: {error.strerror}",
            hint="name a program that poold's user may run",
        ) from error
    try:
        async with asyncio.timeout(timeout_seconds):
            _, said = await process.communicate(told)
    except TimeoutError:
        raise Temporary(
            "balancer.timeout",
            f"cannot tell {name}: {command[0]} did not end in {timeout_seconds:g} s",
            retry_after_seconds=1,
        ) from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode != 0:
        raise Temporary(
            "balancer.command",
            f"cannot tell {name}: {command[0]} ended with {process.returncode}",
            detail=said[-_TOLD_BYTES:].decode("utf-8", "replace"),
            retry_after_seconds=1,
        )


def _replace_unless_same(path: Path, text: str) -> bool:
    """Write a file whole or not at all; False where it was so already."""
    with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
        if path.read_text("utf-8") == text:
            return False
    new = path.with_name(f".{path.name}.new")
    try:
        new.write_text(text, encoding="utf-8")
        new.chmod(0o644)
        with new.open("rb") as file:
            os.fsync(file.fileno())
        new.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
    return True
