"""Versions of runtimes: `1.22.0` of onnxruntime, `b4792` (a build) of llama.cpp, `18.0` (iOS's) of Core ML."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering

from targets.errors import TargetError

PATTERN = r"^b?[0-9]{1,9}(\.[0-9]{1,9}){0,3}$"
_VERSION = re.compile(PATTERN, re.ASCII)


@total_ordering
@dataclass(frozen=True)
class RuntimeVersion:
    """A version, compared number by number: `1.20` = `1.20.0` < `1.20.1` < `1.100`. `text`: as it was written."""

    text: str

    @classmethod
    def parse(cls, text: str) -> RuntimeVersion:
        """Read a version. Raises `TargetError` for anything but numbers with dots, or a build such as `b4792`."""
        if not _VERSION.fullmatch(text):
            raise TargetError(
                f"{text!r} is not the version of a runtime",
                fix="write a released version, such as 1.22.0, or b4792 for a build of llama.cpp",
            )
        return cls(text)

    @property
    def numbers(self) -> tuple[int, ...]:
        """Its numbers, without zeros at the end."""
        found = [int(part) for part in self.text.removeprefix("b").split(".")]
        while found and not found[-1]:
            found.pop()
        return tuple(found)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RuntimeVersion) and self.numbers == other.numbers

    def __lt__(self, other: RuntimeVersion) -> bool:
        return self.numbers < other.numbers

    def __hash__(self) -> int:
        return hash(self.numbers)

    def __str__(self) -> str:
        return self.text
