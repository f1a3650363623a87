"""Measuring on a phone through the real adb: figures, or an error that says what happened, and a clean phone."""

from __future__ import annotations

import _thread
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from builders.devices.adb.measuring import AdbProvider
from builders.devices.provider import DeviceSettings, MeasureRequest
from devtools.bundles import make_bundle
from registry.bundle.folder import Bundle
from targets.errors import DeviceError, DeviceUnreachableError, MeasurementError, PhipackError
from targets.measurement import Measurement
from targets.progress import Event, Step
from tests.support.phone import device
from tests.support.phone.device import Phone

SCRIPTED = Path(device.__file__).parent / "runtimes" / "scripted"
SETTINGS = DeviceSettings(prompt_tokens=32, decode_tokens=16, repeats=1, cooling_seconds=0)
RUN = "llama-bench -m"  # in the command that runs the benchmark
Measure = Callable[..., Measurement]


@pytest.fixture
def measure(phone: Phone, tmp_path: Path) -> Measure:
    """Measure a small bundle on the phone, with a benchmark that prints the speeds of `runs`."""
    bundle = make_bundle(tmp_path / "bundle")

    def run(*runs: str, keep: bool = False, on_progress: object = None, **settings: object) -> Measurement:
        (phone.root / "runs").write_text("".join(f"{line}\n" for line in runs))
        wanted = replace(SETTINGS, repeats=len(runs), **settings)  # type: ignore[arg-type]
        request = MeasureRequest(bundle, wanted, SCRIPTED, keep=keep, on_progress=on_progress or (lambda _: None))  # type: ignore[arg-type]
        return AdbProvider(return_seconds=5).measure(phone.serial, request)

    return run


def refused(measure: Measure, *runs: str, **options: object) -> PhipackError:
    with pytest.raises(PhipackError) as caught:
        measure(*runs, **options)
    return caught.value


def test_figures_of_a_phone(phone: Phone, measure: Measure) -> None:
    found = measure("300 12.0 31 0", "310 12.5 33 0", "305 11.9 30 0")
    values = {name: figure.value for name, figure in found.figures.items()}
    assert values["device_decode_tokens_per_second"] == pytest.approx(12.0)
    assert values["device_prefill_tokens_per_second"] == pytest.approx(305.0)
    assert values["device_time_to_first_token_seconds"] == pytest.approx(32 / 305)
    assert values["device_temperature_celsius"] == 33.0
    assert 1e5 < values["device_peak_memory_bytes"] < 1e8  # of a shell
    assert found.figures["device_decode_tokens_per_second"].samples == pytest.approx((12.0, 12.5, 11.9))
    assert found.device.model == "SM-S921U"
    assert (found.device.soc, found.device.target) == ("QTI SM8650", "galaxy-s24")
    assert (found.runtime.name, found.runtime.version, found.runtime.backend) == (
        "llama.cpp",
        "b6500 (1a2b3c4d)",
        "CPU",
    )
    assert (found.match, found.source, found.tool, found.throttled) == ("digest", "adb", "llama-bench", False)
    assert (found.settings.prompt_tokens, found.settings.decode_tokens, found.settings.repeats) == (32, 16, 3)
    assert (found.temperature_before_celsius, found.temperature_after_celsius) == (28.0, 30.0)
    assert found.on == "SM-S921U, Android 15, llama.cpp b6500 (1a2b3c4d) CPU, 28.0 to 30.0 °C"
    assert Measurement.parse(found.to_json().encode(), source="it") == found
    assert phone.files() == []
    assert phone.settled()


def test_a_bundle_that_is_kept_is_pushed_once_and_removed_by_the_next_that_does_not_keep_it(
    phone: Phone, measure: Measure
) -> None:
    pushed: list[int] = []

    def note(event: Event) -> None:
        if isinstance(event, Step) and event.name == "push" and event.done == event.total:
            pushed.append(event.total)

    measure("300 12", keep=True, on_progress=note)
    assert [name for name in phone.files() if name.endswith("model.gguf")]
    measure("300 12", keep=True, on_progress=note)
    damaged = next(path for path in phone.tmp.rglob("model.gguf"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"X")
    measure("300 12", on_progress=note)
    assert (pushed[0] > 7000, pushed[1], pushed[2]) == (True, 0, 7000)
    assert phone.files() == []


def test_what_a_lost_measurement_left_is_removed(phone: Phone, measure: Measure) -> None:
    for name in ("bundles/old/model.gguf", "runtimes/old/llama-bench", "run/out", "bundles/kept/model.gguf"):
        (phone.tmp / "phipack" / name).parent.mkdir(parents=True, exist_ok=True)
        (phone.tmp / "phipack" / name).write_bytes(b"left")
    (phone.tmp / "phipack/bundles/kept/.keep").touch()
    measure("300 12")
    assert [name for name in phone.files() if name.endswith(("gguf", "bench", "out"))] == [
        "phipack/bundles/kept/model.gguf"
    ]


def test_a_number_of_threads_is_refused_for_a_program_that_takes_none(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", {"model.onnx": b"graph"})
    recipe = bundle.manifest.recipe.model_copy(update={"name": "onnx-int4", "format": "onnx"})
    bundle = Bundle(bundle.path, bundle.manifest.model_copy(update={"recipe": recipe}))
    with pytest.raises(MeasurementError, match="onnx-int4 is timed by a program that takes no number of threads"):
        AdbProvider().measure("", MeasureRequest(bundle, DeviceSettings(prompt_tokens=1, decode_tokens=1, threads=4)))


def test_repeats_that_differ_too_much_are_not_measured(phone: Phone, measure: Measure) -> None:
    found = measure("300 12", "310 6", "305 11")
    assert "device_decode_tokens_per_second" not in found.figures
    assert found.not_measured["device_decode_tokens_per_second"] == (
        "the 3 repeats range from 6 to 12 token/s: a spread of 55%, and at most 15% counts"
    )
    assert "device_prefill_tokens_per_second" in found.figures
    error = refused(measure, "300 12", "100 6")
    assert isinstance(error, MeasurementError)
    assert "no speed was measured" in error.problem
    assert phone.files() == []


def test_throttling_that_the_phone_reports_is_part_of_the_measurement(phone: Phone, measure: Measure) -> None:
    found = measure("300 12 44 2")
    assert found.throttled is True
    assert found.temperature_after_celsius == 44.0
    error = refused(measure, "300 12")  # it has not cooled down
    assert isinstance(error, DeviceError)
    assert error.problem == (
        "the device is still at 44.0 °C after 0 s; a run starts at 35 °C or less, and not slowed down"
    )
    assert phone.files() == []


def test_a_run_starts_once_the_phone_is_cool(phone: Phone, measure: Measure) -> None:
    phone.write(temperature="50.0", cooling="10")
    steps: list[Event] = []
    found = measure("300 12", cooling_seconds=0.2, on_progress=steps.append, cool_celsius=36.5)
    assert found.temperature_before_celsius is not None
    assert found.temperature_before_celsius <= 36.5
    assert any(isinstance(step, Step) and step.name == "cool down" for step in steps)


def test_energy_is_measured_on_battery(phone: Phone, measure: Measure) -> None:
    phone.write(battery="3")  # discharging
    (phone.battery_folder / "current_now").write_text("-1500000\n")
    (phone.battery_folder / "voltage_now").write_text("4000000\n")
    found = measure("300 20 30 0 1.2")  # 16 tokens at 20 token/s: the last 0.8 s at 6 W
    assert found.figures["device_energy_joules_per_token"].value == pytest.approx(0.8 * 6 / 16)
    phone.write(battery="2")  # charging: the battery's current says nothing
    assert "the phone is charging" in measure("300 20").not_measured["device_energy_joules_per_token"]


def test_a_program_that_aborts_is_reported_with_its_last_words(phone: Phone, measure: Measure) -> None:
    error = refused(measure, "crash weights")
    assert isinstance(error, MeasurementError)
    assert error.problem.endswith("llama-bench ended with SIGABRT on the phone: GGML_ASSERT(weights) failed")
    assert phone.files() == []


def test_a_hang_ends_within_the_bound_and_nothing_runs_on(phone: Phone, measure: Measure) -> None:
    error = refused(measure, "300 12 30 0 60", run_seconds=0.7)
    assert error.problem == f"{phone.serial}: llama-bench did not end within 1 s, and was ended"
    assert phone.files() == []
    assert phone.settled()


def test_a_push_goes_on_after_the_connection_was_cut(phone: Phone, measure: Measure) -> None:
    phone.cut_after_bytes = 3000
    notices: list[Event] = []
    found = measure("300 12", on_progress=notices.append)
    assert found.figures
    assert any("connection lost during the push" in getattr(one, "text", "") for one in notices)
    assert phone.files() == []


@pytest.mark.parametrize("where", ["getprop", "chmod", "head -c", "rm -rf"])
def test_a_connection_lost_at_any_question_ends_in_an_error_and_a_clean_phone(
    phone: Phone, measure: Measure, where: str
) -> None:
    phone.on(where, phone.cut)
    error = refused(measure, "300 12")
    assert isinstance(error, DeviceUnreachableError)
    assert "the connection" in error.problem
    phone.faults.clear()
    measure("300 12")
    assert phone.files() == []


def test_a_connection_lost_while_it_runs(phone: Phone, measure: Measure) -> None:
    phone.on(RUN, phone.cut, seconds=0.3)
    error = refused(measure, "300 12 30 0 60")
    assert isinstance(error, DeviceUnreachableError)
    assert error.problem == (
        f"{phone.serial}: the connection ended while llama-bench ran; it is back, and what ran there was ended"
    )
    assert phone.files() == []
    assert phone.settled()


def test_a_phone_that_restarts_while_it_runs(phone: Phone, measure: Measure) -> None:
    phone.on(RUN, phone.reboot, seconds=0.3)
    error = refused(measure, "300 12 30 0 60")
    assert error.problem == f"{phone.serial}: the connection ended while llama-bench ran: the phone restarted"
    assert "ran out of memory" in error.fix
    assert phone.files() == []


def test_a_phone_that_is_unplugged_while_it_runs(phone: Phone, tmp_path: Path) -> None:
    (phone.root / "runs").write_text("300 12 30 0 60\n")
    phone.on(RUN, phone.unplug, seconds=0.3)
    request = MeasureRequest(make_bundle(tmp_path / "b"), SETTINGS, SCRIPTED)
    with pytest.raises(DeviceUnreachableError) as caught:
        AdbProvider(return_seconds=0).measure(phone.serial, request)
    assert "did not come back within 0 s, and files stay in /data/local/tmp/phipack" in caught.value.problem
    assert phone.settled()  # the program noticed that nobody listens


def test_ctrl_c_while_it_runs_leaves_nothing(phone: Phone, measure: Measure) -> None:
    phone.on(RUN, _thread.interrupt_main, seconds=0.3)
    with pytest.raises(KeyboardInterrupt):
        measure("300 12 30 0 60")
    assert phone.files() == []
    assert phone.settled()


def test_a_full_phone_is_refused_before_and_during_a_push(phone: Phone, measure: Measure) -> None:
    phone.write(quota="60000000")
    error = refused(measure, "300 12")
    assert "bytes free, and" in error.problem
    assert "free space on the phone" in error.fix
    assert not [service for service in phone.services if service.startswith("sync:")]
    phone.write(quota="90000000")  # enough; then another app takes it
    phone.on("sync:", lambda: phone.write(quota="4000"))
    error = refused(measure, "300 12")
    assert error.problem == f"{phone.serial}: the phone's storage is full; what was pushed has been removed"
    assert phone.files() == []


def test_only_one_measurement_runs_on_a_phone(phone: Phone, measure: Measure) -> None:
    second: list[PhipackError] = []

    def again(event: Event) -> None:
        if isinstance(event, Step) and event.name == "run" and not second:
            second.append(refused(measure, "300 12"))

    measure("300 12", on_progress=again)
    assert second[0].problem == f"{phone.serial}: another phipack measures on this phone"


def test_more_tokens_than_the_context_has_are_refused(measure: Measure) -> None:
    error = refused(measure, "300 12", prompt_tokens=65)
    assert error.problem == "65 tokens can't be run: the bundle's context is 64 tokens long"
