"""From a `Config` back to a file: TOML that reads as the same Config, or JSON of the same layout.

Values that may be secrets (of env, of warm-up headers and bodies) are masked unless asked for; a
masked file is not the same configuration, and says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import msgspec

from poold.config.layout import POOL_KEYS
from poold.config.values import Config
from poold.model.fleet import Pool

MASK: Final = "***"
_MASKED_NOTE: Final = (
    '# Values that may be secrets are shown as "***": this is not the same configuration.\n'
    "# `poold config show --show-secrets` shows them.\n\n"
)
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+\Z")


def to_toml(config: Config, *, show_secrets: bool = False) -> str:
    """Return TOML; with the secrets, or where there are none, it reads as the same Config."""
    shown = config if show_secrets else masked(config)
    text = "\n".join(_table(_layout(shown), "")).strip() + "\n"
    return text if shown == config else _MASKED_NOTE + text


def to_json(config: Config, *, show_secrets: bool = False) -> bytes:
    """Return JSON of the same layout; what is not set is null."""
    shown = config if show_secrets else masked(config)
    return msgspec.json.format(msgspec.json.encode(_layout(shown)))


def masked(config: Config) -> Config:
    """Return the configuration without the values that may be secrets."""
    return replace(config, pools={name: _mask(pool) for name, pool in config.pools.items()})


def _mask(pool: Pool) -> Pool:
    app = pool.application
    warmup = tuple(
        replace(request, headers=dict.fromkeys(request.headers, MASK), body=request.body and MASK)
        for request in app.warmup
    )
    return replace(pool, application=replace(app, env=dict.fromkeys(app.env, MASK), warmup=warmup))


def _layout(config: Config) -> dict[str, Any]:
    """Return the tree of the file: what `reading` takes."""
    tree: dict[str, Any] = msgspec.to_builtins(config)
    for named in (*tree["hosts"].values(), *tree["balancers"].values()):
        del named["name"]
    for name, pool in tree["pools"].items():
        values = {**pool.pop("application"), **pool}
        tree["pools"][name] = {key: values[by.attribute] for key, by in POOL_KEYS.items()}
    return tree


def _table(table: Mapping[str, Any], header: str) -> Iterator[str]:
    """Yield the lines of a table: its plain values, then the tables in it under their headers."""
    inner: list[tuple[str, str, Mapping[str, Any]]] = []
    for name, value in sorted(table.items(), key=lambda item: item[0] != "kind"):
        key = name if _PLAIN_KEY.match(name) else _string(name)
        path = f"{header}.{key}" if header else key
        if value is None:
            yield f"# {key}: not set"
        elif isinstance(value, Mapping) and (value or not header):
            inner.append((path, f"[{path}]", value))
        elif isinstance(value, (list, tuple)) and value and isinstance(value[0], Mapping):
            inner.extend((path, f"[[{path}]]", item) for item in value)
        else:
            yield f"{key} = {_value(value)}"
    for path, line, content in inner:
        if header or not _only_tables(content):
            yield ""
            yield line
        yield from _table(content, path)


def _only_tables(content: Mapping[str, Any]) -> bool:
    return bool(content) and all(isinstance(part, Mapping) for part in content.values())


def _value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case float() if value.is_integer():
            return str(int(value))
        case int() | float():
            return repr(value)
        case str():
            return _string(value)
        case list() | tuple():
            return f"[{', '.join(map(_value, value))}]"
        case _:
            return "{}"  # only empty tables are written inline


def _string(text: str) -> str:
    # JSON's escapes are TOML's, but TOML also wants DEL escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
