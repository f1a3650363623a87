"""Which types of weights are fast on a target: those that its runtime has kernels for (`kernels.toml`, cited).

llama.cpp runs on the CPU of Android phones. On Apple's GPUs (Metal) it runs all types alike, and so do onnxruntime and
Core ML what phipack writes for them: there every type of a format may be chosen for a budget.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from targets.devices import Target
from targets.errors import TargetError
from targets.recipes import Format
from targets.runtimes.table import load_table
from targets.runtimes.version import PATTERN, RuntimeVersion
from targets.storage.gguf import CANDIDATES
from targets.toml_file import parse_toml

Cpu = Literal["dotprod", "i8mm"]
RUNTIME = "llama.cpp"
_LEAST: tuple[Cpu, ...] = ("dotprod",)
_Text = Annotated[str, Field(min_length=3)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Kernel(_Strict):
    """A type that CPUs with a feature multiply fast, and the first build that does so."""

    type: _Text
    cpu: Cpu
    minimum: Annotated[str, Field(pattern=PATTERN)]
    source: _Text
    confirmed: bool


class Soc(_Strict):
    """The features of a chip's CPU."""

    soc: _Text
    cpu: Annotated[tuple[Cpu, ...], Field(strict=False)]
    source: _Text
    confirmed: bool


class KernelTable(_Strict):
    """All kernels and chips."""

    kernels: Annotated[tuple[Kernel, ...], Field(strict=False)]
    socs: Annotated[tuple[Soc, ...], Field(strict=False)]


@cache
def load_kernels() -> KernelTable:
    """Read the table. Raises `TargetError` if it is invalid."""
    text = resources.files("targets").joinpath("kernels.toml").read_text("utf-8")
    return parse_toml(text, KernelTable, TargetError, name="kernels.toml")


def fast_types(format_: Format, target: Target) -> tuple[str, ...]:
    """Return the types that may be chosen for a budget on a target, smallest first; empty where all may be.

    Where the target states no build of llama.cpp, it is taken to be the one that phipack is tested with.
    """
    if format_ != "gguf" or target.os != "Android":
        return ()
    table = load_kernels()
    features = next((soc.cpu for soc in table.socs if soc.soc == target.soc), _LEAST)
    build = RuntimeVersion(target.runtimes.get(RUNTIME, load_table().tested[RUNTIME]))
    fast = {one.type for one in table.kernels if one.cpu in features and RuntimeVersion(one.minimum) <= build}
    return tuple(name for name in CANDIDATES if name in fast)


def slow_types(format_: Format, target: Target) -> tuple[str, ...]:
    """Return the types that are left out of `fast_types`; empty where none is."""
    fast = fast_types(format_, target)
    return tuple(name for name in CANDIDATES if name not in fast) if fast else ()
