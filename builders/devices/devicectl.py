"""iPhones and iPads attached to a Mac, by Xcode's `xcrun devicectl`, and the runner app of clients/ios_runner.

    copy the package into the app's container ──> launch the app, its arguments say what to time ──> one line of JSON

The app times Core ML on the phone, prints `PHIPACK_RUN {…}`, removes the package and ends. It hashes what it ran: the
measurement is of the bundle's own bytes.

Configured by the environment: `PHIPACK_IOS_APP`, the built app (clients/ios_runner/README.md); without it the runner
must be installed on the phone already. A device's address is `devicectl:UDID`.

Source: `xcrun devicectl --help` of Xcode 16, and the JSON of its version 2 as expo/expo and others read it
(`result.devices[]: identifier, connectionProperties, deviceProperties, hardwareProperties`).
"""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from builders.devices.figures import DECODE, FIRST_TOKEN, KL, PEAK, PREFILL, within_spread
from builders.devices.provider import FoundDevice, MeasureRequest, State
from builders.devices.tool_run import Ran, run_tool, tool_path
from registry.files.temporary import temporary_folder
from targets.bounded_file import TooLargeError, read_at_most
from targets.devices import target_with
from targets.errors import DeviceError, DeviceUnreachableError, MeasurementError
from targets.measurement import DeviceEntry, Measurement, RuntimeEntry, SampledFigure, SettingsEntry
from targets.progress import Step
from targets.strict_json import MalformedJsonError, parse_json, parse_model

SCHEME = "devicectl"
ENVIRONMENT = "PHIPACK_IOS_APP"
RUNNER = "dev.phipack.runner"
PACKAGE = "model.mlpackage"
_BYTES_LIMIT = 8 << 20
_LIST_SECONDS, _COPY_SECONDS = 60.0, 1800.0
_LINE = re.compile(r"^PHIPACK_RUN (\{.*\})\s*$", re.MULTILINE)
_NAME = re.compile(r"[A-Za-z0-9-]{1,100}")
_XCODE = "install Xcode 16 or later on a Mac, and open it once"
_FIX = "unlock the phone, trust this Mac, switch on Developer Mode, and measure again"
_Seconds = Annotated[float, Field(ge=1e-6, le=1e6)]
_Text = Annotated[str, Field(max_length=200)]
_Count = Annotated[int, Field(ge=0, le=1 << 40)]
_Thermal = Literal["nominal", "fair", "serious", "critical"]


class RunnerOutput(BaseModel):
    """The line of JSON that the runner prints. `files`: SHA-256 in hex, by path below the package."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_: Literal["phipack.ios-run/1"] = Field(alias="schema")
    error: str | None = None
    model: _Text = ""
    os: _Text = ""
    os_version: _Text = ""
    compute_units: _Text = ""
    prompt_tokens: _Count = 0
    decode_tokens: _Count = 0
    prefill_seconds: list[_Seconds] = []
    decode_seconds: list[_Seconds] = []
    peak_memory_bytes: _Count = 0
    thermal_before: _Thermal = "nominal"
    thermal_after: _Thermal = "nominal"
    files: dict[str, str] = {}


class DevicectlProvider:
    """iPhones and iPads that this Mac's Xcode sees."""

    @property
    def scheme(self) -> str:
        """What addresses start with."""
        return SCHEME

    def devices(self) -> Sequence[FoundDevice]:
        """Return the phones and tablets, with those that can't be used now."""
        with temporary_folder("phipack-devicectl", kind=DeviceError) as work:
            out = work / "devices.json"
            ran = _devicectl(["list", "devices", "--json-output", str(out), "--timeout", "10"], _LIST_SECONDS)
            if ran.code != 0 or not out.is_file():
                raise DeviceError(f"devicectl can't list devices: {ran.last_words}", fix=_XCODE)
            try:
                return devices_of(read_at_most(out, _BYTES_LIMIT))
            except (OSError, TooLargeError) as error:
                raise DeviceError(f"devicectl's list can't be read: {error}", fix=_XCODE) from error

    def measure(self, name: str, request: MeasureRequest) -> Measurement:
        """Measure a Core ML bundle on a device, by its UDID.

        Raises:
            DeviceError: the device is not there, can't be used, or the run failed.
            MeasurementError: the bundle is not for Core ML. SetupError: this is no Mac with Xcode.
        """
        if _NAME.fullmatch(name) is None:
            raise DeviceError(f"{name!r} is no UDID", fix="write devicectl:UDID: phipack devices ls")
        if request.bundle.manifest.recipe.format != "coreml":
            raise MeasurementError(
                f"an attached iPhone runs Core ML bundles, and this one is {request.bundle.manifest.recipe.name}",
                fix="measure a coreml bundle there",
            )
        if request.settings.threads is not None:
            raise MeasurementError("Core ML takes no number of threads", fix="leave --threads out: it is llama-bench's")
        steps = iter(range(1, 4))
        if app := os.environ.get(ENVIRONMENT):
            request.on_progress(Step("install", next(steps), 3, subject=name))
            _require(
                _devicectl(["device", "install", "app", "--device", name, app], _COPY_SECONDS), "install the runner"
            )
        request.on_progress(Step("push", next(steps), 3, subject=name))
        folder = f"Documents/{request.bundle.digest.removeprefix('sha256:')[:16]}"
        copy = ["device", "copy", "to", "--device", name, "--domain-type", "appDataContainer"]
        copy += ["--domain-identifier", RUNNER, "--source", str(request.bundle.file(PACKAGE))]
        _require(_devicectl([*copy, "--destination", f"{folder}/{PACKAGE}"], _COPY_SECONDS), "copy the package")
        request.on_progress(Step("measure", next(steps), 3, subject=name))
        settings = request.settings
        launch = ["device", "process", "launch", "--console", "--terminate-existing", "--device", name, RUNNER]
        launch += [f"--package={folder}/{PACKAGE}", f"--prompt-tokens={settings.prompt_tokens}"]
        launch += [f"--decode-tokens={settings.decode_tokens}", f"--repeats={settings.repeats}"]
        launch += ["--keep"] if request.keep else []
        ran = _devicectl(launch, settings.run_seconds * (settings.repeats + 1))
        return runner_measurement(ran.stdout, request, ran.last_words)


def devices_of(raw: bytes) -> list[FoundDevice]:
    """Return the devices in the JSON that devicectl writes. Raises `DeviceError` where it has another form."""
    try:
        content = parse_json(raw, ours=False)
        listed = content["result"]["devices"]
        return [_found(one) for one in listed if _part(one, "hardwareProperties").get("platform") in ("iOS", "iPadOS")]
    except MalformedJsonError as error:
        raise DeviceError(f"devicectl's list is not JSON: {error}", fix=_XCODE) from error
    except (KeyError, TypeError, AttributeError, ValidationError) as error:
        raise DeviceError("devicectl's list has another form than is known", fix="update phipack") from error


def runner_measurement(printed: str, request: MeasureRequest, last_words: str = "") -> Measurement:
    """Return the measurement in what the runner printed.

    Raises:
        DeviceError: it printed no line, reports an error, or ran other bytes than the bundle's.
    """
    found = _LINE.findall(printed)
    if not found:
        raise DeviceUnreachableError(f"the runner reported nothing: {last_words}", fix=_FIX)
    try:
        run = parse_model(RunnerOutput, found[-1])
    except MalformedJsonError as error:
        raise DeviceError(f"the runner's line is malformed: {error}", fix="build the runner of this phipack") from error
    if run.error is not None:
        raise DeviceError(f"the runner failed on the phone: {run.error[:500]}", fix=_FIX)
    _check_files(run, request)
    counts = (run.prompt_tokens, run.decode_tokens, len(run.decode_seconds))
    if len(run.prefill_seconds) != len(run.decode_seconds) or not all(counts):
        raise DeviceError("the runner timed no run, or half of one", fix=_FIX)
    if not run.model or not run.os:
        raise DeviceError("the phone did not say what model it is", fix=_FIX)
    return _measurement(run, request)


def _measurement(run: RunnerOutput, request: MeasureRequest) -> Measurement:
    timed = {
        PREFILL: [run.prompt_tokens / one for one in run.prefill_seconds],
        DECODE: [run.decode_tokens / one for one in run.decode_seconds],
        FIRST_TOKEN: run.prefill_seconds,
    }
    sampled = {name: SampledFigure.median(name, samples) for name, samples in timed.items()}
    figures, missing = within_spread(sampled, request.settings.spread)
    if not figures:
        raise DeviceError(
            "no speed was measured: the repeats differ too much", fix="let the phone cool, and measure again"
        )
    if request.reference is not None:
        missing[KL] = "the runner on the phone times Core ML alone, and returns no logits"
    if run.peak_memory_bytes > 0:
        figures[PEAK] = SampledFigure.maximum(PEAK, [run.peak_memory_bytes])
    target = target_with(run.model)
    return Measurement(
        schema="phipack.measurement/1",
        match="digest",
        bundle=request.bundle.digest,
        model=request.model,
        recipe=request.bundle.manifest.recipe.name,
        weights_bytes=sum(kind.bytes for kind in request.bundle.manifest.recipe.weights) or None,
        device=DeviceEntry(
            model=run.model,
            manufacturer="Apple",
            soc=None if target is None else target.soc,
            os=run.os,
            os_version=run.os_version or None,
            target=None if target is None else target.name,
        ),
        runtime=RuntimeEntry(name="coreml", version=run.os_version or None, backend=run.compute_units or None),
        settings=SettingsEntry(
            prompt_tokens=run.prompt_tokens, decode_tokens=run.decode_tokens, repeats=len(run.decode_seconds)
        ),
        figures=figures,
        not_measured=missing,
        throttled=run.thermal_after in ("serious", "critical"),
        source="devicectl",
        tool="clients/ios_runner",
        taken=dt.datetime.now(dt.UTC).replace(microsecond=0),
    )


def _check_files(run: RunnerOutput, request: MeasureRequest) -> None:
    prefix = f"{PACKAGE}/"
    wanted = {
        entry.path.removeprefix(prefix): entry.sha256
        for entry in request.bundle.manifest.files
        if entry.path.startswith(prefix)
    }
    if run.files != wanted:
        changed = sorted(name for name in wanted.keys() | run.files.keys() if wanted.get(name) != run.files.get(name))
        raise DeviceError(f"the phone ran other files than the bundle's: {', '.join(changed[:3])}", fix="measure again")


def _found(device: Mapping[str, Any]) -> FoundDevice:
    hardware, own = _part(device, "hardwareProperties"), _part(device, "deviceProperties")
    connection = _part(device, "connectionProperties")
    state, problem = _state(connection, own)
    model = str(hardware.get("productType") or hardware.get("marketingName") or "unnamed")
    target = target_with(model)
    return FoundDevice(
        address=f"{SCHEME}:{hardware.get('udid') or device['identifier']}",
        state=state,
        entry=DeviceEntry(
            model=model,
            manufacturer="Apple",
            soc=None if target is None else target.soc,
            os=str(hardware["platform"]),
            os_version=str(own["osVersionNumber"]) if own.get("osVersionNumber") else None,
            target=None if target is None else target.name,
        ),
        problem=problem,
        fix=None if problem is None else _FIX,
    )


def _state(connection: Mapping[str, Any], own: Mapping[str, Any]) -> tuple[State, str | None]:
    if connection.get("pairingState") != "paired":
        return "unauthorized", "it does not trust this Mac"
    if own.get("developerModeStatus") == "disabled":
        return "unauthorized", "Developer Mode is off"
    if connection.get("tunnelState") == "unavailable":
        return "offline", "it is not connected"
    return "ready", None


def _part(device: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = device.get(name, {})
    if not isinstance(part, dict):
        raise TypeError(name)
    return part


def _devicectl(arguments: list[str], seconds: float) -> Ran:
    return run_tool([tool_path("xcrun", _XCODE), "devicectl", *arguments], seconds)


def _require(ran: Ran, what: str) -> None:
    if ran.code != 0:
        raise DeviceError(f"devicectl can't {what}: {ran.last_words}", fix=_FIX)
