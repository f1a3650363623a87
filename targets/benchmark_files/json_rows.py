"""JSON of other projects: arrays of objects, whose fields are read by name and type. Unknown fields are ignored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from targets.benchmark_files.result import BenchmarkFileError, refused
from targets.strict_json import MalformedJsonError, parse_json

ROWS_LIMIT = 10_000
TEXT_LIMIT = 500
SAMPLES_LIMIT = 10_000
LARGEST = 1 << 62


@dataclass(frozen=True)
class Row:
    """An object of a file. Every method names the field in its error. `where`: the object's place in the file."""

    content: Mapping[str, Any]
    source: str
    where: str

    def text(self, name: str) -> str:
        """Return a text of 1 to `TEXT_LIMIT` characters."""
        if not (value := self.optional_text(name)):
            raise self.refused(name, "an empty text" if name in self.content else "missing")
        return value

    def optional_text(self, name: str) -> str:
        """Return a text of at most `TEXT_LIMIT` characters; an empty one where the field is missing."""
        value = self.content.get(name, "")
        if not isinstance(value, str) or len(value) > TEXT_LIMIT:
            raise self.refused(name, f"a text of at most {TEXT_LIMIT} characters is needed")
        return value

    def whole(self, name: str, *, least: int = 0, default: int | None = None) -> int:
        """Return a whole number; pandas writes them as 1.0."""
        value = self.number(name, default=default)
        if value != int(value) or not least <= value < LARGEST:
            raise self.refused(name, f"a whole number of at least {least} is needed, not {value:g}")
        return int(value)

    def number(self, name: str, *, default: float | None = None) -> float:
        """Return a finite number."""
        return self._finite(name, self._value(name, default))

    def speed(self, name: str) -> float:
        """Return a number greater than 0."""
        value = self.number(name)
        if value <= 0:
            raise self.refused(name, f"a number greater than 0 is needed, not {value:g}")
        return value

    def numbers(self, name: str) -> tuple[float, ...]:
        """Return an array of finite numbers, at least one."""
        value = self._value(name, None)
        if not isinstance(value, list) or not 0 < len(value) <= SAMPLES_LIMIT:
            raise self.refused(name, f"an array of 1 to {SAMPLES_LIMIT:,} numbers is needed")
        return tuple(self._finite(f"{name}[{place}]", one) for place, one in enumerate(value))

    def row(self, name: str) -> Row:
        """Return an object in it."""
        value = self._value(name, None)
        if not isinstance(value, dict):
            raise self.refused(name, "an object is needed")
        return Row(value, self.source, f"{self.where}.{name}")

    def rows(self, name: str) -> list[Row]:
        """Return an array of objects in it."""
        return rows_of(self._value(name, None), self.source, f"{self.where}.{name}")

    def refused(self, name: str, problem: str) -> BenchmarkFileError:
        """Return the error for a field."""
        return refused(self.source, f"{self.where}.{name}", problem)

    def _value(self, name: str, default: object) -> Any:
        if name in self.content:
            return self.content[name]
        if default is None:
            raise self.refused(name, "missing")
        return default

    def _finite(self, name: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > LARGEST:
            raise self.refused(name, "a number is needed")
        if not math.isfinite(value):
            raise self.refused(name, f"a finite number is needed, not {value}")
        return float(value)


def rows_of(value: object, source: str, where: str = "") -> list[Row]:
    """Return the objects of an array, at least one and at most `ROWS_LIMIT`."""
    if not isinstance(value, list) or not 0 < len(value) <= ROWS_LIMIT:
        raise refused(source, where, f"an array of 1 to {ROWS_LIMIT:,} results is needed")
    for place, one in enumerate(value):
        if not isinstance(one, dict):
            raise refused(source, f"{where}[{place}]", "an object is needed")
    return [Row(one, source, f"{where}[{place}]") for place, one in enumerate(value)]


def json_of(raw: bytes, source: str) -> Any:
    """Return the value of a JSON text, or the values of JSON lines as a list."""
    try:
        return parse_json(raw, ours=False)
    except MalformedJsonError as error:
        lines = [line for line in raw.splitlines() if line.strip()]
        if len(lines) < 2 or not all(line.lstrip().startswith(b"{") for line in lines):
            raise refused(source, "", f"not JSON: {error}") from error
    if len(lines) > ROWS_LIMIT:
        raise refused(source, "", f"more than {ROWS_LIMIT:,} lines")
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(parse_json(line, ours=False))
        except MalformedJsonError as error:
            raise refused(source, f"line {number}", f"not JSON: {error}") from error
    return found
