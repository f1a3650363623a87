"""Which cell of a release a phone gets: its exact model, else its SoC, else its memory and OS. Pure.

1. A target that lists the device's identifier (`iPhone15,4`).
2. A target with the same SoC, of at most the device's memory.
3. A target of the same OS with at most the device's memory: the largest of them, for what was proved in less memory
   fits in more. How fast it is there, nobody measured.

In each step the device's OS has to be the target's minimum at least, where the device says its OS. Phones report less
memory than is sold: `RAM_TOLERANCE` of a tier counts as the tier.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from targets.errors import FetchError

RAM_TOLERANCE = 0.85


@dataclass(frozen=True)
class Device:
    """What a device says of itself. `os` and `os_version` as `iOS`, `18.1`; `ram_bytes`: what the OS reports."""

    identifier: str | None = None
    soc: str | None = None
    ram_bytes: int | None = None
    os: str | None = None
    os_version: str | None = None

    def __str__(self) -> str:
        facts = (
            self.identifier,
            self.soc,
            None if self.ram_bytes is None else f"{self.ram_bytes / 1e9:.1f} GB",
            None if self.os is None else f"{self.os} {self.os_version or ''}".strip(),
        )
        return ", ".join(fact for fact in facts if fact is not None) or "an unnamed device"


@dataclass(frozen=True)
class DeviceClass:
    """What a target says of its devices."""

    name: str
    soc: str
    os: str
    minimum_os: str
    identifiers: tuple[str, ...]
    ram_bytes: int


@dataclass(frozen=True)
class Choice:
    """The cell, and why it is the one, as a half sentence."""

    cell: str
    why: str


def choose(device: Device, cells: Mapping[str, DeviceClass]) -> Choice:
    """Choose the cell for a device; `cells`: the target of each cell, by the cell's name.

    Raises:
        FetchError: none is for the device; or several are alike for it, and none has its target's own name.
    """
    able = {name: target for name, target in cells.items() if _os_suffices(device, target)}
    for step in (_by_identifier, _by_soc, _by_memory):
        if (found := step(device, able)) is not None:
            target, why = found
            return Choice(_own_cell(target, able), why)
    known = ", ".join(sorted({target.name for target in cells.values()})) or "none"
    old = sorted({target.name for name, target in cells.items() if name not in able})
    raise FetchError(
        f"nothing is published for {device}; there are bundles for {known}"
        + (f"; {', '.join(old)} need a later {device.os}, or another OS" if old else ""),
        fix="say more of it: --device, --soc, --ram-bytes with --os; or name a cell: --of MODEL@CELL",
    )


_Found = tuple[DeviceClass, str] | None


def _by_identifier(device: Device, cells: Mapping[str, DeviceClass]) -> _Found:
    for target in _targets(cells):
        if device.identifier is not None and device.identifier in target.identifiers:
            return target, f"{device.identifier} is a device of {target.name}"
    return None


def _by_soc(device: Device, cells: Mapping[str, DeviceClass]) -> _Found:
    wanted = None if device.soc is None else _folded(device.soc)
    fitting = [one for one in _targets(cells) if _folded(one.soc) == wanted and _memory_suffices(device, one)]
    if not fitting:
        return None
    target = max(fitting, key=lambda one: one.ram_bytes)
    return target, f"{target.name} has the same SoC, {target.soc}"


def _by_memory(device: Device, cells: Mapping[str, DeviceClass]) -> _Found:
    if device.ram_bytes is None or device.os is None:
        return None
    fitting = [one for one in _targets(cells) if _memory_suffices(device, one)]
    if not fitting:
        return None
    target = max(fitting, key=lambda one: one.ram_bytes)
    return (
        target,
        f"{target.name} is {target.os} with {target.ram_bytes / 1e9:.1f} GB of memory, which the device has too",
    )


def _own_cell(target: DeviceClass, cells: Mapping[str, DeviceClass]) -> str:
    names = sorted(name for name, one in cells.items() if one.name == target.name)
    if target.name in names:
        return target.name
    if len(names) > 1:
        raise FetchError(
            f"target {target.name} has several cells: {', '.join(names)}",
            fix=f"name one, --of MODEL@{names[0]}, or a format: --format onnx",
        )
    return names[0]


def _targets(cells: Mapping[str, DeviceClass]) -> list[DeviceClass]:
    return sorted({target.name: target for target in cells.values()}.values(), key=lambda target: target.name)


def _os_suffices(device: Device, target: DeviceClass) -> bool:
    if device.os is None:
        return True
    if _folded(device.os) != _folded(target.os):
        return False
    return device.os_version is None or _numbers(device.os_version) >= _numbers(target.minimum_os)


def _memory_suffices(device: Device, target: DeviceClass) -> bool:
    return device.ram_bytes is None or device.ram_bytes >= RAM_TOLERANCE * target.ram_bytes


def _numbers(version: str) -> list[int]:
    """`18.0` and `18` are the same."""
    numbers = [int(part) for part in re.findall(r"\d+", version)]
    while numbers and not numbers[-1]:
        numbers.pop()
    return numbers


def _folded(name: str) -> str:
    return " ".join(name.casefold().split())
