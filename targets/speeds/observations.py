"""Observations of the efficiency: the share of a chip's memory bandwidth that decoding reached once.

efficiency = token/s * bytes read per token / bandwidth
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from targets.errors import TargetError
from targets.measurement import Measurement
from targets.recipes import Format
from targets.toml_file import RefusedValueError, parse_toml

_RUNTIMES: dict[Format, str] = {"gguf": "llama.cpp", "onnx": "onnxruntime", "coreml": "Core ML"}
_ALIASES = {"onnxruntime-genai": "onnxruntime", "coreml": "Core ML", "qnn": "QNN", "executorch": "ExecuTorch"}
_Positive = Annotated[float, Field(gt=0)]
_Text = Annotated[str, Field(min_length=1)]
_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Observation:
    """One speed. `error`: standard deviation of the logarithm that it has in addition to the model's own scatter."""

    soc: str
    runtime: str
    efficiency: float
    title: str
    error: float = 0.0


class _Speed(BaseModel):
    model_config = _STRICT

    soc: _Text
    runtime: _Text
    model: _Text
    bytes_per_token: _Positive
    basis: _Text
    tokens_per_second: _Positive
    source: _Text
    left_out: _Text | None = None


class _Published(BaseModel):
    model_config = _STRICT

    bandwidth: dict[str, _Positive]
    speeds: list[_Speed]

    @model_validator(mode="after")
    def _chips_are_known(self) -> _Published:
        for place, speed in enumerate(self.speeds):
            if speed.soc not in self.bandwidth:
                raise RefusedValueError(
                    f"the bandwidth of {speed.soc} is not stated", at=("speeds", place, "soc"), fix="add it"
                )
        return self


def runtime_of(format_name: Format) -> str:
    """Return the runtime that an app is taken to run a format with."""
    return _RUNTIMES[format_name]


@cache
def published_bandwidths() -> dict[str, float]:
    """Return the memory bandwidth of each chip with a published speed, in bytes per second."""
    return dict(_published().bandwidth)


@cache
def published_observations(*, all_of_them: bool = False) -> tuple[Observation, ...]:
    """Return the published speeds that are learned from; with `all_of_them`, those that are left out, too."""
    content = _published()
    return tuple(
        Observation(
            speed.soc,
            speed.runtime,
            speed.tokens_per_second * speed.bytes_per_token / content.bandwidth[speed.soc],
            f"{speed.model} on {speed.soc} ({speed.source})",
        )
        for speed in content.speeds
        if all_of_them or speed.left_out is None
    )


def measured_observation(
    measurement: Measurement, soc: str, bytes_per_token: float, bandwidth: float
) -> Observation | None:
    """Return what a measurement says of its chip and runtime; None where it has no decoding speed.

    `soc`: the chip, as targets call it. `bandwidth`: of its memory, in bytes a second.
    """
    speed = measurement.figures.get("device_decode_tokens_per_second")
    if speed is None or speed.value <= 0:
        return None
    name = measurement.runtime.name
    runtime = _ALIASES.get(name.lower(), name)
    share = speed.value * bytes_per_token / bandwidth
    if not 0 < share < math.inf:
        return None
    return Observation(soc, runtime, share, f"{measurement.match} on {measurement.device.model}")


@cache
def _published() -> _Published:
    name = "published.toml"
    text = resources.files("targets.speeds").joinpath(name).read_text("utf-8")
    return parse_toml(text, _Published, TargetError, name=name)
