"""What a phone says of its heat and its battery: `dumpsys thermalservice` (Android 10 and later) and `dumpsys battery`.

Temperatures are those of the skin where the phone has them, else of the battery: both follow what throttles a phone,
and the SoC's own sensors jump by tens of degrees within a second. 0.0 stands for a sensor that is not there.

Types and states: android.hardware.thermal's `TemperatureType` and `ThrottlingSeverity`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from builders.devices.adb.client import Phone

_TEMPERATURE = re.compile(r"Temperature\{mValue=(-?[\d.]+), mType=(\d+),")
_STATUS = re.compile(r"Thermal Status: (\d+)")
_BATTERY, _SKIN = 2, 3
_DISCHARGING = 3  # BatteryManager.BATTERY_STATUS_DISCHARGING
_SEVERITY = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")


@dataclass(frozen=True)
class Sensors:
    """One look. `status`: Android's thermal status, 0 none to 6 shutdown. `battery_level`: a share of 1."""

    celsius: float | None
    status: int | None
    battery_level: float | None
    discharging: bool | None

    @property
    def severity(self) -> str:
        """The thermal status in Android's words."""
        known = self.status is not None and self.status < len(_SEVERITY)
        return _SEVERITY[self.status or 0] if known else "not known"


def read_sensors(phone: Phone) -> Sensors:
    """Ask the phone. What it does not say is None."""
    thermal, _, battery = phone.run("dumpsys thermalservice 2>&1; echo ====; dumpsys battery 2>&1").output.partition(
        "===="
    )
    return parse_sensors(thermal, battery)


def parse_sensors(thermal: str, battery: str) -> Sensors:
    """Return what the two dumps say."""
    status = _STATUS.search(thermal)
    facts = dict(re.findall(r"^\s*([\w ]+): (-?\d+)\s*$", battery, re.MULTILINE))
    celsius = _hottest(thermal)
    if celsius is None and int(facts.get("temperature", 0)) > 0:
        celsius = int(facts["temperature"]) / 10
    level, scale = facts.get("level"), int(facts.get("scale", 100))
    return Sensors(
        celsius=celsius,
        status=None if status is None else int(status[1]),
        battery_level=None if level is None or not scale else int(level) / scale,
        discharging=None if "status" not in facts else int(facts["status"]) == _DISCHARGING,
    )


def _hottest(thermal: str) -> float | None:
    """Return the highest temperature of the skin, else of the battery: of now, else of what was cached."""
    cached, _, current = thermal.partition("Current temperatures from HAL")
    for text in (current, cached):
        found = [(int(kind), float(value)) for value, kind in _TEMPERATURE.findall(text) if float(value) > 0]
        for kind in (_SKIN, _BATTERY):
            if values := [value for one, value in found if one == kind]:
                return max(values)
    return None
