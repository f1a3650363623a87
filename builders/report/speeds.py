"""Speed and memory: what was measured, where, next to what was predicted for the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from builders.report.comparing import NOTHING
from builders.report.content import Subject
from targets.evidence import FIGURES, Figure
from targets.formatting import figure
from targets.measurement import Measurement

# Quantity -> figure on the device, predicted for it, on this host.
_QUANTITIES: dict[str, tuple[str, str, str]] = {
    "generation": (
        "device_decode_tokens_per_second",
        "predicted_decode_tokens_per_second",
        "decode_tokens_per_second",
    ),
    "prompt processing": ("device_prefill_tokens_per_second", "", "prefill_tokens_per_second"),
    "memory": ("device_peak_memory_bytes", "predicted_memory_bytes", "peak_memory_bytes"),
    "time to first token": ("device_time_to_first_token_seconds", "", ""),
    "energy": ("device_energy_joules_per_token", "", ""),
    "temperature": ("device_temperature_celsius", "", ""),
}
NOT_MEASURED, NOT_PREDICTED = "not measured", "not predicted"


@dataclass(frozen=True)
class SpeedRow:
    """One quantity in three places, as text."""

    quantity: str
    device: str
    predicted: str
    host: str
    error: str


def speed_rows(subject: Subject) -> list[SpeedRow]:
    """Return the quantities that are known anywhere; generation and memory always."""
    figures = {} if subject.evidence is None else subject.evidence.figures
    runs = {} if subject.details is None else {one.figure: one.spread for one in subject.details.speed}
    rows = []
    for quantity, names in _QUANTITIES.items():
        if not any(name in figures or name in runs for name in names) and quantity not in ("generation", "memory"):
            continue
        device, predicted, host = (figures.get(name) if name else None for name in names)
        rows.append(
            SpeedRow(
                quantity,
                _shown(names[0], device, NOT_MEASURED),
                _shown(names[1], predicted, NOT_PREDICTED if names[1] else NOTHING),
                _shown(names[2], host, _without_host(names[2], runs)),
                _error(predicted, device),
            )
        )
    return rows


def _without_host(name: str, runs: Mapping[str, float]) -> str:
    """Return why there is no figure of this host: runs that are too far apart make none."""
    if name in runs:
        return f"no figure: the runs are {runs[name]:.0%} apart"
    return NOT_MEASURED if name else NOTHING


def _shown(name: str, found: Figure | None, missing: str) -> str:
    if found is None:
        return missing
    claimed = " (claimed)" if found.kind == "claimed" else ""
    return figure(name, found.value, found.unit) + claimed


def _error(predicted: Figure | None, device: Figure | None) -> str:
    """Return how far the prediction is from the device, in percent of the device's figure."""
    if predicted is None or device is None or not device.value:
        return NOTHING
    return f"{(predicted.value - device.value) / device.value:+.0%}"


@dataclass(frozen=True)
class DeviceRow:
    """One figure of one measurement on a device."""

    on: str
    figure: str
    value: str
    spread: str
    source: str


def device_rows(subject: Subject) -> list[DeviceRow]:
    """Return every figure that was taken on a device, and what could not be taken, with the reason."""
    return [row for one in subject.measurements for row in _rows_of(one)]


def _rows_of(one: Measurement) -> list[DeviceRow]:
    source = one.tool if one.claim is None else f"{one.tool}, claimed by {one.claim}"
    rows = [
        DeviceRow(
            one.on,
            FIGURES[name][1],
            figure(name, found.value, found.unit),
            NOTHING if found.spread is None else f"{found.spread:.0%}",
            source,
        )
        for name, found in one.figures.items()
    ]
    rows += [
        DeviceRow(one.on, FIGURES[name][1], f"not measured: {why}", NOTHING, source)
        for name, why in one.not_measured.items()
    ]
    return rows
