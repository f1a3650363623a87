"""A measurement: figures of one bundle on one device, with what they depend on. Pure; nothing here talks to a device.

`phipack measure` and `phipack evidence import` write the document; the predictor and gates read it. It has no serial
number and no address: measurements can be published.

A figure that could not be taken, or that varied too much between repeats, is not in `figures`: `not_measured` has its
name and the reason.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, Strict, field_validator, model_validator

from targets.bounded_file import TooLargeError, read_at_most
from targets.errors import MeasurementError
from targets.evidence import FIGURES, Figure
from targets.strict_json import MalformedJsonError, canonical_json, parse_model

BYTES_LIMIT = 16 << 20
MEASUREMENT_SCHEMA: Literal["phipack.measurement/1"] = "phipack.measurement/1"
DEVICE_FIGURES = frozenset(name for name in FIGURES if name.startswith("device_"))
_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
_ROUNDING = 1e-9  # relative; between a median and the samples that it was taken from
_REWRITE = "write one with phipack measure, or with phipack evidence import"

Text = Annotated[str, Field(min_length=1, max_length=500)]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Source = Literal["adb", "devicectl", "device-farm", "test-lab", "import"]


class DeviceEntry(BaseModel):
    """The device: its own names, as its OS reports them. `ram_bytes`: what the OS can use, less than the maker says."""

    model_config = _STRICT

    model: Text = Field(description="What the device calls itself, such as SM-S921U or iPhone15,4.")
    manufacturer: Text | None = None
    soc: Text | None = None
    os: Text = Field(description="Android, iOS, …")
    os_version: Text | None = None
    abi: Text | None = Field(default=None, description="The ABI that was run, such as arm64-v8a.")
    ram_bytes: Positive | None = None
    target: Text | None = Field(default=None, description="The phipack target that lists the model.")


class RuntimeEntry(BaseModel):
    """What ran the bundle. `binary`: digest of the program that was run, where phipack pushed it."""

    model_config = _STRICT

    name: Text = Field(description="llama.cpp, onnxruntime-genai, coreml, …")
    version: Text | None = Field(default=None, description="As the runtime itself prints it.")
    backend: Text | None = Field(default=None, description="CPU, Vulkan, QNN, …, as the runtime itself prints it.")
    binary: Digest | None = None


class SettingsEntry(BaseModel):
    """How the runtime was run. None: the source does not say."""

    model_config = _STRICT

    prompt_tokens: Count | None = Field(default=None, description="Tokens of the prompt whose processing was timed.")
    decode_tokens: Count | None = Field(default=None, description="Tokens whose generation was timed.")
    context_length: Positive | None = Field(default=None, description="Tokens that the runtime was opened for.")
    batch_size: Positive | None = None
    threads: Positive | None = None
    repeats: Positive | None = Field(default=None, description="Runs that each figure is taken from.")
    kl_tokens: Count | None = Field(default=None, description="Positions compared with the float32 reference.")


class SampledFigure(BaseModel):
    """One figure. `samples`: one value a run; empty where the source has an average only.

    `spread` is (largest - smallest) / value of the samples, a share; None where the source does not say.
    """

    model_config = _STRICT

    value: float
    unit: Text
    statistic: Literal["median", "mean", "maximum"]
    samples: Annotated[tuple[float, ...], Strict(False)] = ()
    spread: Annotated[float, Field(ge=0)] | None = None

    @classmethod
    def median(cls, name: str, samples: Sequence[float]) -> SampledFigure:
        """Return the figure `name` from one value a run, at least one."""
        value = statistics.median(samples)
        return cls(
            value=value,
            unit=FIGURES[name][0],
            statistic="median",
            samples=tuple(samples),
            spread=spread_of(samples) if len(samples) > 1 else None,
        )

    @classmethod
    def maximum(cls, name: str, samples: Sequence[float]) -> SampledFigure:
        """Return the figure `name` as the largest of one value a run, at least one."""
        return cls(value=max(samples), unit=FIGURES[name][0], statistic="maximum", samples=tuple(samples))

    @model_validator(mode="after")
    def _follows_from_samples(self) -> SampledFigure:
        if self.samples and self.statistic != "mean":
            expected = max(self.samples) if self.statistic == "maximum" else statistics.median(self.samples)
            if not math.isclose(self.value, expected, rel_tol=_ROUNDING):
                raise ValueError(f"the {self.statistic} of the samples is {expected!r}, not {self.value!r}")
        return self


class Measurement(BaseModel):
    """Figures of one bundle on one device."""

    model_config = _STRICT

    schema_: Literal["phipack.measurement/1"] = Field(MEASUREMENT_SCHEMA, alias="schema")
    match: Literal["digest", "claim"] = Field(
        description="digest: the device ran files with the bundle's digests. claim: somebody says that it was this "
        "bundle."
    )
    bundle: Digest | None = Field(description="Digest of the bundle's manifest; null if only a model is claimed.")
    claim: Text | None = Field(default=None, description="The claim in the words of who made it; null for digest.")
    model: Text | None = Field(default=None, description="The model's name, such as phi-3-mini-4k-instruct.")
    recipe: Text | None = Field(default=None, description="The recipe's name, such as gguf-q4_k_m.")
    weights_bytes: Positive | None = Field(default=None, description="Bytes of the files that hold the weights.")
    device: DeviceEntry
    runtime: RuntimeEntry
    settings: SettingsEntry
    figures: dict[str, SampledFigure] = Field(description="By the names of targets/evidence.py.")
    not_measured: dict[str, Text] = Field(
        default_factory=dict, description="Figures that were tried and are missing, each with the reason."
    )
    temperature_before_celsius: float | None = None
    temperature_after_celsius: float | None = None
    throttled: bool | None = Field(description="Whether the device slowed down for heat; null if it can't be known.")
    source: Source
    tool: Text = Field(description="The program that took the figures: llama-bench, perf.yaml of AI Hub, …")
    taken: Annotated[AwareDatetime, Strict(False)] | None = Field(
        default=None, description="When, in UTC; null if the source does not say."
    )

    @field_validator("figures", "not_measured")
    @classmethod
    def _known_figures(cls, found: dict[str, object]) -> dict[str, object]:
        if unknown := sorted(found.keys() - DEVICE_FIGURES):
            raise ValueError(f"{unknown[0]} is no figure of a device; known: {', '.join(sorted(DEVICE_FIGURES))}")
        return found

    @model_validator(mode="after")
    def _one_story(self) -> Measurement:
        if (self.match == "claim") != (self.claim is not None):
            raise ValueError("a claim has its text in claim, and nothing else has")
        if self.match == "digest" and self.bundle is None:
            raise ValueError("matched by digest, but bundle is null")
        if both := sorted(self.figures.keys() & self.not_measured.keys()):
            raise ValueError(f"{both[0]} is in figures and in not_measured")
        for name, figure in self.figures.items():
            if figure.unit != FIGURES[name][0]:
                raise ValueError(f"{name} is in {FIGURES[name][0]}, not in {figure.unit}")
        return self

    @property
    def on(self) -> str:
        """What the figures apply to: `MODEL, OS, runtime, temperature`."""
        device, runtime = self.device, self.runtime
        ran = " ".join(part for part in (runtime.name, runtime.version, runtime.backend) if part)
        before, after = self.temperature_before_celsius, self.temperature_after_celsius
        known = [f"{one:.1f}" for one in (before, after) if one is not None]
        heat = f"{' to '.join(known)} °C" if known else "temperature not known"
        return ", ".join((device.model, " ".join(filter(None, (device.os, device.os_version))), ran, heat))

    def as_figures(self) -> dict[str, Figure]:
        """Return the figures as evidence has them: on this device, measured, or claimed to be of the bundle."""
        kind: Literal["measured", "claimed"] = "measured" if self.match == "digest" else "claimed"
        on = self.on if self.claim is None else f"{self.on}; claimed by {self.claim}"
        return {
            name: Figure(value=figure.value, unit=figure.unit, kind=kind, on=on)
            for name, figure in self.figures.items()
        }

    def to_json(self) -> str:
        """Return the one JSON form: sorted keys, two spaces, UTF-8, a final newline. Its digest names it."""
        return canonical_json(self)

    @classmethod
    def read(cls, path: Path) -> Measurement:
        """Read a measurement's file. Raises `MeasurementError` if it is missing or malformed."""
        try:
            raw = read_at_most(path, BYTES_LIMIT)
        except OSError as error:
            raise MeasurementError(f"{path}: can't be read: {error.strerror}", fix=_REWRITE) from error
        except TooLargeError as error:
            raise MeasurementError(f"{path}: larger than {BYTES_LIMIT:,} bytes", fix=_REWRITE) from error
        return cls.parse(raw, source=str(path))

    @classmethod
    def parse(cls, raw: bytes, *, source: str) -> Measurement:
        """Return the measurement in the bytes of its file. Raises `MeasurementError` naming `source`."""
        if len(raw) > BYTES_LIMIT:
            raise MeasurementError(f"{source}: larger than {BYTES_LIMIT:,} bytes", fix=_REWRITE)
        try:
            return parse_model(cls, raw)
        except MalformedJsonError as error:
            raise MeasurementError(f"{source}: not a measurement: {error}", fix=_REWRITE) from error


def spread_of(samples: Sequence[float]) -> float:
    """Return (largest - smallest) / median, a share; infinite for a median of 0 with other values."""
    middle = abs(statistics.median(samples))
    width = max(samples) - min(samples)
    return width / middle if middle else (math.inf if width else 0.0)
