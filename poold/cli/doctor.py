"""`poold doctor`: needed most when the daemon does not run, so it does not need the daemon.

With a configuration it reaches the hosts itself; without one it asks the running daemon.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from poold.agent.messages import Finding
from poold.cli import options
from poold.cli.examples import examples
from poold.cli.failures import DONE, FAILED, printable
from poold.cli.output import colours, print_json
from poold.cli.session import Session
from poold.cli.tables import paint
from poold.client import Client, is_unreachable
from poold.errors import Refused, Temporary

if TYPE_CHECKING:  # imported when it is needed, for speed
    from poold.config import Config

Report = Mapping[str, Sequence[Finding]]


@click.command(
    epilog=examples("poold doctor", "poold doctor --config /etc/poold/poold.toml --json")
)
@options.question
def doctor(session: Session, as_json: bool) -> int:
    """Examine the daemon's machine and every host: what is missing, why it matters, the way out.

    With --config the hosts are reached from here, without the daemon; otherwise the running daemon
    is asked. CRIU is tried on every host, by freezing and thawing a tiny process: it takes
    seconds. Exit code 1 when an error is found; warnings alone are 0.
    """
    report = _report(session)
    if as_json:
        print_json({"hosts": report})
    else:
        _print(report)
    worst = {finding.level for findings in report.values() for finding in findings}
    return FAILED if "error" in worst else DONE


def _report(session: Session) -> Report:
    named = session.named_config()
    if named is not None:
        return _by_hand(named)
    try:
        return _asked(session.client())
    except Temporary as problem:
        if not is_unreachable(problem):
            raise
        if session.names_a_daemon() or not Path(session.default_config).exists():
            hint = "poold doctor --config FILE examines the hosts without the daemon"
            raise Temporary(problem.code, problem.message, hint=hint) from problem
        print(f"{problem.message}: examining by {session.default_config}", file=sys.stderr)
        return _by_hand(Path(session.default_config))


def _asked(client: Client) -> Report:
    answer = client.doctor()
    return msgspec.convert(answer["hosts"], dict[str, tuple[Finding, ...]])


def _by_hand(file: Path) -> Report:
    import asyncio
    import logging

    from poold import config
    from poold.doctor import DAEMON, examine_daemon

    for talker in ("poold", "asyncssh"):  # what they would say is in the findings
        logging.getLogger(talker).addHandler(logging.NullHandler())

    try:
        settings = config.load(file)
    except Refused as refusal:
        mistakes = refusal.detail.splitlines() or [refusal.message]
        way_out = refusal.hint
        findings = [
            Finding("config", "error", text, "the daemon would not start", way_out)
            for text in mistakes
        ]
        return {DAEMON: findings}
    if sys.stderr.isatty():
        print(f"examining {', '.join(settings.hosts)} …", file=sys.stderr)
    return {DAEMON: examine_daemon(settings), **asyncio.run(_examine_hosts(settings))}


async def _examine_hosts(settings: Config) -> Report:
    import asyncio

    from poold.doctor import examine_hosts
    from poold.hosts import link_to

    links = {name: link_to(host) for name, host in settings.hosts.items()}
    try:
        await asyncio.gather(*(link.open() for link in links.values()))
        return await examine_hosts(links)
    finally:
        await asyncio.shield(asyncio.gather(*(link.close() for link in links.values())))


def _print(report: Report) -> None:
    width = max((len(f.check) for findings in report.values() for f in findings), default=0)
    for name, findings in report.items():
        print(name)
        for finding in findings:
            level = paint(f"{finding.level:<7}") if colours() else f"{finding.level:<7}"
            print(f"  {level}  {finding.check:<{width}}  {printable(finding.what)}")
            if finding.level != "ok":
                for label, text in (("why", finding.why), ("way out", finding.way_out)):
                    if text:
                        print(f"  {'':7}  {'':<{width}}    {label}: {printable(text)}")
    levels = [finding.level for findings in report.values() for finding in findings]
    print(f"\nerrors: {levels.count('error')}, warnings: {levels.count('warning')}")
