"""iPhones through an `xcrun` of ours: what is listed, what the runner prints, and what is not believed."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from builders.coreml.interface import (
    CAUSAL_MASK,
    CHUNK_FACT,
    CONTEXT_FACT,
    EDGE_FACT,
    INPUT_IDS,
    LOGITS,
    LONG_FACTORS,
    POSITION,
    PROMPT,
)
from builders.devices.devicectl import DevicectlProvider, devices_of, runner_measurement
from builders.devices.provider import DeviceSettings, MeasureRequest, ReferenceAnswers
from devtools.bundles import make_bundle
from registry.bundle.folder import Bundle
from targets.device_evidence import device_figures
from targets.devices import target_named
from targets.errors import DeviceError, DeviceUnreachableError, MeasurementError, SetupError

PACKAGE = {"model.mlpackage/Manifest.json": b"{}", "model.mlpackage/Data/weights.bin": b"weights"}
UDID = "00008130-001C2D3E4F500012"


def device(**changes: Any) -> dict[str, Any]:
    """Return one device as devicectl's JSON has it."""
    found: dict[str, Any] = {
        "capabilities": [
            {"featureIdentifier": "com.apple.coredevice.feature.installapp", "name": "Install Application"}
        ],
        "connectionProperties": {"pairingState": "paired", "transportType": "wired", "tunnelState": "connected"},
        "deviceProperties": {"name": "My phone", "osVersionNumber": "18.1", "developerModeStatus": "enabled"},
        "hardwareProperties": {
            "deviceType": "iPhone",
            "marketingName": "iPhone 15",
            "platform": "iOS",
            "productType": "iPhone15,4",
            "udid": UDID,
        },
        "identifier": "11111111-2222-3333-4444-555555555555",
        "visibilityClass": "default",
    }
    for name, value in changes.items():
        found[name] = found[name] | value
    return found


def listing(*devices: Any) -> bytes:
    return json.dumps({"info": {"jsonVersion": 2, "outcome": "success"}, "result": {"devices": list(devices)}}).encode()


def runner_line(bundle: Bundle, **changes: Any) -> str:
    prefix = "model.mlpackage/"
    files = {one.path.removeprefix(prefix): one.sha256 for one in bundle.manifest.files if one.path.startswith(prefix)}
    content = {
        "schema": "phipack.ios-run/1",
        "model": "iPhone15,4",
        "os": "iOS",
        "os_version": "18.1",
        "compute_units": "cpuAndGPU",
        "prompt_tokens": 512,
        "decode_tokens": 128,
        "prefill_seconds": [2.0, 2.1, 2.05],
        "decode_seconds": [10.0, 10.4, 10.2],
        "peak_memory_bytes": 2_900_000_000,
        "thermal_before": "nominal",
        "thermal_after": "fair",
        "files": files,
    } | changes
    return f"loading\nPHIPACK_RUN {json.dumps(content)}\n"


@pytest.fixture
def request_(tmp_path: Path) -> MeasureRequest:
    bundle = make_bundle(tmp_path / "bundle", PACKAGE | {"tokenizer.json": b"{}"})
    recipe = bundle.manifest.recipe.model_copy(update={"name": "coreml-int4", "format": "coreml"})
    manifest = bundle.manifest.model_copy(update={"recipe": recipe})
    return MeasureRequest(Bundle(bundle.path, manifest), DeviceSettings(repeats=3))


def test_phones_are_listed_with_what_hinders_them() -> None:
    found = devices_of(
        listing(
            device(),
            device(connectionProperties={"pairingState": "unpaired"}),
            device(deviceProperties={"developerModeStatus": "disabled"}),
            device(connectionProperties={"tunnelState": "unavailable"}),
            device(hardwareProperties={"platform": "watchOS"}),
        )
    )
    assert [(one.state, one.problem) for one in found] == [
        ("ready", None),
        ("unauthorized", "it does not trust this Mac"),
        ("unauthorized", "Developer Mode is off"),
        ("offline", "it is not connected"),
    ]
    assert found[0].address == f"devicectl:{UDID}"
    assert found[0].entry is not None
    assert (found[0].entry.model, found[0].entry.os, found[0].entry.os_version) == ("iPhone15,4", "iOS", "18.1")
    assert (found[0].entry.soc, found[0].entry.target) == ("Apple A16", "iphone-15")
    assert all((one.fix is None) == (one.problem is None) for one in found)


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"{}", b'{"result": {"devices": [1]}}', listing({"hardwareProperties": []})]
)
def test_a_list_of_another_form_is_refused(raw: bytes) -> None:
    with pytest.raises(DeviceError, match="devicectl's list"):
        devices_of(raw)


def test_what_the_runner_prints_is_a_measurement(request_: MeasureRequest) -> None:
    found = runner_measurement(runner_line(request_.bundle), request_)
    values = {name: figure.value for name, figure in found.figures.items()}
    assert values == {
        "device_prefill_tokens_per_second": pytest.approx(512 / 2.05),
        "device_decode_tokens_per_second": pytest.approx(128 / 10.2),
        "device_time_to_first_token_seconds": 2.05,
        "device_peak_memory_bytes": 2_900_000_000,
    }
    assert (found.match, found.source, found.throttled) == ("digest", "devicectl", False)
    assert (found.device.soc, found.device.target) == ("Apple A16", "iphone-15")
    assert found.on == "iPhone15,4, iOS 18.1, coreml 18.1 cpuAndGPU, temperature not known"
    answers = ReferenceAnswers(np.zeros((1, 8), np.int64), 32, list)
    compared = runner_measurement(runner_line(request_.bundle), replace(request_, reference=answers))
    assert "returns no logits" in compared.not_measured["device_kl_mean"]
    hot = runner_measurement(runner_line(request_.bundle, thermal_after="serious"), request_)
    assert hot.throttled


def test_a_number_of_threads_is_refused_before_anything_is_copied(request_: MeasureRequest) -> None:
    asked = replace(request_, settings=replace(request_.settings, threads=4))
    with pytest.raises(MeasurementError, match="Core ML takes no number of threads"):
        DevicectlProvider().measure(UDID, asked)


def test_a_phone_that_was_measured_again_counts_by_its_last_measurement(
    request_: MeasureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a time, which of two counted was decided by the order of their text: 9.9 went before 12.5."""
    found = []
    for hour, seconds in ((9, 12.93), (10, 10.24)):
        monkeypatch.setattr("builders.devices.devicectl.dt.datetime", _clock(hour))
        found.append(runner_measurement(runner_line(request_.bundle, decode_seconds=[seconds] * 3), request_))
    monkeypatch.undo()
    for order in (found, found[::-1]):
        figure = device_figures(order, target_named("iphone-15"))["device_decode_tokens_per_second"]
        assert figure.value == pytest.approx(128 / 10.24)


def _clock(hour: int) -> type[datetime]:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls(2026, 5, 1, hour, tzinfo=tz)

    return Clock


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"error": "out of memory"}, "the runner failed on the phone: out of memory"),
        ({"files": {"Manifest.json": "0" * 64}}, "ran other files than the bundle's: Data/weights.bin, Manifest.json"),
        ({"decode_seconds": []}, "timed no run, or half of one"),
        ({"decode_seconds": [1.0, 0, 1.0]}, "line is malformed: decode_seconds.1"),
        ({"model": ""}, "did not say what model it is"),
        ({"thermal_after": "hot"}, "line is malformed: thermal_after"),
        ({"schema": "phipack.ios-run/2"}, "line is malformed: schema"),
        (
            {"prefill_seconds": [1.0, 2.0, 3.0], "decode_seconds": [1.0, 2.0, 3.0]},
            "no speed was measured: the repeats differ too much",
        ),
    ],
)
def test_a_line_that_is_not_believed(request_: MeasureRequest, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(DeviceError, match=problem) as caught:
        runner_measurement(runner_line(request_.bundle, **changes), request_)
    assert caught.value.fix


def test_a_runner_that_says_nothing(request_: MeasureRequest) -> None:
    with pytest.raises(DeviceUnreachableError, match="the runner reported nothing: ERROR: the device is locked"):
        runner_measurement("loading\n", request_, "ERROR: the device is locked")


XCRUN = """#!{python}
import json, pathlib, sys
home = pathlib.Path({home!r})
arguments = sys.argv[1:]
with (home / "calls.jsonl").open("a") as calls:
    calls.write(json.dumps(arguments) + "\\n")
if "list" in arguments:
    pathlib.Path(arguments[arguments.index("--json-output") + 1]).write_bytes((home / "devices.json").read_bytes())
elif "copy" in arguments and (home / "locked").exists():
    sys.exit("ERROR: The device is locked.")
elif "launch" in arguments:
    print((home / "line").read_text())
"""


@pytest.fixture
def xcode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_: MeasureRequest) -> Path:
    home = tmp_path / "xcode"
    home.mkdir()
    (home / "xcrun").write_text(XCRUN.format(python=sys.executable, home=str(home)), "utf-8")
    (home / "xcrun").chmod(0o755)
    (home / "devices.json").write_bytes(listing(device()))
    (home / "line").write_text(runner_line(request_.bundle), "utf-8")
    monkeypatch.setenv("PATH", f"{home}:{os.environ['PATH']}")
    monkeypatch.setenv("PHIPACK_IOS_APP", "/build/Runner.app")
    return home


def test_a_phone_is_measured(xcode: Path, request_: MeasureRequest) -> None:
    provider = DevicectlProvider()
    assert [one.address for one in provider.devices()] == [f"devicectl:{UDID}"]
    found = provider.measure(UDID, request_)
    assert found.figures["device_decode_tokens_per_second"].value == pytest.approx(128 / 10.2)
    _, install, copy, launch = [json.loads(line) for line in (xcode / "calls.jsonl").read_text().splitlines()]
    assert install == ["devicectl", "device", "install", "app", "--device", UDID, "/build/Runner.app"]
    assert copy[:4] == ["devicectl", "device", "copy", "to"]
    folder = f"Documents/{request_.bundle.digest.removeprefix('sha256:')[:16]}"
    assert copy[-2:] == ["--destination", f"{folder}/model.mlpackage"]
    assert launch[-4:] == [
        f"--package={folder}/model.mlpackage",
        "--prompt-tokens=512",
        "--decode-tokens=128",
        "--repeats=3",
    ]


def test_what_can_not_be_measured(xcode: Path, request_: MeasureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = DevicectlProvider()
    (xcode / "locked").touch()
    with pytest.raises(DeviceError, match="devicectl can't copy the package: ERROR: The device is locked"):
        provider.measure(UDID, request_)
    with pytest.raises(DeviceError, match="is no UDID"):
        provider.measure("a b", request_)
    gguf = make_bundle(xcode / "gguf")
    with pytest.raises(MeasurementError, match="runs Core ML bundles, and this one is gguf-q4_0"):
        provider.measure(UDID, MeasureRequest(gguf))
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SetupError, match="xcrun is not installed"):
        provider.devices()


def test_the_runner_of_this_phipack_prints_this_form() -> None:
    """Its source can't be compiled here; that it names every field of the form can be seen."""
    from builders.devices.devicectl import RUNNER, RunnerOutput

    sources = Path(__file__).parents[3] / "clients" / "ios_runner"
    text = "".join(path.read_text("utf-8") for path in sorted(sources.rglob("*.swift")))
    for name, field in RunnerOutput.model_fields.items():
        assert f'"{field.alias or name}"' in text, name
    for name in (INPUT_IDS, CAUSAL_MASK, POSITION, LONG_FACTORS, LOGITS, PROMPT, CONTEXT_FACT, CHUNK_FACT, EDGE_FACT):
        assert f'"{name}"' in text, name
    assert "PHIPACK_RUN " in text
    assert RUNNER in (sources / "project.yml").read_text("utf-8")
