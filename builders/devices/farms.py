"""The ways to reach devices other than adb, by their scheme. Each reads its configuration when it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from builders.devices.device_farm.provider import DeviceFarmProvider
from builders.devices.devicectl import DevicectlProvider
from builders.devices.provider import DeviceProvider
from builders.devices.test_lab import TestLabProvider

FARMS: Mapping[str, Callable[[], DeviceProvider]] = {
    "devicectl": DevicectlProvider,
    "device-farm": DeviceFarmProvider,
    "test-lab": TestLabProvider,
}
