"""From a tree of plain TOML values to typed values, driven by the type hints of their classes.

Flows in: a tree and a class; flows out: the value, and a complaint with its place for everything
that does not fit. That is replaced by a default, so that the rest is still looked at.
It knows no key of the configuration, and no rule beyond names and types.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from typing import Any, Final, Literal, NewType, Union, get_args, get_origin, get_type_hints

from poold.config.lines import Place

Complain = Callable[[Place, str], object]

_WRONG: Final = object()
_NAMES: Final[dict[type, str]] = {
    str: "a string",
    bool: "true or false",
    int: "an integer",
    float: "a number",
    list: "an array",
    dict: "a table",
}


@dataclass(frozen=True, slots=True)
class Key:
    """A key that a table may have. `attribute` is the name of the field that it fills."""

    attribute: str
    hint: Any
    default: Callable[[], Any] | None  # None: cannot be left out


@cache
def keys_of(cls: type) -> Mapping[str, Key]:
    """Return the keys of a dataclass, in order, under the names of its fields."""
    hints = get_type_hints(cls)
    keys = {}
    for field in fields(cls):
        default: Callable[[], Any] | None = None
        if field.default_factory is not MISSING:
            default = field.default_factory
        elif field.default is not MISSING:
            default = _constant(field.default)
        keys[field.name] = Key(field.name, hints[field.name], default)
    return keys


def read_keys(
    keys: Mapping[str, Key], table: Any, place: Place, complain: Complain
) -> dict[str, Any]:
    """Read a table and return the fields' values: what is missing or wrong is there by default."""
    if not isinstance(table, dict):
        complain(place, _unfit(table, "a table"))
        table = {}
    else:
        for name in table:
            if name not in keys:
                complain((*place, name), f"cannot use this key{did_you_mean(name, keys)}")
        for name, key in keys.items():
            if key.default is None and name not in table:
                complain((*place, name), f"cannot be left out: {_needed(key.hint)} is needed")
    values = {}
    for name, key in keys.items():
        value = _WRONG
        if name in table:
            value = read(key.hint, table[name], (*place, name), complain)
        if value is _WRONG:
            value = key.default() if key.default else _placeholder(key.hint)
        values[key.attribute] = value
    return values


def read_each(
    table: Any, place: Place, complain: Complain, one: Callable[[str, Any, Place], Any]
) -> dict[Any, Any]:
    """Read a table whose keys are names."""
    if not isinstance(table, dict):
        complain(place, _unfit(table, "a table"))
        return {}
    return {name: one(name, value, (*place, name)) for name, value in table.items()}


def read(hint: Any, value: Any, place: Place, complain: Complain) -> Any:
    """Read one value; the marker _WRONG comes back where a default has to take its place."""
    hint = _bare(hint)
    choices = get_args(hint)
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _read_variant(choices, value, place, complain)
    if is_dataclass(hint) and isinstance(hint, type):
        return hint(**read_keys(keys_of(hint), value, place, complain))
    if origin is tuple and isinstance(value, list):
        return tuple(
            _or_placeholder(choices[0], read(choices[0], item, (*place, index), complain))
            for index, item in enumerate(value)
        )
    if origin is dict and isinstance(value, dict):
        return {
            name: _or_placeholder(choices[1], read(choices[1], item, (*place, name), complain))
            for name, item in value.items()
        }
    if origin is Literal and isinstance(value, str):
        if value in choices:
            return value
        complain(
            place, f"cannot be {value!r}{did_you_mean(value, choices)}: {_needed(hint)} is needed"
        )
        return _WRONG
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is hint:
        return value
    complain(place, _unfit(value, _needed(hint)))
    return _WRONG


def _read_variant(variants: tuple[Any, ...], value: Any, place: Place, complain: Complain) -> Any:
    """Read a table whose `kind` says which of the classes it describes."""
    by_kind = {get_args(keys_of(cls)["kind"].hint)[0]: cls for cls in variants}
    if not isinstance(value, dict):
        complain(place, _unfit(value, "a table"))
        return _WRONG
    kind = value.get("kind")
    kinds: Any = Literal[tuple(by_kind)]
    if kind is None:
        complain((*place, "kind"), f"cannot be left out: {_needed(kinds)} is needed")
        return _WRONG
    if read(kinds, kind, (*place, "kind"), complain) is _WRONG:
        return _WRONG
    return read(by_kind[kind], value, place, complain)


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """Return ", did you mean 'x'?" or nothing."""
    close = difflib.get_close_matches(word, list(candidates), n=1, cutoff=0.6)
    return f", did you mean {close[0]!r}?" if close else ""


def _bare(hint: Any) -> Any:
    """Return the hint without Optional and NewType: TOML has no null, and names are strings."""
    if isinstance(hint, NewType):
        return _bare(hint.__supertype__)
    arguments = get_args(hint)
    if get_origin(hint) in (Union, types.UnionType) and type(None) in arguments:
        rest = tuple(argument for argument in arguments if argument is not type(None))
        return _bare(rest[0]) if len(rest) == 1 else Union[rest]  # noqa: UP007 - made at run time
    return hint


def _needed(hint: Any) -> str:
    hint = _bare(hint)
    origin = get_origin(hint)
    if origin is Literal:
        *others, last = (f'"{choice}"' for choice in get_args(hint))
        return f"{', '.join(others)} or {last}" if others else last
    if origin is tuple:
        return _NAMES[list]
    return _NAMES.get(hint, _NAMES[dict])


def _unfit(value: Any, needed: str) -> str:
    """Say what was found by its kind only: it may be a secret."""
    return f"cannot be {_NAMES.get(type(value), 'a date or time')}: {needed} is needed"


def _or_placeholder(hint: Any, value: Any) -> Any:
    return _placeholder(hint) if value is _WRONG else value


def _placeholder(hint: Any) -> Any:
    """Return some value of the type; nobody sees it, its place has a complaint already."""
    hint = _bare(hint)
    origin = get_origin(hint)
    if origin is Literal:
        return get_args(hint)[0]
    if origin in (Union, types.UnionType):
        return _placeholder(get_args(hint)[0])
    if is_dataclass(hint) and isinstance(hint, type):
        return hint(**read_keys(keys_of(hint), {}, (), lambda _place, _text: None))
    return (origin or hint)()


def _constant(value: Any) -> Callable[[], Any]:
    return lambda: value
