"""Measurements as jobs: a bundle of the store on a phone of its target that is attached to this machine.

A cell whose gates bound figures of a device has such a job. It is done when the store has measurements that count for
the target (`targets/device_evidence.py`), whoever took them: this job, or `phipack evidence import`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from builders.devices.provider import DeviceSettings, FoundDevice, MeasureRequest
from builders.devices.providers import list_devices, measure_on
from builders.matrix.graph import Job, Needs
from registry.bundle.folder import Bundle
from targets.device_evidence import chip_of
from targets.devices import Target
from targets.errors import SetupError
from targets.gates import DEVICE_PREFIX, GateResult
from targets.measurement import Measurement
from targets.progress import Progress
from targets.project import Cell

ANDROID, IOS = "android", "ios"
DEVICE_LABELS = frozenset({ANDROID, IOS})
PROGRAMS = "PHIPACK_DEVICE_PROGRAMS"  # the folder of the runtimes' programs for devices: docs/devices.md
_ATTACHED = ("adb", "devicectl")  # a farm's devices cost money: phipack measure asks for one by its address
# No phone has been measured yet, so both are assumed: a minute for a run and the cooling after it, USB 2 for the push.
_RUN_SECONDS, _PUSH_BYTES_PER_SECOND = 60.0, 30e6


def device_figures_of(cell: Cell) -> frozenset[str]:
    """Return the figures of a device that a cell's gates bound."""
    return frozenset(name for asked in cell.gates.values() for name in asked if name.startswith(DEVICE_PREFIX))


def are_known(figures: frozenset[str], results: Sequence[GateResult]) -> bool:
    """Return whether all these figures have values that count, by the results of the gates on them."""
    return figures <= {result.figure for result in results if result.value is not None}


def measurement_needs(target: Target, bundle_bytes: int) -> Needs:
    """Estimate what a measurement needs: a device, and its bundle on the disk."""
    label = ANDROID if target.os == "Android" else IOS
    seconds = DeviceSettings().repeats * _RUN_SECONDS + bundle_bytes / _PUSH_BYTES_PER_SECOND
    return Needs(frozenset({label}), disk_bytes=bundle_bytes, seconds=seconds)


def attached_device(job: Job) -> FoundDevice | None:
    """Return a device that is ready here and is the job's target, or has its chip; None where there is none."""
    listings = list_devices(_ATTACHED)
    found = [device for listing in listings for device in listing.devices if device.state == "ready"]
    exact = [one for one in found if one.entry is not None and one.entry.target == job.target]
    alike = [one for one in found if one.entry is not None and job.soc in (one.entry.soc, chip_of(one.entry))]
    return next(iter([*exact, *alike]), None)


def measure_bundle(bundle: Bundle, device: FoundDevice, on_progress: Progress) -> Measurement:
    """Measure a bundle on a device that is attached here.

    Raises:
        SetupError: the runtime's programs are not named. DeviceError: the run failed.
        MeasurementError: the bundle can't be run there.
    """
    programs = os.environ.get(PROGRAMS)
    if not programs:
        raise SetupError(
            f"{PROGRAMS} is not set, so the runtime's programs for {device.address} are not known",
            fix=f"export {PROGRAMS}=FOLDER with the programs for the device; docs/devices.md says how to build them",
        )
    return measure_on(device.address, MeasureRequest(bundle, runtime=Path(programs), on_progress=on_progress))
