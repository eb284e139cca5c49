"""The agent as a program: `serve` a wire, `receive` or `send` one file.

Flows in: arguments, stdin. Flows out: stdout, the exit code. `receive` ends with one line of JSON
on stdout, {"done": true} or {"problem": …}; `send` writes the file on stdout and a problem as one
line of JSON on stderr, {"problem": …}. Exit codes: 0 done, 1 a problem that is reported so, 2 wrong
usage or a wire full of rubbish.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import select
import sys
from pathlib import Path
from typing import Any, Callable, Optional

from poold.agent.blobs import CHUNK_BYTES, Receiver, read
from poold.agent.space import Reserve, read_reserve
from poold.errors import Problem, Temporary

IDLE_SECONDS = 20.0  # a sender that says nothing for so long is gone
YIELD_SECONDS = 1.0  # and after so long when another one waits: it is the same one, reconnected

# (root, run, engine's name, running) -> Handler
HandlerFactory = Callable[[Path, Path, str, Callable[[], "tuple[str, ...]"]], Any]


def real_handler(
    root: Path,
    run: Path,
    engine: str,
    running: Callable[[], tuple[str, ...]],
    reserve: Reserve = Reserve(),  # noqa: B008 - frozen
) -> Any:
    """Build the handler of a real host."""
    from poold.agent.actions import Actions
    from poold.agent.engines import build_engine

    return Actions(root, run, build_engine(engine), running, reserve=reserve)


def main(
    arguments: Optional[list[str]] = None, make_handler: Optional[HandlerFactory] = None
) -> int:
    """Run the agent and return its exit code."""
    os.umask(0o077)
    options = _parser().parse_args(arguments)
    if options.command == "serve":
        handler = functools.partial(real_handler, reserve=options.reserve)
        return _serve(options, make_handler or handler)
    try:
        if options.command == "receive":
            return _receive(options)
        return _send(options)
    except BrokenPipeError:
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="poold-agent", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve")
    serve.add_argument("--run", type=Path, required=True)
    serve.add_argument("--engine", default="oci")
    receive = commands.add_parser("receive")
    receive.add_argument("--size", type=int, required=True)
    receive.add_argument("--sha256", required=True)
    send = commands.add_parser("send")
    for command in (serve, receive, send):
        command.add_argument("--dir", type=Path, required=True)
    for command in (serve, receive):
        command.add_argument("--reserve", type=read_reserve, default=Reserve())
    for command in (receive, send):
        command.add_argument("path")
        command.add_argument("--offset", type=int, default=0)
    return parser


def _serve(options: argparse.Namespace, make_handler: HandlerFactory) -> int:
    import asyncio
    import logging

    from poold.agent.journal import Journal, read_boot_id
    from poold.agent.minding import Watchful
    from poold.agent.runner import Runner
    from poold.agent.server import serve

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    # The wire keeps the two descriptors for itself: a stray print or a child's output must not
    # get into it.
    stdin, stdout = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)

    async def served() -> int:
        options.dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        boot_id = read_boot_id()
        journal = Journal(options.run, boot_id)
        handler = make_handler(options.dir, options.run, options.engine, journal.running)
        runner = Runner(options.dir, handler, journal, boot_id)
        watch = handler.watch if isinstance(handler, Watchful) else None
        return await serve(runner, code_hash=_code_hash(), stdin=stdin, stdout=stdout, watch=watch)

    return asyncio.run(served())


def _code_hash() -> str:
    """Return the digest of the archive this runs from, "" when it runs from files."""
    program = Path(sys.argv[0])
    return hashlib.sha256(program.read_bytes()).hexdigest() if program.suffix == ".pyz" else ""


def _receive(options: argparse.Namespace) -> int:
    try:
        receiver = Receiver(
            options.dir,
            options.path,
            size=options.size,
            sha256=options.sha256,
            offset=options.offset,
            reserve=options.reserve,
        )
        try:
            _copy_in(receiver)
            receiver.finish()
        finally:
            receiver.close()
    except Problem as problem:
        _say(1, {"problem": problem.to_json()})
        return 1
    _say(1, {"done": True})
    return 0


def _say(descriptor: int, value: dict[str, Any]) -> None:
    os.write(descriptor, json.dumps(value).encode() + b"\n")


def _copy_in(receiver: Receiver) -> None:
    while receiver.left:
        if not _bytes_come(receiver):
            raise Temporary("blob.cut", "cannot receive more: the sender has gone silent")
        chunk = os.read(0, CHUNK_BYTES)
        if not chunk:
            return
        receiver.write(chunk)


def _bytes_come(receiver: Receiver) -> bool:
    for _ in range(int(IDLE_SECONDS / YIELD_SECONDS)):
        ready, _, _ = select.select([0], [], [], YIELD_SECONDS)
        if ready:
            return True
        if receiver.is_wanted:
            return False
    return False


def _send(options: argparse.Namespace) -> int:
    try:
        for chunk in read(options.dir, options.path, options.offset):
            view = memoryview(chunk)
            while view:
                view = view[os.write(1, view) :]
    except Problem as problem:
        _say(2, {"problem": problem.to_json()})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
