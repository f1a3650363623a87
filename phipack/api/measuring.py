"""Bundles on real devices: which devices there are, and what a bundle does on one. Needs `phipack[build]`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from phipack.api.arguments import AnyPath, as_bundle, as_checkpoint, as_path
from registry.bundle.folder import Bundle
from targets.measurement import Measurement
from targets.progress import Progress, silent

if TYPE_CHECKING:
    from builders.checkpoint import Checkpoint
    from builders.devices.provider import DeviceSettings
    from builders.devices.providers import Listing


def list_devices() -> tuple[Listing, ...]:
    """Return what each way to reach devices sees: phones that are ready, those that can't be used, and why."""
    from builders.devices.providers import list_devices as ask_all

    return tuple(ask_all())


def measure(  # noqa: PLR0913 - the public face
    bundle: AnyPath | Bundle,
    device: str,
    *,
    runtime: AnyPath | None = None,
    checkpoint: AnyPath | Checkpoint | None = None,
    text: AnyPath | None = None,
    settings: DeviceSettings | None = None,
    model: str | None = None,
    keep: bool = False,
    cache: AnyPath | None = None,
    on_progress: Progress = silent,
) -> Measurement:
    """Run a bundle on a device with the runtime's own benchmark, and return what it did.

    Args:
        bundle: a folder or an opened bundle; every byte of it is verified first.
        device: its address, such as `adb:SERIAL`, or `adb:` for the only phone there.
        runtime: folder of the runtime's programs for the device: llama-bench for GGUF, model_benchmark for ONNX.
        checkpoint: the one that the bundle was built from: accuracy on the device is then measured too.
        text: held-out text for that; by default one that comes with phipack.
        settings: how often and how long, from which temperature on.
        model: the model's name, for the measurement.
        keep: leave the bundle on the device, for the next measurement.
        cache: folder of the float32 reference's hidden states; by default, none are kept.
        on_progress: called with the steps `push`, `cool down`, `run` and `compare`.

    Raises:
        DeviceError: there is no such device, it can't be used, or the run failed.
        MeasurementError: the bundle can't be run there, or was not built from the checkpoint.
        SetupError: adb, or a program for the device, is missing.
    """
    from builders.devices.provider import DeviceSettings, MeasureRequest
    from builders.devices.providers import measure_on
    from builders.devices.reference import reference_answers

    opened = as_bundle(bundle)
    reference = None
    if checkpoint is not None:
        reference = reference_answers(
            opened,
            as_checkpoint(checkpoint),
            text=None if text is None else as_path(text),
            cache=None if cache is None else as_path(cache),
            on_progress=on_progress,
        )
    request = MeasureRequest(
        bundle=opened,
        settings=settings or DeviceSettings(),
        runtime=None if runtime is None else Path(as_path(runtime)),
        reference=reference,
        model=model,
        keep=keep,
        on_progress=on_progress,
    )
    return measure_on(device, request)
