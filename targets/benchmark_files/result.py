"""`BenchmarkResult`: what a file of another project's benchmark says of one run on one device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from targets.errors import MeasurementError
from targets.measurement import RuntimeEntry, SampledFigure, SettingsEntry
from targets.recipes import Format


@dataclass(frozen=True)
class BenchmarkResult:
    """One run. None stands for what the file does not say.

    `formats`: the formats that the runtime loads, none where it loads no bundle of phipack's. `model`: as the file
    names it. `weight_bits`: nominal bits of a weight. `recipe`: the one recipe that stores weights in the type that the
    file names. `model_bytes`: bytes of all tensors. `kv_cache`: the type of keys and values. `figures`: by the names of
    targets/evidence.py.
    """

    tool: str
    formats: tuple[Format, ...]
    model: str
    runtime: RuntimeEntry
    figures: Mapping[str, SampledFigure]
    settings: SettingsEntry = field(default_factory=SettingsEntry)
    not_measured: Mapping[str, str] = field(default_factory=dict)
    parameters: int | None = None
    model_bytes: int | None = None
    weight_bits: int | None = None
    weight_type: str | None = None
    recipe: str | None = None
    kv_cache: str | None = None
    device: str | None = None
    soc: str | None = None
    os: str | None = None
    os_version: str | None = None
    taken: datetime | None = None

    @property
    def title(self) -> str:
        """Return the run in a few words, for lists and messages."""
        parts = (self.model, self.weight_type, self.runtime.backend, self.device)
        return ", ".join(part for part in parts if part)


class BenchmarkFileError(MeasurementError):
    """A benchmark's file is malformed, contradicts itself, or holds no figure that can be used."""


def refused(source: str, where: str, problem: str, fix: str = "") -> BenchmarkFileError:
    """Return the error for a file. `where`: the entry in it, such as `[3].avg_ts`; empty for the file as a whole."""
    place = f"{source}: {where}: " if where else f"{source}: "
    return BenchmarkFileError(place + problem, fix=fix or "import the file as the benchmark wrote it")


def mean_figure(value: float, unit: str) -> SampledFigure:
    """Return a figure of which the file has an average only."""
    return SampledFigure(value=value, unit=unit, statistic="mean")
