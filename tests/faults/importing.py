"""Measurements of a bundle that are added to the store: all that were there stay."""

from __future__ import annotations

from pathlib import Path

from registry.bundle.folder import open_bundle
from registry.store.measurements import add_measurements, read_measurements
from targets.measurement import DeviceEntry, Measurement, RuntimeEntry, SampledFigure, SettingsEntry
from tests.faults.channels import prepare_first_release
from tests.faults.ground import Ground
from tests.faults.stores import case_store

SPEED = "device_decode_tokens_per_second"
IMPORT = ("evidence", "import", "new.json", "--bundle", "phi:1.0.0@pixel-9")


def prepare_measured(ground: Ground) -> None:
    """A registered bundle with one measurement, and the file of another."""
    prepare_first_release(ground)
    add_measurements(case_store(), _digest(), [_measured(10.0)])
    Path("new.json").write_text(_measured(11.0).to_json(), "utf-8")


def the_old_one_is_there(_: Ground) -> None:
    """What was measured before is kept, and nothing but the new one is added."""
    assert _speeds() in ([10.0], [10.0, 11.0])


def both_are_there(_: Ground) -> None:
    """The new one is added, once."""
    assert _speeds() == [10.0, 11.0]


def _speeds() -> list[float]:
    return sorted(one.figures[SPEED].value for one in read_measurements(case_store(), _digest()))


def _measured(speed: float) -> Measurement:
    return Measurement(
        schema="phipack.measurement/1",
        match="digest",
        bundle=_digest(),
        device=DeviceEntry(model="Pixel 9", os="Android"),
        runtime=RuntimeEntry(name="llama.cpp"),
        settings=SettingsEntry(),
        figures={SPEED: SampledFigure.median(SPEED, [speed])},
        throttled=None,
        source="adb",
        tool="llama-bench",
    )


def _digest() -> str:
    return open_bundle(Path("bundles") / "1.0.0").digest
