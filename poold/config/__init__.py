"""The operator's configuration: a TOML file in; a frozen `Config` out, or every mistake at once.

A pipeline: text -> tree (tomli) -> values (`reading`, driven by the values' own type hints)
-> meaning (`rules`, pure) -> `Config`; `writing` goes the other way. It knows the values of
`poold.model` and has no copies of them; it does not look at the machine: whether a key file exists
or a host answers is the doctor's question.
"""

from __future__ import annotations

from pathlib import Path

from poold.config.reading import Complaint, InvalidConfig, parse
from poold.config.values import Config, DaemonConfig
from poold.config.writing import to_json, to_toml
from poold.errors import Refused

__all__ = [
    "Complaint",
    "Config",
    "DaemonConfig",
    "InvalidConfig",
    "load",
    "parse",
    "to_json",
    "to_toml",
]


def load(path: Path) -> Config:
    """Read a configuration file.

    Raises Refused("config.unreadable") when there is no text to judge, InvalidConfig (a
    Refused("config.invalid") with all `problems`) when there is.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise Refused(
            "config.unreadable",
            f"cannot read the configuration {path}: {error.strerror or error}",
            hint="name the file with --config; an annotated one comes with poold",
        ) from error
    except UnicodeDecodeError as error:
        raise Refused(
            "config.unreadable",
            f"cannot read the configuration {path}: byte {error.start} is not UTF-8",
            hint="save it as UTF-8",
        ) from error
    return parse(text, source=str(path))
