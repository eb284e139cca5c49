"""Frozen dataclasses to JSON values and back, strictly.

Flows in: a value of `poold.agent.messages` or `poold.model`, or the JSON said to be one. Flows
out: the other. Both ends of the wire run the same code (the agent is shipped by its hash), so an
unknown or missing field is never a newer peer but an error, and is refused. It refuses to know
what the values mean.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from functools import cache
from typing import (
    Any,
    Callable,
    Literal,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from poold.agent.messages import Request
from poold.agent.verbs import REQUESTS
from poold.errors import Refused

T = TypeVar("T")
_Decoder = Callable[[Any], Any]

_UNION_ORIGINS: list[Any] = [Union]
try:  # `X | Y` has an origin of its own from Python 3.10 on
    from types import UnionType

    _UNION_ORIGINS.append(UnionType)
except ImportError:
    pass


class _MismatchError(Exception):
    """A value that is not of its type; the path to it is gathered on the way out."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what
        self.path: list[str] = []


def encode(value: Any) -> Any:
    """Return the JSON form of a message: every field, tuples as lists."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, (tuple, list)):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = _field_names(type(value))
        return {name: encode(getattr(value, name)) for name in names}
    message = f"cannot write {type(value).__name__} as JSON"
    raise TypeError(message)


def decode(kind: type[T], value: Any) -> T:
    """Return `value`, which came from JSON, as a `kind`; raises Refused("wire.bad-message")."""
    try:
        return _decoder(cast("Hashable", kind))(value)  # type: ignore[no-any-return]
    except _MismatchError as mismatch:
        where = ".".join(reversed(mismatch.path))
        name = getattr(kind, "__name__", str(kind))
        raise Refused(
            "wire.bad-message",
            f"cannot read {name}{': ' + where if where else ''}: {mismatch.what}",
            hint="both ends must run the same version of poold",
        ) from None


def decode_request(verb: Any, body: Any) -> Request[Any]:
    """Return the request that a frame carries; an unknown verb is refused."""
    kind = REQUESTS.get(verb) if isinstance(verb, str) else None
    if kind is None:
        raise Refused("wire.bad-message", f"cannot read a request: {verb!r:.80} is not a verb")
    return decode(kind, body)


@cache
def _field_names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


@cache
def _decoder(kind: Any) -> _Decoder:
    supertype = getattr(kind, "__supertype__", None)  # a NewType
    if supertype is not None:
        return _decoder(supertype)
    if kind in (str, bool):
        return _exactly(kind)
    if kind is int:
        return _integer
    if kind is float:
        return _number
    if kind is type(None):
        return _exactly(type(None))
    if dataclasses.is_dataclass(kind):
        return _fields_of(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return _one_of(arguments)
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return _items_of(arguments[0])
    if origin is dict and arguments[0] is str:
        return _entries_of(arguments[1])
    if origin in _UNION_ORIGINS:
        return _either(arguments)
    message = f"cannot read values of {kind!r} from JSON"
    raise TypeError(message)


def _exactly(kind: type) -> _Decoder:
    def read(value: Any) -> Any:
        if type(value) is not kind:
            raise _MismatchError(f"{_shown(value)} is not a {_type_name(kind)}")
        return value

    return read


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise _MismatchError(f"{_shown(value)} is not a whole number")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise _MismatchError(f"{_shown(value)} is not a number")
    try:
        return float(value)
    except OverflowError:
        raise _MismatchError("the number is too large") from None


def _one_of(allowed: tuple[Any, ...]) -> _Decoder:
    def read(value: Any) -> Any:
        for candidate in allowed:
            if type(value) is type(candidate) and value == candidate:
                return value
        raise _MismatchError(f"{_shown(value)} is not one of {', '.join(map(repr, allowed))}")

    return read


def _items_of(item: Any) -> _Decoder:
    read_item = _decoder(item)

    def read(value: Any) -> tuple[Any, ...]:
        if type(value) is not list:
            raise _MismatchError(f"{_shown(value)} is not a list")
        return tuple(_at(str(index), read_item, entry) for index, entry in enumerate(value))

    return read


def _entries_of(item: Any) -> _Decoder:
    read_item = _decoder(item)

    def read(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise _MismatchError(f"{_shown(value)} is not an object")
        return {key: _at(key, read_item, entry) for key, entry in value.items()}

    return read


def _fields_of(kind: Any) -> _Decoder:
    """Read an object; what has a default may be missing: an earlier version did not know it."""
    hints = get_type_hints(kind)
    needed = {
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    readers = {name: _decoder(hints[name]) for name in _field_names(kind)}

    def read(value: Any) -> Any:
        if type(value) is not dict:
            raise _MismatchError(f"{_shown(value)} is not an object")
        if value.keys() != readers.keys():
            unknown = sorted(value.keys() - readers.keys())
            if unknown:
                raise _MismatchError(f"unknown field {unknown[0]!r}")
            missing = sorted(needed - value.keys())
            if missing:
                raise _MismatchError(f"the field {missing[0]!r} is missing")
        return kind(**{name: _at(name, readers[name], each) for name, each in value.items()})

    return read


def _either(alternatives: tuple[Any, ...]) -> _Decoder:
    """Tell dataclasses apart by the Literal in their field `kind`; None and one plain type too."""
    optional = type(None) in alternatives
    others = [kind for kind in alternatives if kind is not type(None)]
    read_other = _decoder(others[0]) if len(others) == 1 else _by_kind(others)

    def read(value: Any) -> Any:
        if value is None and optional:
            return None
        return read_other(value)

    return read


def _by_kind(alternatives: list[Any]) -> _Decoder:
    readers: dict[Any, _Decoder] = {}
    for kind in alternatives:
        for name in get_args(get_type_hints(kind)["kind"]):
            readers[name] = _decoder(kind)

    def read(value: Any) -> Any:
        if type(value) is not dict:
            raise _MismatchError(f"{_shown(value)} is not an object")
        name = value.get("kind")
        reader = readers.get(name) if isinstance(name, str) else None
        if reader is None:
            raise _MismatchError(f"its kind {_shown(name)} is not one of {', '.join(readers)}")
        return reader(value)

    return read


def _at(name: str, reader: _Decoder, value: Any) -> Any:
    try:
        return reader(value)
    except _MismatchError as mismatch:
        mismatch.path.append(name)
        raise


def _shown(value: Any) -> str:
    """Say what a value is, not what is in it: an environment variable may hold a secret."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"a {_type_name(type(value))}" if not isinstance(value, str) else "a string"


def _type_name(kind: type) -> str:
    names: dict[type, str] = {
        str: "string",
        bool: "boolean",
        int: "number",
        float: "number",
        list: "list",
        dict: "object",
        type(None): "null",
    }
    return names.get(kind, kind.__name__)
