"""Which phones adb sees, and what they say of themselves."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from builders.devices.adb.client import RETURN_SECONDS, Phone, require_own_server, states, unauthorized
from builders.devices.adb.sensors import parse_sensors
from builders.devices.provider import FoundDevice, State
from targets.devices import target_with
from targets.errors import DeviceError, DeviceUnreachableError
from targets.measurement import DeviceEntry

STORAGE = "/data/local/tmp"  # the one folder where adb's shell may write and run programs, on every Android
_DF = f"df -k {STORAGE}"
_PROPERTY = re.compile(r"^\[([^\]]+)\]: \[(.*)\]$", re.MULTILINE)
_STATES: dict[str, State] = {
    "device": "ready",
    "unauthorized": "unauthorized",
    "authorizing": "unauthorized",
    "offline": "offline",
}


@dataclass(frozen=True)
class Description:
    """What one phone says of itself."""

    properties: dict[str, str]
    memory_text: str
    storage_text: str
    sensors_text: tuple[str, str]

    @cached_property
    def entry(self) -> DeviceEntry:
        """The device as measurements name it."""
        known = self.properties.get
        model = known("ro.product.model") or "unknown"
        memory = re.search(r"MemTotal:\s+(\d+) kB", self.memory_text)
        target = target_with(model)
        return DeviceEntry(
            model=model,
            manufacturer=known("ro.product.manufacturer") or None,
            soc=" ".join(filter(None, (known("ro.soc.manufacturer"), known("ro.soc.model")))) or known("ro.hardware"),
            os="Android",
            os_version=known("ro.build.version.release") or None,
            abi=next(iter(self.abis), None),
            ram_bytes=int(memory[1]) * 1024 if memory else None,
            target=None if target is None else target.name,
        )

    @property
    def abis(self) -> tuple[str, ...]:
        """The ABIs that it runs, the best first."""
        return tuple(filter(None, self.properties.get("ro.product.cpu.abilist", "").split(",")))

    @property
    def free_bytes(self) -> int | None:
        """Free space for what is pushed."""
        return _available(self.storage_text)


def free_bytes(phone: Phone) -> int | None:
    """Ask one phone for the free space alone."""
    return _available(phone.run(_DF).output)


def _available(text: str) -> int | None:
    """Return the fourth column of the last line of `df -k`."""
    columns = text.strip().splitlines()[-1].split() if text.strip() else []
    return int(columns[3]) * 1024 if len(columns) > 3 and columns[3].isdigit() else None


def describe(phone: Phone) -> Description:
    """Ask one phone, in one question. Raises `DeviceError`."""
    commands = ("getprop", "cat /proc/meminfo", _DF, "dumpsys thermalservice", "dumpsys battery")
    text = phone.run("; echo ====; ".join(f"{command} 2>/dev/null" for command in commands)).output
    parts = (text.split("====\n") + [""] * len(commands))[: len(commands)]
    return Description(dict(_PROPERTY.findall(parts[0])), parts[1], parts[2], (parts[3], parts[4]))


def list_phones() -> list[FoundDevice]:
    """Return all phones that adb's server sees, with those that can't be used.

    Raises:
        SetupError: adb is not installed, or a server of another version runs. DeviceError: adb does not answer.
    """
    require_own_server()
    return [_found(serial, state) for serial, state in sorted(states().items())]


def open_phone(serial: str, return_seconds: float = RETURN_SECONDS) -> Phone:
    """Return a phone that is connected and can be used.

    Args:
        serial: as `adb devices` shows it; empty for the only one.
        return_seconds: how long it is waited for where the connection is lost.

    Raises:
        SetupError: adb is not installed, or a server of another version runs.
        DeviceError: there is none, there are several, or it can't be used.
    """
    require_own_server()
    known = states()
    if not serial:
        serial = _only(known)
    state, phone = known.get(serial), Phone(serial, return_seconds)
    if state == "device" or (state == "offline" and phone.comes_back()):
        return phone
    if _STATES.get(state or "") == "unauthorized":
        raise unauthorized(serial)
    if state is None:
        listed = f"; connected: {', '.join(sorted(known))}" if known else "; none is connected"
        raise DeviceUnreachableError(
            f"{serial}: no such phone is connected{listed}",
            fix="plug it in with USB debugging on (Settings, Developer options), or adb connect HOST:PORT; "
            "phipack devices ls lists the phones",
        )
    raise DeviceUnreachableError(f"{serial}: adb says that the phone is {state}", fix=_state_fix(state))


def _only(known: dict[str, str]) -> str:
    if len(known) == 1:
        return next(iter(known))
    if not known:
        raise DeviceUnreachableError(
            "no phone is connected",
            fix="plug one in with USB debugging on (Settings, Developer options), or adb connect HOST:PORT",
        )
    raise DeviceError(
        f"{len(known)} phones are connected: {', '.join(sorted(known))}",
        fix=f"name one: --device adb:{min(known)}",
    )


def _found(serial: str, state: str) -> FoundDevice:
    address, kind = f"adb:{serial}", _STATES.get(state, "unknown")
    if kind == "ready":
        try:
            known = describe(Phone(serial))
            sensors = parse_sensors(*known.sensors_text)
            return FoundDevice(
                address=address,
                state=kind,
                entry=known.entry,
                free_bytes=known.free_bytes,
                battery_level=sensors.battery_level,
                temperature_celsius=sensors.celsius,
            )
        except DeviceError as error:
            return FoundDevice(address, "unknown", problem=error.problem, fix=error.fix)
    if kind == "unauthorized":
        refused = unauthorized(serial)
        return FoundDevice(address, kind, problem=refused.problem, fix=refused.fix)
    return FoundDevice(address, kind, problem=f"adb says that the phone is {state}", fix=_state_fix(state))


def _state_fix(state: str) -> str:
    if "permissions" in state:
        return (
            "install Android's udev rules (Debian: apt-get install android-sdk-platform-tools-common), plug it in again"
        )
    return "unlock the phone and plug it in again; adb reconnect offline brings one back that hangs"
