"""Which measurements count for a target, and what they say as evidence.

A measurement counts where its device is one of the target's, or has the same chip. Of several with a figure, those of
the very bundle go before claims, and the latest goes first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime

from targets.budget import Budget
from targets.devices import Target, load_targets, target_with
from targets.errors import MeasurementError
from targets.evidence import Figure
from targets.measurement import DeviceEntry, Measurement
from targets.models import KNOWN_MODELS
from targets.recipes import RECIPES
from targets.roofline import CONTEXT_TOKENS, bytes_per_token
from targets.speeds import Observation, measured_observation
from targets.speeds.observations import published_bandwidths

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


def counts_for(measurement: Measurement, target: Target) -> bool:
    """Return True where a measurement was taken on the target, or on another device with its chip."""
    device = measurement.device
    is_it = device.model in target.identifiers or target.name == device.target
    return is_it or target.soc in (device.soc, chip_of(device))


def chip_of(device: DeviceEntry) -> str | None:
    """Return a device's chip as targets call it: Android says `QTI SM8650` where they say `Snapdragon 8 Gen 3`.

    What the device says itself where no target of ours lists it; None where it says nothing.
    """
    if device.soc is None:
        return None
    target = load_targets().get(device.target or "") or target_with(device.model)
    return device.soc if target is None else target.soc


def device_figures(measurements: Iterable[Measurement], target: Target) -> dict[str, Figure]:
    """Return the figures of a bundle's measurements that count for a target, by name."""
    counting = [one for one in measurements if counts_for(one, target)]
    counting.sort(key=lambda one: (one.match == "digest", one.taken or _LONG_AGO, one.to_json()))
    found: dict[str, Figure] = {}
    for measurement in counting:
        found |= measurement.as_figures()
    return found


def observation_of(measurement: Measurement) -> Observation:
    """Return what a measurement says of its chip and runtime, for predictions of other bundles and devices.

    Raises:
        MeasurementError: it has no speed of decoding, no chip of a known bandwidth, or neither a known model and recipe
            nor the bytes of its weights.
    """
    soc = chip_of(measurement.device)
    bandwidths = published_bandwidths() | {one.soc: one.memory_bandwidth.value for one in load_targets().values()}
    read = _bytes_per_token(measurement)
    if soc not in bandwidths:
        raise MeasurementError(
            f"{measurement.on}: the memory bandwidth of {soc or 'an unknown chip'} is not known",
            fix="import it with --target TARGET, or --soc and the name of a chip that phipack targets ls lists",
        )
    if read is None:
        raise MeasurementError(
            f"{measurement.on}: how many bytes were read for each token is not known",
            fix="import it with --bundle, or with --model and --recipe",
        )
    found = measured_observation(measurement, soc, read, bandwidths[soc])
    if found is None:
        raise MeasurementError(f"{measurement.on}: no speed of decoding", fix="measure decoding, too")
    return found


def _bytes_per_token(measurement: Measurement) -> float | None:
    architecture = KNOWN_MODELS.get((measurement.model or "").lower())
    if architecture is not None and measurement.recipe in RECIPES:
        recipe = RECIPES[measurement.recipe]
        if measurement.weights_bytes is not None:  # of a bundle with a budget the recipe's name says too little
            recipe = replace(recipe, budget=Budget("bytes", measurement.weights_bytes))
        return bytes_per_token(architecture, recipe, CONTEXT_TOKENS)
    return measurement.weights_bytes
