"""References: `MODEL[:VERSION|:CHANNEL|:RANGE][@CELL]`, semantic versions and ranges of them.

    phi-3-mini-4k-instruct                       the production channel, all cells
    phi-3-mini-4k-instruct:1.4.0@iphone-15       one bundle
    phi-3-mini-4k-instruct:staging               a channel
    phi-3-mini-4k-instruct:^1.2                  the highest release from 1.2.0 up to 2.0.0

A cell has the name of its target, unless the project file sets another name (two recipes for one target). This module
has the grammar and the order of versions; the registry knows which versions exist.

Sources: order and grammar of versions: semver.org 2.0.0 (build metadata is refused, because it has no place in the
order); ranges: npm's caret and tilde (docs.npmjs.com/cli/configuring-npm/package-json), pre-releases included.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering
from typing import Any

from targets.errors import MalformedReferenceError

_NUMBER = r"(?:0|[1-9][0-9]*)"
_IDENTIFIER = rf"(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_VERSION = re.compile(rf"({_NUMBER})\.({_NUMBER})\.({_NUMBER})(?:-({_IDENTIFIER}(?:\.{_IDENTIFIER})*))?", re.ASCII)
_PARTIAL = re.compile(rf"({_NUMBER})(?:\.({_NUMBER}))?", re.ASCII)
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*", re.ASCII)
_CHANNEL = re.compile(r"[a-z][a-z0-9-]*", re.ASCII)
_MLFLOW_VERSION_ALIAS = re.compile(r"v[0-9]+", re.ASCII)
NAME_LENGTH_LIMIT = 100  # MODEL.CELL must stay below MLflow's 256
_DIGITS_LIMIT = 9


@total_ordering
@dataclass(frozen=True)
class Version:
    """A semantic version: `1.0.0-rc.2 < 1.0.0-rc.10 < 1.0.0 < 1.0.1`. `prerelease`: identifiers after the hyphen."""

    major: int
    minor: int
    patch: int
    prerelease: tuple[int | str, ...] = ()

    @classmethod
    def parse(cls, text: str, *, or_range: bool = False) -> Version:
        """Read `MAJOR.MINOR.PATCH[-PRERELEASE]`, strictly.

        `or_range`: the caller takes a range, too, so that the fix may name one. Raises `MalformedReferenceError`.
        """
        match = _VERSION.fullmatch(text)
        if match is None or any(len(number) > _DIGITS_LIMIT for number in re.findall(r"\d+", text, re.ASCII)):
            raise MalformedReferenceError(f"{text!r} is not a version", fix=_version_fix(text, or_range=or_range))
        major, minor, patch, prerelease = match.groups()
        identifiers = tuple(int(part) if part.isdigit() else part for part in (prerelease or "").split(".") if part)
        return cls(int(major), int(minor), int(patch), identifiers)

    @property
    def core(self) -> tuple[int, int, int]:
        """The three numbers."""
        return self.major, self.minor, self.patch

    def __str__(self) -> str:
        suffix = "-" + ".".join(map(str, self.prerelease)) if self.prerelease else ""
        return f"{self.major}.{self.minor}.{self.patch}{suffix}"

    def __lt__(self, other: Version) -> bool:
        return self._rank() < other._rank()

    def _rank(self) -> tuple[Any, ...]:
        """Return the sort key of semver.org's rule 11.

        A release ranks above its pre-releases, an identifier with letters above a number, and a longer list of
        identifiers above its beginning.
        """
        identifiers = tuple((0, part, "") if isinstance(part, int) else (1, 0, part) for part in self.prerelease)
        return (*self.core, not self.prerelease, identifiers)


@dataclass(frozen=True)
class VersionRange:
    """The versions from `floor` up to, but not including, `ceiling`; only `floor` if there is no ceiling.

    A pre-release is in a range only if the range's own floor is a pre-release of the same three numbers: nobody gets
    `2.0.0-rc.1` without having asked for release candidates of 2.0.0.
    """

    text: str
    floor: Version
    ceiling: Version | None

    @classmethod
    def parse(cls, text: str) -> VersionRange:
        """Read `^1.2.3`, `^1.2`, `^1`, `~1.2.3`, `~1.2`, `~1` or `1.2.3`. Raises `MalformedReferenceError`."""
        if text[:1] not in ("^", "~"):
            return cls(text, Version.parse(text), None)
        given = text[1:]
        partial = _PARTIAL.fullmatch(given)
        if partial is None:
            floor, depth = Version.parse(given), 3
        else:
            depth = 1 if partial[2] is None else 2
            floor = Version.parse(f"{partial[1]}.{partial[2] or 0}.0")
        ceiling = _above_caret(floor, depth) if text[0] == "^" else _above_tilde(floor, depth)
        return cls(text, floor, ceiling)

    def __contains__(self, version: Version) -> bool:
        if self.ceiling is None:
            return version == self.floor
        if version.prerelease and (not self.floor.prerelease or version.core != self.floor.core):
            return False
        return self.floor <= version < self.ceiling

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Reference:
    """A reference. At most one of `version`, `channel` and `range` is set; no `cell` means all cells."""

    model: str
    version: Version | None = None
    channel: str | None = None
    range: VersionRange | None = None
    cell: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read `MODEL[:VERSION|:CHANNEL|:RANGE][@CELL]`. Raises `MalformedReferenceError`."""
        before, at, cell = text.partition("@")
        model, colon, selector = before.partition(":")
        check_name("model", model, whole=text)
        if at:
            check_name("cell", cell, whole=text)
        named = {"model": model, "cell": cell if at else None}
        if not colon:
            return cls(**named)  # type: ignore[arg-type]
        if selector[:1] in ("^", "~"):
            return cls(**named, range=VersionRange.parse(selector))  # type: ignore[arg-type]
        if selector[:1].isdigit():
            return cls(**named, version=Version.parse(selector, or_range=True))  # type: ignore[arg-type]
        check_channel(selector, whole=text)
        return cls(**named, channel=selector)  # type: ignore[arg-type]

    def __str__(self) -> str:
        selector = self.version or self.channel or self.range
        return self.model + (f":{selector}" if selector else "") + (f"@{self.cell}" if self.cell else "")


def check_name(kind: str, name: str, *, whole: str | None = None) -> None:
    """Check a model's or cell's name; `whole`: the reference that it is in. Raises `MalformedReferenceError`."""
    if _NAME.fullmatch(name) and len(name) <= NAME_LENGTH_LIMIT and ".." not in name:
        return
    where = "" if whole is None or whole == name else f" in {whole!r}"
    grammar = "" if whole is None else "write MODEL[:VERSION|:CHANNEL|:^1.2][@CELL]; "
    raise MalformedReferenceError(
        f"{name!r} is not a valid name of a {kind}{where}",
        fix=f"{grammar}a name has lower-case letters, digits, single dots, - and _, starts with a letter or digit, and"
        f" has at most {NAME_LENGTH_LIMIT} characters",
    )


def check_channel(name: str, *, whole: str | None = None) -> None:
    """Check a channel's name; `whole`: the reference that it is in, where a version or a range may be meant.

    The grammar is that of MLflow's aliases. Raises `MalformedReferenceError`.
    """
    taken = name == "latest" or _MLFLOW_VERSION_ALIAS.fullmatch(name)
    if _CHANNEL.fullmatch(name) and len(name) <= NAME_LENGTH_LIMIT and not taken:
        return
    why = " (MLflow reserves this name)" if taken else ""
    if whole is None:
        raise MalformedReferenceError(
            f"{name!r} is not a valid name of a channel{why}",
            fix="write a name such as production or staging: lower-case letters, digits and -, a letter first, at most"
            f" {NAME_LENGTH_LIMIT} characters",
        )
    raise MalformedReferenceError(
        f"{name!r} is neither a version, a range nor a channel in {whole!r}{why}",
        fix="write a version such as 1.2.0, a range such as ^1.2 or ~1.2, or a channel such as production or staging",
    )


def _above_caret(floor: Version, depth: int) -> Version:
    """Return the first version above a caret range: the leftmost non-zero number that is given, plus one."""
    if floor.major or depth == 1:
        return _lowest(floor.major + 1)
    if floor.minor or depth == 2:
        return _lowest(0, floor.minor + 1)
    return _lowest(0, 0, floor.patch + 1)


def _above_tilde(floor: Version, depth: int) -> Version:
    return _lowest(floor.major + 1) if depth == 1 else _lowest(floor.major, floor.minor + 1)


def _lowest(major: int, minor: int = 0, patch: int = 0) -> Version:
    """Return the lowest version of these numbers: `-0` is below every other pre-release."""
    return Version(major, minor, patch, (0,))


def _version_fix(text: str, *, or_range: bool) -> str:
    if "+" in text:
        return "remove the build metadata (+…): it has no place in the order of versions"
    if (partial := _PARTIAL.fullmatch(text)) is not None:
        three = f"write all three numbers: {partial[1]}.{partial[2] or 0}.0"
        return f"{three}; or a range: ^{text} or ~{text}" if or_range else three
    if text[:1] in ("v", "V", "="):
        return f"write it without {text[0]!r}"
    if text[:1] in ("^", "~"):
        return f"write one version, such as 1.2.0: {text} is a range of them"
    return "write MAJOR.MINOR.PATCH without leading zeros, such as 1.2.0 or 1.2.0-rc.1"
