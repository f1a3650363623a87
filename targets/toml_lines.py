"""Finds the line of each key of a TOML document: the standard library's parser keeps no positions.

The text must be a document that `tomllib` accepts: invalid documents are not detected. Source of the grammar: toml.io,
TOML 1.0.0.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from contextlib import suppress
from itertools import accumulate

DEPTH_LIMIT = 32
KeyPath = tuple[str | int, ...]  # keys from the top; a number for an element of an array

_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_DOT = re.compile(r"[ \t]*\.[ \t]*")
_STRINGS = {  # by opening quotes; a multi-line string may end with quotes that belong to it
    '"""': re.compile(r'"""(?:[^\\]|\\.)*?"{3,5}(?!")', re.DOTALL),
    "'''": re.compile(r"'''.*?'{3,5}(?!')", re.DOTALL),
    '"': re.compile(r'"(?:[^"\\]|\\.)*"'),
    "'": re.compile(r"'[^']*'"),
}
_PLAIN_VALUE = re.compile(r"[^,\]}#\n]+")  # numbers, truth values, dates


def key_lines(source: str) -> dict[KeyPath, int]:
    """Return the line, from 1, of every key, table and array element, by its path."""
    scanner = _Scanner(source)
    with suppress(_TooDeepError):  # the lines found before are enough
        scanner.scan()
    return scanner.lines


class _TooDeepError(Exception):
    """A key path is longer than `DEPTH_LIMIT`."""


class _Scanner:
    """Scans a document once and adds each key to `lines`."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._at = 0
        self._starts = [0, *accumulate(len(line) + 1 for line in source.split("\n"))]
        self._tables: dict[KeyPath, int] = {}  # arrays of tables: index of the latest element
        self.lines: dict[KeyPath, int] = {}

    def scan(self) -> None:
        table: KeyPath = ()
        self._blank()
        while self._at < len(self._source):
            table = self._header() if self._source[self._at] == "[" else self._pair(table)
            self._blank()

    def _header(self) -> KeyPath:
        """Read `[a.b]` or `[[a.b]]`. Return the table's path, with the index of the latest element of each array."""
        line = self._line()
        repeated = self._source.startswith("[[", self._at)
        self._at += 2 if repeated else 1
        self._blank()
        path: KeyPath = ()
        parts = self._key()
        for place, part in enumerate(parts):
            path += (part,)
            self._add(path, line)
            if repeated and place == len(parts) - 1:
                self._tables[path] = self._tables.get(path, -1) + 1
            if path in self._tables:
                path += (self._tables[path],)
        self._blank()
        self._at += 2 if repeated else 1
        self.lines[path] = line
        return path

    def _pair(self, table: KeyPath) -> KeyPath:
        """Read `a.b = value` within a table. Return the table's path."""
        line = self._line()
        path = table
        for part in self._key():
            path += (part,)
            self._add(path, line)
        self._blank()
        self._at += 1  # the equals sign
        self._value(path)
        return table

    def _add(self, path: KeyPath, line: int) -> None:
        self.lines.setdefault(path, line)
        if len(path) > DEPTH_LIMIT:
            raise _TooDeepError

    def _value(self, path: KeyPath) -> None:
        self._blank()
        first = self._source[self._at]
        if first == "[":
            self._array(path)
        elif first == "{":
            self._inline_table(path)
        elif first in "\"'":
            self._string()
        else:
            self._take(_PLAIN_VALUE)

    def _array(self, path: KeyPath) -> None:
        self._at += 1
        place = 0
        while self._more_before("]"):
            self._add((*path, place), self._line())
            self._value((*path, place))
            place += 1

    def _inline_table(self, path: KeyPath) -> None:
        self._at += 1
        while self._more_before("}"):
            self._pair(path)

    def _more_before(self, end: str) -> bool:
        """Go to the next element. Return False if there is none; the position is then after the end mark."""
        self._blank()
        if self._source[self._at] == ",":
            self._at += 1
            self._blank()
        if self._source[self._at] != end:
            return True
        self._at += 1
        return False

    def _key(self) -> tuple[str, ...]:
        """Read a dotted key. Return its parts without quotes and escapes."""
        parts = []
        while True:
            if self._source[self._at] in "\"'":
                parts.append(str(tomllib.loads(f"key = {self._string()}")["key"]))
            else:
                parts.append(self._take(_BARE_KEY))
            dot = _DOT.match(self._source, self._at)
            if dot is None:
                return tuple(parts)
            self._at = dot.end()

    def _string(self) -> str:
        opening = next(quotes for quotes in _STRINGS if self._source.startswith(quotes, self._at))
        return self._take(_STRINGS[opening])

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._source, self._at)
        assert match is not None, "the document is not one that tomllib accepts"
        self._at = match.end()
        return match[0]

    def _blank(self) -> None:
        match = _BLANK.match(self._source, self._at)
        assert match is not None
        self._at = match.end()

    def _line(self) -> int:
        return bisect_right(self._starts, self._at)
