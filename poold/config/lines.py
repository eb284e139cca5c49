"""Where each key of a TOML text stands.

Flows in: text that a TOML reader accepted; flows out: line numbers.
tomli gives values without positions. This walks the same text once more and only remembers where
things begin; it judges nothing and never fails: what it cannot follow has no line of its own.
"""

from __future__ import annotations

import re
from bisect import bisect_right

import tomli

Place = tuple[str | int, ...]  # ("pools", "hello", "warmup", 0, "path")

_BLANK = re.compile(r"(?:[ \t\n,]|#[^\n]*)*")
_PADDING = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
# Up to two quotation marks may stand directly before the three closing ones.
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})' r"|'''.*?'''(?:'{0,2})" r'|"(?:[^"\\]|\\.)*"' r"|'[^']*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}#\n]+")


class Lines:
    """Line numbers, counted from 1, by place."""

    def __init__(self, text: str) -> None:
        scanner = _Scanner(text.replace("\r\n", "\n"))
        scanner.document()
        self._offsets = scanner.found
        self._breaks = [match.start() for match in re.finditer("\n", scanner.text)]

    def of(self, place: Place) -> int:
        """Return the line of the place, or of the nearest thing around it, or 1."""
        while place and place not in self._offsets:
            place = place[:-1]
        return bisect_right(self._breaks, self._offsets.get(place, 0) - 1) + 1


class _LostError(Exception):
    """The text is not what a TOML reader would have accepted."""


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.found: dict[Place, int] = {}
        self._headers: set[Place] = set()
        self._last_index: dict[Place, int] = {}  # of arrays of tables
        self._position = 0

    def document(self) -> None:
        table: Place = ()
        try:
            while self._peek_after(_BLANK):
                if self.text.startswith("[", self._position):
                    table = self._header()
                else:
                    self._pair(table)
        except (_LostError, RecursionError, tomli.TOMLDecodeError):
            return  # what was found so far serves

    def _header(self) -> Place:
        start = self._position
        is_array = self.text.startswith("[[", start)
        self._position += 2 if is_array else 1
        keys = self._keys()
        self._position += 2 if is_array else 1
        place: Place = ()
        for key in keys[:-1]:
            place = (*place, key)
            self.found.setdefault(place, start)
            if place in self._last_index:
                place = (*place, self._last_index[place])
        place = (*place, keys[-1])
        if is_array:
            index = self._last_index[place] = self._last_index.get(place, -1) + 1
            self.found.setdefault(place, start)
            place = (*place, index)
        self.found[place] = start  # the header itself, not an earlier [table.below]
        return place

    def _pair(self, table: Place) -> None:
        start = self._position
        place = table
        for key in self._keys():
            place = (*place, key)
            self.found.setdefault(place, start)
        self._expect("=")
        self._value(place)

    def _keys(self) -> list[str]:
        keys = []
        while True:
            self._peek_after(_PADDING)
            if match := _BARE_KEY.match(self.text, self._position):
                keys.append(match[0])
            elif match := _STRING.match(self.text, self._position):
                keys.append(tomli.loads(f"key = {match[0]}")["key"])
            else:
                raise _LostError
            self._position = match.end()
            if self._peek_after(_PADDING) != ".":
                return keys
            self._position += 1

    def _value(self, place: Place) -> None:
        match self._peek_after(_PADDING):
            case "[":
                self._position += 1
                index = 0
                while self._peek_after(_BLANK) != "]":
                    self.found[*place, index] = self._position
                    self._value((*place, index))
                    index += 1
                self._position += 1
            case "{":
                self._position += 1
                while self._peek_after(_BLANK) != "}":
                    self._pair(place)
                self._position += 1
            case _:
                found = _STRING.match(self.text, self._position) or _SCALAR.match(
                    self.text, self._position
                )
                if not found:
                    raise _LostError
                self._position = found.end()

    def _peek_after(self, skipped: re.Pattern[str]) -> str:
        match = skipped.match(self.text, self._position)
        self._position = match.end() if match else self._position
        return self.text[self._position : self._position + 1]

    def _expect(self, mark: str) -> None:
        if self._peek_after(_PADDING) != mark:
            raise _LostError
        self._position += 1
