"""What a bundle needs to run: the entry `requires` of its manifest.

    "requires": {
      "features": ["gguf/architecture/phi3", "gguf/pre/gpt-4o", "gguf/tensor/Q4_K", "gguf/version/3"],
      "runtimes": [{"minimum": "b4792", "runtime": "llama.cpp"}]
    }

Features are what was found in its files (`registry/bundle/requirements.py`); the versions come from the table.

    onnx/ir/N   onnx/opset/N   onnx/operator/NAME[/VARIANT]   genai/model/TYPE   genai/longrope/TYPE
    gguf/version/N   gguf/architecture/NAME   gguf/tensor/TYPE   gguf/pre/NAME   gguf/PROPERTY/ARCHITECTURE
    gguf/kv_cache/TYPE
    coreml/specification/N
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from targets.recipes import Format
from targets.runtimes.version import PATTERN, RuntimeVersion

# Runtimes of each format. The first one is what every app of the format has; others are optional on top of it.
RUNTIMES: dict[Format, tuple[str, ...]] = {
    "gguf": ("llama.cpp",),
    "onnx": ("onnxruntime", "onnxruntime-genai"),
    "coreml": ("coreml",),
}
FORMAT_OF: dict[str, Format] = {runtime: name for name, runtimes in RUNTIMES.items() for runtime in runtimes}
_Version = Annotated[str, Field(pattern=PATTERN)]
_Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[a-z0-9][a-z0-9._-]*$")]
_Feature = Annotated[str, Field(max_length=200, pattern=r"^[a-z]+/[a-z_]+/[ -.0-~]+(/[ -.0-~]+)?$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class VersionGap(_Strict):
    """Versions from the minimum on that fail all the same: from `first` up to, and without, `fixed_in`.

    `os`: where they do; everywhere by default. `fixed_in`: None where no version is known that works.
    """

    first: _Version
    fixed_in: _Version | None = None
    os: str | None = None

    def has(self, version: RuntimeVersion, os: str | None) -> bool:
        """Return True where this version fails on this OS. An OS that is not known is none that is named here."""
        if self.os is not None and (os is None or os.casefold() != self.os.casefold()):
            return False
        below = self.fixed_in is None or version < RuntimeVersion(self.fixed_in)
        return RuntimeVersion(self.first) <= version and below

    def __str__(self) -> str:
        until = "on" if self.fixed_in is None else f"up to, and without, {self.fixed_in}"
        return f"{self.first} {until}{'' if self.os is None else f' on {self.os}'}"


class RuntimeNeed(_Strict):
    """The least version of one runtime, and later versions that fail."""

    runtime: _Name
    minimum: _Version
    gaps: Annotated[tuple[VersionGap, ...], Field(strict=False)] = ()

    def allows(self, version: RuntimeVersion, os: str | None) -> bool:
        """Return True where this version runs the bundle on this OS."""
        return version >= RuntimeVersion(self.minimum) and not any(gap.has(version, os) for gap in self.gaps)

    def includes(self, other: RuntimeNeed) -> bool:
        """Return True where every version that this one allows is one that the other allows."""
        return (
            self.runtime == other.runtime
            and RuntimeVersion(self.minimum) >= RuntimeVersion(other.minimum)
            and all(self._excludes(gap) for gap in other.gaps)
        )

    def _excludes(self, gap: VersionGap) -> bool:
        """Return True where no version of a gap is allowed here."""
        if gap.fixed_in is not None and RuntimeVersion(self.minimum) >= RuntimeVersion(gap.fixed_in):
            return True
        return gap in self.gaps

    def __str__(self) -> str:
        but = f", but not {' or '.join(map(str, self.gaps))}" if self.gaps else ""
        return f"{self.runtime} {self.minimum} or later{but}"


class Requires(_Strict):
    """What a bundle needs. Both lists are sorted, without repetition."""

    features: Annotated[tuple[_Feature, ...], Field(strict=False, max_length=10_000)]
    runtimes: Annotated[tuple[RuntimeNeed, ...], Field(strict=False, max_length=100)]

    @model_validator(mode="after")
    def _sorted(self) -> Requires:
        for name, listed in (("features", self.features), ("runtimes", [one.runtime for one in self.runtimes])):
            if list(listed) != sorted(set(listed)):
                raise ValueError(f"{name} are not sorted, or are repeated")
        return self


def covers(needs: Iterable[RuntimeNeed], others: Iterable[RuntimeNeed]) -> bool:
    """Return True where every app that `needs` are enough for has what `others` ask for, too."""
    by_runtime = {need.runtime: need for need in needs}
    return all(other.runtime in by_runtime and by_runtime[other.runtime].includes(other) for other in others)
