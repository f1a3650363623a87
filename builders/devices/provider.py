"""`DeviceProvider`: one way to reach devices, such as adb. Lists them, and measures a bundle on one of them.

An address is `SCHEME:NAME`, such as `adb:R3CW90ABCDE`; the scheme is the provider's, and the name is its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from registry.bundle.folder import Bundle
from targets.measurement import DeviceEntry, Measurement
from targets.progress import Progress, silent

State = Literal["ready", "unauthorized", "offline", "busy", "unknown"]


@dataclass(frozen=True)
class FoundDevice:
    """A device that a provider sees. `entry` is None where it can't be asked; `problem` and `fix` then say why.

    `free_bytes`: where bundles are pushed to. `battery_level`: a share of 1.
    """

    address: str
    state: State
    entry: DeviceEntry | None = None
    free_bytes: int | None = None
    battery_level: float | None = None
    temperature_celsius: float | None = None
    problem: str | None = None
    fix: str | None = None


@dataclass(frozen=True)
class DeviceSettings:
    """How a bundle is run on a device.

    `prompt_tokens` and `decode_tokens` are timed, `repeats` times each. `threads`: None leaves it to the provider.
    `cool_celsius`: a run starts at or under it, after at most `cooling_seconds` of waiting. `run_seconds`: bound of one
    run. `spread`: the largest (largest - smallest) / median of a figure's repeats; beyond it, it was not measured.
    """

    prompt_tokens: int = 512
    decode_tokens: int = 128
    repeats: int = 5
    threads: int | None = None
    cool_celsius: float = 35.0
    cooling_seconds: float = 600.0
    run_seconds: float = 900.0
    spread: float = 0.15


@dataclass(frozen=True)
class ReferenceAnswers:
    """What accuracy on a device is compared with: token ids [W, T], and the float32 reference's logits of them.

    `logits` yields float32 [T, vocabulary] for each of the W sequences; it is called once, and only where a provider
    compares.
    """

    tokens: NDArray[np.int64]
    vocabulary: int
    logits: Callable[[], Iterable[NDArray[np.float32]]]


@dataclass(frozen=True)
class MeasureRequest:
    """What to measure, and how.

    `runtime`: the runtime's program for the device, or a folder of programs; None for providers that bring their own.
    `reference`: None leaves accuracy on the device unmeasured. `keep`: the bundle stays on the device for next time.
    """

    bundle: Bundle
    settings: DeviceSettings = DeviceSettings()
    runtime: Path | None = None
    reference: ReferenceAnswers | None = None
    model: str | None = None
    keep: bool = False
    on_progress: Progress = silent


class DeviceProvider(Protocol):
    """One way to reach devices. Whatever happens on a device ends in a measurement or in an error that says it."""

    @property
    def scheme(self) -> str:
        """What addresses start with: `adb`, `devicectl`, `device-farm`, `test-lab`."""

    def devices(self) -> Sequence[FoundDevice]:
        """Return the devices that can be reached now, with those that are connected and can't be used.

        Raises:
            SetupError: the provider's tool is not installed or not configured here.
            DeviceError: the tool does not answer.
        """

    def measure(self, name: str, request: MeasureRequest) -> Measurement:
        """Measure a bundle on the device `name` (an address without its scheme). The bundle was verified.

        Raises:
            DeviceError: the device is not there, can't be used, or the run failed.
            MeasurementError: the bundle can't be run there.
            SetupError: the provider's tool is not installed or not configured here.
        """
