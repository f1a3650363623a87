"""The table of `table.toml`: since which version a runtime has a feature, and which versions fail with it.

Every row has its source. A row is unconfirmed if it was inferred, and counts like any other. A feature without a row is
not known: of its runtime the version is needed that phipack is tested with.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from targets.errors import TargetError
from targets.runtimes.requirement import Requires, RuntimeNeed, VersionGap
from targets.runtimes.version import PATTERN, RuntimeVersion
from targets.toml_file import parse_toml

_Version = Annotated[str, Field(pattern=PATTERN)]
_RUNTIME_OF_PREFIX = {"onnx": "onnxruntime", "genai": "onnxruntime-genai", "gguf": "llama.cpp", "coreml": "coreml"}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Row(_Strict):
    """A feature, the first version of its runtime that has it, and later versions that fail with it."""

    feature: str
    minimum: _Version
    source: Annotated[str, Field(min_length=3)]
    confirmed: bool
    gaps: Annotated[tuple[VersionGap, ...], Field(strict=False)] = ()

    @property
    def runtime(self) -> str:
        """The runtime that has or misses the feature."""
        return _RUNTIME_OF_PREFIX[self.feature.split("/", 1)[0]]


class Table(_Strict):
    """All rows, and the version of each runtime that phipack is tested with."""

    tested: dict[str, _Version]
    rows: Annotated[tuple[Row, ...], Field(strict=False)]

    def row(self, feature: str) -> Row | None:
        """Return a feature's row, None where it has none."""
        return self._by_feature.get(feature)

    @property
    def _by_feature(self) -> dict[str, Row]:
        return {row.feature: row for row in self.rows}


@cache
def load_table() -> Table:
    """Read the table. Raises `TargetError` if it is invalid, or has two rows for a feature."""
    text = resources.files("targets.runtimes").joinpath("table.toml").read_text("utf-8")
    table = parse_toml(text, Table, TargetError, name="table.toml")
    if len({row.feature for row in table.rows}) != len(table.rows):
        raise TargetError("table.toml: two rows for a feature", fix="keep one of them")
    return table


def requires(features: Iterable[str]) -> Requires:
    """Return what files with these features need, by the table."""
    table, known = load_table(), sorted(set(features))
    rows = {row.feature: row for row in table.rows}
    minimum: dict[str, str] = {}
    gaps: dict[str, dict[VersionGap, None]] = {}
    for feature in known:
        row = rows.get(feature)
        runtime = _RUNTIME_OF_PREFIX[feature.split("/", 1)[0]]
        version = table.tested[runtime] if row is None else row.minimum
        if runtime not in minimum or RuntimeVersion(version) > RuntimeVersion(minimum[runtime]):
            minimum[runtime] = version
        gaps.setdefault(runtime, {}).update(dict.fromkeys(() if row is None else row.gaps))
    needs = [
        RuntimeNeed(runtime=name, minimum=minimum[name], gaps=_beyond(minimum[name], gaps[name])) for name in minimum
    ]
    return Requires(features=tuple(known), runtimes=tuple(sorted(needs, key=lambda need: need.runtime)))


def strictest(stated: Requires) -> tuple[RuntimeNeed, ...]:
    """Return the needs of a manifest's entry, made stricter where this table knows more than its writer did."""
    merged = {need.runtime: need for need in stated.runtimes}
    for need in requires(stated.features).runtimes:
        other = merged.get(need.runtime)
        merged[need.runtime] = need if other is None else _both(other, need)
    return tuple(merged[name] for name in sorted(merged))


def why(runtime: str, features: Iterable[str], version: RuntimeVersion, os: str | None) -> list[Row]:
    """Return the rows that forbid a version of a runtime for files with these features."""
    rows = (load_table().row(feature) for feature in sorted(set(features)))
    return [
        row
        for row in rows
        if row is not None
        and row.runtime == runtime
        and not RuntimeNeed(runtime=runtime, minimum=row.minimum, gaps=row.gaps).allows(version, os)
    ]


def _both(one: RuntimeNeed, other: RuntimeNeed) -> RuntimeNeed:
    minimum = max((one.minimum, other.minimum), key=lambda text: RuntimeVersion(text).numbers)
    gaps = dict.fromkeys((*one.gaps, *other.gaps))
    return RuntimeNeed(runtime=one.runtime, minimum=minimum, gaps=_beyond(minimum, gaps))


def _beyond(minimum: str, gaps: Iterable[VersionGap]) -> tuple[VersionGap, ...]:
    """Return the gaps that end after a minimum, in order, once each."""
    left = [gap for gap in gaps if gap.fixed_in is None or RuntimeVersion(gap.fixed_in) > RuntimeVersion(minimum)]
    return tuple(sorted(left, key=lambda gap: (RuntimeVersion(gap.first).numbers, gap.os or "")))
