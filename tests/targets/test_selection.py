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
        (Device("X", "Y", 12 * GIB, "Android", "15"), "oneplus-12", "oneplus-12 is Android with 12.9 GB"),
        (Device("X", "Y", int(7.4 * GIB), "Android", "15"), "galaxy-s24", "galaxy-s24 is Android with 8.6 GB"),
        (Device("iPhone99,1", "Apple A99", 12 * GIB, "iOS", "26.1"), "iphone-16", "iphone-16 is iOS with 8.6 GB"),
        (Device("iPhone99,1", None, 6 * GIB, "iOS", "18"), "iphone-15", "iphone-15 is iOS with 6.4 GB"),
    ],
)
def test_the_nearest_cell_is_chosen(device: Device, cell: str, why: str) -> None:
    choice = choose(device, CELLS)
    assert choice.cell == cell
    assert choice.why.startswith(why)


@pytest.mark.parametrize(
    ("device", "said"),
    [
        (Device(), "nothing is published for an unnamed device; there are bundles for galaxy-s24, iphone-15"),
        (
            Device("iPhone15,4", os="iOS", os_version="17.6"),
            "iphone-15, iphone-16, iphone-17, oneplus-12 need a later iOS",
        ),
        (Device("X", "Y", 4 * GIB, "Android", "15"), "nothing is published for X, Y, 4.3 GB, Android 15"),
        (Device("X", "Y", 8 * GIB), "nothing is published for X"),
    ],
)
def test_nothing_is_said_to_be_nothing(device: Device, said: str) -> None:
    with pytest.raises(FetchError) as error:
        choose(device, CELLS)
    assert said in str(error.value)
    assert "--soc" in str(error.value)


def test_versions_of_an_os_are_numbers() -> None:
    assert choose(Device("iPhone15,4", os="iOS", os_version="18"), CELLS).cell == "iphone-15"
    assert choose(Device("iPhone15,4", os="ios", os_version="18.10"), CELLS).cell == "iphone-15"


def test_of_a_targets_cells_the_one_with_its_name_is_taken() -> None:
    cells = {"iphone-15": IPHONE_15, "iphone-15-onnx": IPHONE_15}
    assert choose(Device("iPhone15,4"), cells).cell == "iphone-15"


def test_cells_that_are_alike_are_told() -> None:
    cells = {"iphone-15-coreml": IPHONE_15, "iphone-15-onnx": IPHONE_15}
    with pytest.raises(FetchError, match="several cells: iphone-15-coreml, iphone-15-onnx"):
        choose(Device("iPhone15,4"), cells)
