"""The form of `devices ls`. `measure` prints the measurement itself (`targets/measurement.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from phipack.json_form.form import Form
from targets.measurement import DeviceEntry

if TYPE_CHECKING:
    from builders.devices.provider import FoundDevice
    from builders.devices.providers import Listing


class DeviceForm(Form):
    """A device that can be reached, or is connected and can't be used."""

    address: str = Field(description="what --device takes, such as adb:R3CW90ABCDE")
    state: Literal["ready", "unauthorized", "offline", "busy", "unknown"]
    device: DeviceEntry | None = Field(description="null where the device can't be asked")
    free_bytes: int | None = Field(description="where bundles are pushed to")
    battery_level: float | None = Field(description="a share of 1")
    temperature_celsius: float | None
    problem: str | None = Field(description="why it can't be used")
    fix: str | None


class ProviderForm(Form):
    """A way to reach devices."""

    scheme: str = Field(description="adb, …")
    devices: list[DeviceForm]
    problem: str | None = Field(description="why it could not be asked")
    fix: str | None


class DevicesForm(Form):
    """All devices, by the way that they are reached."""

    providers: list[ProviderForm]


def devices_form(listings: Sequence[Listing]) -> DevicesForm:
    """Describe what all providers see."""
    return DevicesForm(
        providers=[
            ProviderForm(
                scheme=listing.scheme,
                devices=[_device_form(one) for one in listing.devices],
                problem=listing.problem,
                fix=listing.fix,
            )
            for listing in listings
        ]
    )


def _device_form(device: FoundDevice) -> DeviceForm:
    return DeviceForm(
        address=device.address,
        state=device.state,
        device=device.entry,
        free_bytes=device.free_bytes,
        battery_level=device.battery_level,
        temperature_celsius=device.temperature_celsius,
        problem=device.problem,
        fix=device.fix,
    )
