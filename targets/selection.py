"""Chooses the cell of a release for a device, by its exact model, its SoC, or its memory and OS. Pure.

The first step that finds a target decides:

1. A target that lists the device's identifier (`iPhone15,4`).
2. A target with the same SoC and at most the device's memory.
3. A target with the same OS and at most the device's memory, the largest of them: what fits in less memory fits in
   more. The speed on the device was not measured.

If the device's OS is known, it must have the target's minimum version in every step. Phones report less memory than
their maker states: `RAM_TOLERANCE` of a target's memory counts as that memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from targets.errors import FetchError
from targets.strict_json import LARGEST_INTEGER

RAM_TOLERANCE = 0.85


@dataclass(frozen=True)
class Device:
    """A device's own description. `os`, `os_version`: such as `iOS`, `18.1`. `ram_bytes`: as the OS reports it."""

    identifier: str | None = None
    soc: str | None = None
    ram_bytes: int | None = None
    os: str | None = None
    os_version: str | None = None

    def __post_init__(self) -> None:
        """Raise `FetchError` for a memory that no device has: it could not even be printed."""
        if self.ram_bytes is not None and not 0 < self.ram_bytes <= LARGEST_INTEGER:
            raise FetchError(
                "ram_bytes must be between 1 and 2^63 - 1",
                fix="pass the device's memory in bytes, such as 8_000_000_000",
            )

    def __str__(self) -> str:
        facts = (
            self.identifier,
            self.soc,
            None if self.ram_bytes is None else f"{self.ram_bytes / 1e9:.1f} GB",
            None if self.os is None else f"{self.os} {self.os_version or ''}".strip(),
        )
        return ", ".join(fact for fact in facts if fact is not None) or "an unknown device"


@dataclass(frozen=True)
class QueryNames:
    """What whoever asks calls the parts of a query: a fix names what can be set there. By default, options."""

    reference: str = "--of "
    device: str = "--device"
    soc: str = "--soc"
    ram_bytes: str = "--ram-bytes"
    os: str = "--os"
    format: str = "--format "


OPTIONS = QueryNames()
URL_PARAMETERS = QueryNames("reference=", "device=", "soc=", "ram_bytes=", "os=", "format=")


@dataclass(frozen=True)
class DeviceClass:
    """A target's description of its devices."""

    name: str
    soc: str
    os: str
    minimum_os: str
    identifiers: tuple[str, ...]
    ram_bytes: int


@dataclass(frozen=True)
class Choice:
    """The chosen cell, and the reason as a clause."""

    cell: str
    why: str


def choose(device: Device, cells: Mapping[str, DeviceClass], names: QueryNames = OPTIONS) -> Choice:
    """Choose the cell for a device. `cells`: the target of each cell, by the cell's name. `names`: for the fix.

    Raises:
        FetchError: no cell suits the device, or the chosen target has several cells and none has the target's name.
    """
    able = {name: target for name, target in cells.items() if _os_suffices(device, target)}
    for step in (_by_identifier, _by_soc, _by_memory):
        if (found := step(device, able)) is not None:
            target, why = found
            return Choice(_own_cell(target, able, names), why)
    known = ", ".join(f"{one.name} ({one.os} {one.minimum_os} or later)" for one in _targets(cells)) or "nothing"
    raise FetchError(
        f"nothing is published for {device}; there are bundles for {known}", fix=_fix(device, cells, names)
    )


def _fix(device: Device, cells: Mapping[str, DeviceClass], names: QueryNames) -> str:
    """Return what to ask instead: the identifier that is meant, if it differs in letter case, or is a target's name."""
    asked = _folded(device.identifier or "")
    cell = f"name a cell with {names.reference}MODEL@CELL"
    for target in _targets(cells):
        for identifier in target.identifiers:
            if _folded(identifier) == asked and identifier != device.identifier:
                return f"did you mean {identifier!r}?"
        if target.name == asked:
            example = f", such as {target.identifiers[0]}" if target.identifiers else ""
            return f"{asked} is a target: use the identifier of a device{example}; or {cell}"
    return f"describe the device with {names.device}, {names.soc}, or {names.ram_bytes} and {names.os}; or {cell}"


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
    memory = f"{target.ram_bytes / 1e9:.1f} GB"
    return target, f"{target.name} has the same OS, {target.os}, and no more memory than the device, {memory}"


def _own_cell(target: DeviceClass, cells: Mapping[str, DeviceClass], names: QueryNames) -> str:
    found = sorted(name for name, one in cells.items() if one.name == target.name)
    if target.name in found:
        return target.name
    if len(found) > 1:
        raise FetchError(
            f"target {target.name} has several cells: {', '.join(found)}",
            fix=f"name one with {names.reference}MODEL@{found[0]}, or choose a format with {names.format}onnx",
        )
    return found[0]


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


def _numbers(version: str) -> list[tuple[int, str]]:
    """Return the numbers of a version as their length and digits, without trailing zeros: `18.0` equals `18`.

    They are ordered as numbers are, however many digits a request has.
    """
    digits = [part.lstrip("0") for part in re.findall(r"[0-9]+", version)]
    while digits and not digits[-1]:
        digits.pop()
    return [(len(part), part) for part in digits]


def _folded(name: str) -> str:
    return " ".join(name.casefold().split())
