"""All ways to reach devices, by their scheme; and what the commands and a release's jobs call."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from builders.devices.adb.measuring import AdbProvider
from builders.devices.farms import FARMS
from builders.devices.provider import DeviceProvider, FoundDevice, MeasureRequest
from registry.bundle.folder import verify
from targets.errors import DeviceError, SetupError, did_you_mean
from targets.measurement import Measurement

PROVIDERS: Mapping[str, Callable[[], DeviceProvider]] = {"adb": AdbProvider, **FARMS}


@dataclass(frozen=True)
class Listing:
    """What one provider sees. `problem` and `fix`: why it could not be asked."""

    scheme: str
    devices: tuple[FoundDevice, ...] = ()
    problem: str | None = None
    fix: str | None = None


def list_devices(schemes: Collection[str] | None = None) -> list[Listing]:
    """Ask all providers, or those of these schemes. One that can't be asked does not hide the others."""
    found = []
    for scheme, make in PROVIDERS.items():
        if schemes is not None and scheme not in schemes:
            continue
        try:
            found.append(Listing(scheme, tuple(make().devices())))
        except (DeviceError, SetupError) as error:
            found.append(Listing(scheme, problem=error.problem, fix=error.fix))
    return found


def measure_on(address: str, request: MeasureRequest) -> Measurement:
    """Measure a bundle on the device at an address, `SCHEME:NAME`, such as `adb:R3CW90ABCDE`.

    The bundle's bytes are verified first.

    Raises:
        DeviceError: there is no such device, it can't be used, or the run failed.
        MeasurementError: the bundle can't be run there. BundleError: its bytes are not its manifest's.
        SetupError: the scheme is unknown, or what it needs is not installed.
    """
    scheme, _, name = address.partition(":")
    if scheme not in PROVIDERS:
        known = did_you_mean(scheme, PROVIDERS)
        raise SetupError(f"{address!r} is no device: the scheme {scheme!r} is unknown", fix=f"{known} write adb:SERIAL")
    verify(request.bundle)
    return PROVIDERS[scheme]().measure(name, request)
