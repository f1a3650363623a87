"""Figures of runs: heat, energy and cooling, without a phone."""

from __future__ import annotations

import pytest

from builders.devices.adb.program import Finished, Sample
from builders.devices.bench_run import BenchRun
from builders.devices.cooling import Heat, cool_down, has_fallen
from builders.devices.figures import Repeat, figures_of, is_throttled
from builders.devices.provider import DeviceSettings
from targets.errors import DeviceError
from targets.progress import Event, Step


def repeat(speed: float, status: int | None = 0, celsius: float | None = 30.0) -> Repeat:
    heat = Heat(celsius, status)
    return Repeat(BenchRun(100, 1.0, 50, 50 / speed), heat, heat, status, None, None)


def samples(*watts: float, step: float = 0.5) -> tuple[Sample, ...]:
    return tuple(Sample(10 + step * n, 1000, round(-one * 250_000), 4_000_000, 0) for n, one in enumerate(watts))


def test_energy_is_that_of_the_end_of_the_run_where_tokens_are_generated() -> None:
    run = Finished("", "", samples(1, 1, 1, 8, 8, 8, 8, 8))  # 3.5 s, the last 2 s at 8 W
    assert run.joules(2.0) == pytest.approx(16.0)
    assert run.joules(20.0) is None  # not seen for most of that time
    silent = Finished("", "", tuple(Sample(n, None, None, 4_000_000, None) for n in range(9)))
    assert (silent.joules(2.0), silent.peak_bytes, silent.worst_status) == (None, None, None)
    no_sensor = Finished("", "", tuple(Sample(float(second), None, 0, 4_000_000, None) for second in range(5)))
    assert no_sensor.joules(2.0) is None  # it was 0 J, which meets every gate


def test_a_phone_that_gets_slower_is_throttled() -> None:
    assert has_fallen([12, 11.9, 9, 8.8])
    assert not has_fallen([12, 9, 11.9, 12.1])
    assert not has_fallen([12, 11.9, 11.8, 11.7])  # less than a tenth
    assert not has_fallen([12, 6])  # two runs could differ by chance
    assert is_throttled([repeat(12), repeat(12, status=1)]) is True
    assert is_throttled([repeat(12)] * 3) is False
    assert is_throttled([repeat(12, status=None)] * 3) is None
    assert is_throttled([repeat(one, status=None) for one in (12, 12, 9, 9)]) is True


def test_what_a_phone_does_not_say_is_not_measured() -> None:
    found = figures_of([repeat(12, celsius=None)] * 3, DeviceSettings(), no_energy="it is charging")
    assert found.missing == {
        "device_peak_memory_bytes": "the device does not show the memory of the program",
        "device_energy_joules_per_token": "it is charging",
        "device_temperature_celsius": "the device does not say its temperature",
    }


def test_cooling_waits_and_gives_up() -> None:
    looks = iter([Heat(41, 0), Heat(36, 0), Heat(34.9, 1), Heat(34.8, 0)])
    slept: list[float] = []
    steps: list[Event] = []
    heat = cool_down(lambda: next(looks), DeviceSettings(), steps.append, sleep=slept.append)
    assert (heat.celsius, slept) == (34.8, [5, 5, 5])
    assert steps[1] == Step("cool down", 5, 600)
    with pytest.raises(DeviceError, match=r"still at 41\.0 °C after 12 s; a run starts at 35 °C or less"):
        cool_down(lambda: Heat(41, 0), DeviceSettings(cooling_seconds=12), steps.append, sleep=slept.append)
    unknown = cool_down(lambda: Heat(None, None), DeviceSettings(), steps.append, sleep=slept.append)
    assert unknown == Heat(None, None)
