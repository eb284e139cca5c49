"""What HAProxy answers, read: text in, values or a Problem out. Pure.

Columns are found by their names in the header, never by position: each version adds some. An
answer without its end or with a line that does not fit is no answer at all: half of a list would
say that the rest is gone.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from poold.errors import Permanent, Problem, Temporary

# Bits of srv_admin_state. 0x04 (from the configuration) says only how a server began.
_MAINTENANCE: Final = 0x01 | 0x02 | 0x20  # forced, inherited, its name was not resolved
_DRAINING: Final = 0x08 | 0x10
_CHECK_CONFIGURED: Final = 0x02
_CHECK_ENABLED: Final = 0x04
_SERVER_ROW, _BACKEND_ROW = "2", "1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerState:
    """A line of `show servers state`."""

    backend: str
    name: str
    address: str  # "-" where a name was never resolved
    port: int
    operational: int  # 0: stopped, 1: starting, 2: running, 3: stopping
    admin: int
    weight: int
    check: int

    @property
    def in_maintenance(self) -> bool:
        """Whether nothing is let in."""
        return bool(self.admin & _MAINTENANCE)

    @property
    def draining(self) -> bool:
        """Whether nothing new is let in."""
        return bool(self.admin & _DRAINING)

    @property
    def checks_are_off(self) -> bool:
        """Whether it has health checks that do not run."""
        return self.check & (_CHECK_CONFIGURED | _CHECK_ENABLED) == _CHECK_CONFIGURED


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """A server's or a backend's line of `show stat`."""

    backend: str
    name: str  # "BACKEND" for the backend itself
    status: str
    sessions: int
    queue: int
    requests: int  # since HAProxy began
    is_backend: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Connections:
    """A line of `show servers conn`: what keeps a server from being deleted."""

    backend: str
    name: str
    used: int
    idle: int


def read_states(text: str) -> tuple[ServerState, ...]:
    """Read `show servers state`, version 1 of its format."""
    version, _, rest = _whole(text).partition("\n")
    if version != "1":
        raise _rubbish(f"version 1 of the state's format was expected, not {version!r:.80}")
    return tuple(
        ServerState(
            backend=row["be_name"],
            name=row["srv_name"],
            address=row["srv_addr"],
            port=_number(row["srv_port"]),
            operational=_number(row["srv_op_state"]),
            admin=_number(row["srv_admin_state"]),
            weight=_number(row["srv_uweight"]),
            check=_number(row["srv_check_state"]),
        )
        for row in _rows(
            _lines(rest, " "),
            "be_name srv_name srv_addr srv_port srv_op_state srv_admin_state srv_uweight"
            " srv_check_state",
        )
    )


def read_figures(text: str) -> tuple[Figures, ...]:
    """Read `show stat`; lines of frontends and listeners are left out."""
    return tuple(
        Figures(
            backend=row["pxname"],
            name=row["svname"],
            status=row["status"],
            sessions=_number(row["scur"] or "0"),
            queue=_number(row["qcur"] or "0"),
            requests=_number(row["stot"] or "0"),
            is_backend=row["type"] == _BACKEND_ROW,
        )
        for row in _rows(_lines(_whole(text), ","), "pxname svname status scur qcur stot type")
        if row["type"] in (_SERVER_ROW, _BACKEND_ROW)
    )


def read_connections(text: str) -> tuple[Connections, ...]:
    """Read `show servers conn`."""
    found = []
    for row in _rows(_lines(_whole(text), " "), "bkname/svname used_cur idle_cur", loose=True):
        backend, _, name = row["bkname/svname"].partition("/")
        used, idle = _number(row["used_cur"]), _number(row["idle_cur"])
        found.append(Connections(backend=backend, name=name, used=used, idle=idle))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Identity:
    """One process of HAProxy. After a reload it is another one."""

    pid: int
    since: int  # seconds since the epoch

    def __str__(self) -> str:
        return f"process {self.pid} since {self.since}"


def read_identity(text: str) -> Identity:
    """Read who answers from `show info`: a process, and when it began."""
    fields = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    missing = {"Pid", "Start_time_sec"} - fields.keys()
    if missing:
        raise refusal("show info", text) or _rubbish(f"it does not tell {', '.join(missing)}")
    return Identity(_number(fields["Pid"]), _number(fields["Start_time_sec"]))


def read_old_workers(text: str) -> frozenset[int]:
    """Read the processes that a master has left from reloads out of its `show proc`."""
    if not text.startswith("#"):
        raise refusal("show proc", text) or _rubbish("it lists no processes")
    found, old = set[int](), False
    for line in text.splitlines():
        if line.startswith("#"):
            old = line.startswith("# old workers")
        elif old and line.strip():
            found.add(_number(line.split()[0]))
    return frozenset(found)


def refusal(command: str, answer: str) -> Problem | None:
    """Return what an answer to a command that changes something complains about, or None.

    HAProxy has no codes: what is not known to be good is bad.
    """
    said = answer.strip()
    if not said or said in ("New server registered.", "Server deleted.") or _is_news(said):
        return None
    first = said.splitlines()[0][:200]
    lower = first.lower()
    cannot = f"cannot do {command!r:.200}: HAProxy says {first!r}"
    if "permission denied" in lower:
        return Permanent("balancer.denied", cannot, hint='give its socket "level admin"')
    if "unknown command" in lower:
        return Permanent(
            "balancer.too-old", cannot, hint="HAProxy 2.6 or newer is needed, and its own socket"
        )
    if "dynamic load balancing" in lower:
        return Permanent(
            "balancer.static-algorithm",
            cannot,
            hint="balance by roundrobin, leastconn, first or random, or use a server-template",
        )
    if "no such backend" in lower or "can't find backend" in lower or "no such proxy" in lower:
        return Permanent("balancer.no-backend", cannot, hint="add the backend to its configuration")
    if "unknown keyword" in lower:
        return Permanent(
            "balancer.bad-options", cannot, hint="this HAProxy does not take such an option here"
        )
    if "no such server" in lower or "already exists" in lower:
        return Temporary("balancer.changed", cannot, retry_after_seconds=1)
    if "still has" in lower:
        return Temporary("balancer.in-use", cannot, retry_after_seconds=1)
    if "target pid" in lower:  # of a master without a worker
        return Temporary("balancer.unreachable", cannot, retry_after_seconds=1)
    return Temporary("balancer.refused", cannot, retry_after_seconds=1)


def _is_news(said: str) -> bool:
    """Whether an answer to `set server … addr` only says what it did."""
    return said.endswith("by 'stats socket command'") and (
        "changed from" in said or said.startswith("no need to change")
    )


def _whole(text: str) -> str:
    """Return a list without the empty line that ends it; an error or half a list has none."""
    problem = None if text.startswith(("1\n", "# ")) else refusal("show", text)
    if problem is not None:
        raise problem
    if not text.endswith("\n\n"):
        raise _rubbish("it ends in the middle" if text else "it is empty")
    return text.rstrip("\n") + "\n"


def _lines(text: str, separator: str) -> Iterator[list[str]]:
    lines = text.removesuffix("\n").split("\n")
    if not lines[0].startswith("# "):
        raise _rubbish(f"a header was expected, not {lines[0]!r:.80}")
    lines[0] = lines[0].removeprefix("# ")
    if separator == ",":
        try:
            yield from csv.reader(lines, strict=True)
        except csv.Error as error:
            raise _rubbish(str(error)) from error
    else:
        yield from (line.split(separator) for line in lines)


def _rows(
    lines: Iterator[list[str]], needed: str, *, loose: bool = False
) -> Iterator[Mapping[str, str]]:
    """Yield rows by column. `loose`: the last one, idle_per_thr[4], stands for none or many."""
    header = next(lines)
    if missing := set(needed.split()) - set(header):
        raise _rubbish(f"it has no column {', '.join(sorted(missing))}")
    for line in lines:
        if not loose and len(line) != len(header):
            raise _rubbish(f"a line has {len(line)} columns, not {len(header)}")
        if loose and len(line) < len(header) - 1:
            raise _rubbish(f"a line has {len(line)} columns only")
        yield dict(zip(header, line, strict=False))


def _number(text: str) -> int:
    if not (text.isascii() and text.removeprefix("-").isdigit() and len(text) < 20):
        raise _rubbish(f"a number was expected, not {text!r:.80}")
    return int(text)


def _rubbish(why: str) -> Temporary:
    return Temporary(
        "balancer.rubbish", f"cannot read what HAProxy answers: {why}", retry_after_seconds=1
    )
