"""Which cell a device gets, and why."""

from __future__ import annotations

import pytest

from targets.errors import FetchError
from targets.selection import Device, DeviceClass, choose

GIB = 1 << 30
IPHONE_15 = DeviceClass("iphone-15", "Apple A16", "iOS", "18.0", ("iPhone15,4", "iPhone15,5"), 6 * GIB)
IPHONE_16 = DeviceClass("iphone-16", "Apple A18", "iOS", "18.0", ("iPhone17,3",), 8 * GIB)
IPHONE_17 = DeviceClass("iphone-17", "Apple A19", "iOS", "26.0", ("iPhone18,3",), 8 * GIB)
GALAXY = DeviceClass("galaxy-s24", "Snapdragon 8 Gen 3", "Android", "14", ("SM-S921U",), 8 * GIB)
ONEPLUS = DeviceClass("oneplus-12", "Snapdragon 8 Gen 3", "Android", "14", ("CPH2581",), 12 * GIB)
CELLS = {one.name: one for one in (IPHONE_15, IPHONE_16, IPHONE_17, GALAXY, ONEPLUS)}


@pytest.mark.parametrize(
    ("device", "cell", "why"),
    [
        (Device("iPhone15,4"), "iphone-15", "iPhone15,4 is a device of iphone-15"),
        (Device("iPhone15,4", "Apple A18", 8 * GIB), "iphone-15", "iPhone15,4 is a device of iphone-15"),
        (Device("iPhone15,2", "apple  a16"), "iphone-15", "iphone-15 has the same SoC, Apple A16"),
        (Device(None, "Snapdragon 8 Gen 3", 12 * GIB), "oneplus-12", "oneplus-12 has the same SoC, Snapdragon 8 Gen 3"),
        (Device(None, "Snapdragon 8 Gen 3", 8 * GIB), "galaxy-s24", "galaxy-s24 has the same SoC, Snapdragon 8 Gen 3"),
        (
            Device("X", "Y", 12 * GIB, "Android", "15"),
            "oneplus-12",
            "oneplus-12 has the same OS, Android, and no more memory than the device, 12.9 GB",
        ),
        (Device("X", "Y", int(7.4 * GIB), "Android", "15"), "galaxy-s24", "galaxy-s24 has the same OS, Android"),
        (Device("iPhone99,1", "Apple A99", 12 * GIB, "iOS", "26.1"), "iphone-16", "iphone-16 has the same OS, iOS"),
        (Device("iPhone99,1", None, 6 * GIB, "iOS", "18"), "iphone-15", "iphone-15 has the same OS, iOS"),
    ],
)
def test_best_matching_cell_is_chosen(device: Device, cell: str, why: str) -> None:
    choice = choose(device, CELLS)
    assert choice.cell == cell
    assert choice.why.startswith(why)


@pytest.mark.parametrize(
    ("device", "said"),
    [
        (
            Device(),
            "nothing is published for an unknown device; there are bundles for galaxy-s24 (Android 14 or later)",
        ),
        (
            Device("iPhone15,4", os="iOS", os_version="17.6"),
            "iphone-15 (iOS 18.0 or later), iphone-16 (iOS 18.0 or later), iphone-17 (iOS 26.0 or later)",
        ),
        (Device("X", "Y", 4 * GIB, "Android", "15"), "nothing is published for X, Y, 4.3 GB, Android 15"),
        (Device("X", "Y", 8 * GIB), "nothing is published for X"),
    ],
)
def test_error_names_the_device_and_the_published_targets(device: Device, said: str) -> None:
    with pytest.raises(FetchError) as error:
        choose(device, CELLS)
    assert said in str(error.value)
    assert "--soc" in str(error.value)


@pytest.mark.parametrize(
    ("identifier", "fix"),
    [
        ("iphone15,4", "did you mean 'iPhone15,4'?"),
        ("iPhone-15", "iphone-15 is a target: use the identifier of a device, such as iPhone15,4; or name a cell with"),
        ("iPhone15,9", "describe the device with --device"),
    ],
)
def test_an_identifier_that_is_none_is_recognised(identifier: str, fix: str) -> None:
    with pytest.raises(FetchError) as error:
        choose(Device(identifier), CELLS)
    assert error.value.fix.startswith(fix)


def test_os_versions_are_compared_as_numbers() -> None:
    assert choose(Device("iPhone15,4", os="iOS", os_version="18"), CELLS).cell == "iphone-15"
    assert choose(Device("iPhone15,4", os="ios", os_version="18.10"), CELLS).cell == "iphone-15"


def test_cell_with_the_name_of_its_target_is_preferred() -> None:
    cells = {"iphone-15": IPHONE_15, "iphone-15-onnx": IPHONE_15}
    assert choose(Device("iPhone15,4"), cells).cell == "iphone-15"


def test_ambiguous_cells_are_reported() -> None:
    cells = {"iphone-15-coreml": IPHONE_15, "iphone-15-onnx": IPHONE_15}
    with pytest.raises(FetchError, match="several cells: iphone-15-coreml, iphone-15-onnx"):
        choose(Device("iPhone15,4"), cells)


@pytest.mark.parametrize(
    ("version", "suffices"),
    [
        *(("18", True), ("18.0.0", True), ("017", False), ("0018", True), ("18beta", True), ("9", False)),
        *(("1" * 5000, True), ("0" * 5000 + "17", False), ("²", False), ("٩٩", False), ("", False)),
    ],
)
def test_a_version_of_any_length_is_compared_as_numbers(version: str, suffices: bool) -> None:
    device = Device("X", None, 6 * GIB, "iOS", version)
    if suffices:
        assert choose(device, CELLS).cell == "iphone-15"
    else:
        with pytest.raises(FetchError, match="nothing is published for"):
            choose(device, CELLS)
