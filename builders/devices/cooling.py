"""Heat: waits until a device is cool enough for a run, and says whether it slowed down for heat."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from builders.devices.provider import DeviceSettings
from targets.errors import DeviceError
from targets.progress import Progress, Step

_LOOK_SECONDS = 5.0
_FALLEN = 0.9  # of the first runs' speed


@dataclass(frozen=True)
class Heat:
    """One look. `status`: how much the device slows down for heat, 0 not at all. None: it doesn't say."""

    celsius: float | None
    status: int | None


def cool_down(
    look: Callable[[], Heat],
    settings: DeviceSettings,
    on_progress: Progress,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> Heat:
    """Wait until the device is at most `settings.cool_celsius` warm and not slowed down, and return the last look.

    A device that says no temperature is not waited for.

    Raises:
        DeviceError: it is still too warm after `settings.cooling_seconds`.
    """
    waited = 0.0
    while True:
        heat = look()
        slowed = bool(heat.status)
        if not slowed and (heat.celsius is None or heat.celsius <= settings.cool_celsius):
            return heat
        if waited >= settings.cooling_seconds:
            found = "slowed down for heat" if heat.celsius is None else f"at {heat.celsius:.1f} °C"
            raise DeviceError(
                f"the device is still {found} after {waited:.0f} s; a run starts at {settings.cool_celsius:g} °C or "
                "less, and not slowed down",
                fix="take it out of its case and off the charger, wait, or allow more with --cool CELSIUS",
            )
        on_progress(Step("cool down", int(waited), int(settings.cooling_seconds)))
        pause = min(_LOOK_SECONDS, settings.cooling_seconds - waited)
        sleep(pause)
        waited += pause


def has_fallen(speeds: Sequence[float]) -> bool:
    """Return True if later runs were slower than earlier ones, by more than a tenth, and each half agrees.

    From four runs on; with fewer, a fall may be chance.
    """
    if len(speeds) < 4:
        return False
    half = len(speeds) // 2
    early, late = speeds[:half], speeds[-half:]
    return statistics.median(late) < _FALLEN * statistics.median(early) and max(late) < min(early)
