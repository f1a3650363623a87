"""Measures a bundle on a phone of Device Farm.

    upload ──accepted──> schedule ──poll──> completed ──fetch──> measurement
                            └── Ctrl-C, the cap on minutes, any error: the run is stopped, the uploads are removed

Configured by the environment: `PHIPACK_DEVICE_FARM_PROJECT` (the project's ARN), `PHIPACK_DEVICE_FARM_APP` (an APK; the
service wants one, and it is not started), `PHIPACK_DEVICE_FARM_MINUTES` (the most device minutes of a measurement, 30
by default). A device's address is `device-farm:` and the last part of its ARN.
"""

from __future__ import annotations

import io
import os
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builders.devices.device_farm.client import DeviceFarmClient, RunState, open_client
from builders.devices.device_farm.package import test_spec, write_package
from builders.devices.device_farm.states import (
    AVAILABILITY,
    RESULT_CODES,
    RESULTS,
    RUN_STATES,
    UPLOAD_STATES,
    WAITING,
)
from builders.devices.device_farm.transfer import download, send_file
from builders.devices.farm_run.folder import farm_folder
from builders.devices.farm_run.outputs import BYTES_LIMIT, NAMES, farm_measurement
from builders.devices.provider import FoundDevice, MeasureRequest, State
from registry.files.staging import disk_errors
from registry.files.temporary import temporary_folder
from targets.errors import DeviceError, DeviceUnreachableError, SetupError
from targets.measurement import DeviceEntry, Measurement
from targets.progress import Progress, Step

SCHEME = "device-farm"
ENVIRONMENT = "PHIPACK_DEVICE_FARM"
ARN = "arn:aws:devicefarm:us-west-2::device:"
ARTIFACT_BYTES_LIMIT = 64 << 20
_MINUTES = 30
_LONGEST_MINUTES = 150  # "Limits in AWS Device Farm": a job's longest time
_QUEUE_SECONDS = 3600.0
_UPLOAD_SECONDS = 900.0


@dataclass(frozen=True)
class FarmSettings:
    """What a measurement may use. `minutes`: of device time; the service bills them. `app`: an APK."""

    project: str
    app: Path
    minutes: int = _MINUTES
    poll_seconds: float = 15.0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> FarmSettings:
        """Read the settings. Raises `SetupError` naming the variable that is missing or wrong."""
        project, app = (environment.get(f"{ENVIRONMENT}_{name}", "") for name in ("PROJECT", "APP"))
        if not project:
            raise SetupError(
                "Device Farm is not configured", fix=f"set {ENVIRONMENT}_PROJECT to the ARN of a project of yours"
            )
        if not Path(app).is_file():
            raise SetupError(
                f"{ENVIRONMENT}_APP is {app or 'not set'}: Device Farm wants an app",
                fix=f"set {ENVIRONMENT}_APP=ANY.apk",
            )
        minutes = environment.get(f"{ENVIRONMENT}_MINUTES", str(_MINUTES))
        if not minutes.isascii() or not minutes.isdigit() or not 1 <= int(minutes) <= _LONGEST_MINUTES:
            raise SetupError(
                f"{ENVIRONMENT}_MINUTES is {minutes!r}", fix=f"set it to a whole number from 1 to {_LONGEST_MINUTES}"
            )
        return cls(project, Path(app), int(minutes))


class DeviceFarmProvider:
    """Phones of AWS Device Farm. `sleep` and `clock` are those of the time module, unless a test has its own."""

    def __init__(
        self,
        settings: FarmSettings | None = None,
        client: Any = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = FarmSettings.from_environment() if settings is None else settings
        self._farm = DeviceFarmClient(open_client() if client is None else client)
        self._sleep, self._clock = sleep, clock

    @property
    def scheme(self) -> str:
        """What addresses start with."""
        return SCHEME

    def devices(self) -> Sequence[FoundDevice]:
        """Return the Android phones of the public fleet."""
        return [_found(device) for device in self._farm.android_devices()]

    def measure(self, name: str, request: MeasureRequest) -> Measurement:
        """Measure a bundle on a phone, by the last part of its ARN. Costs up to the settings' device minutes.

        Raises:
            DeviceError: the service refuses, the run failed, or the minutes ran out. The run is stopped then.
            MeasurementError: the bundle can't be run there. SetupError: there is no llama-bench for the phone.
        """
        folder = farm_folder(request)
        with temporary_folder("phipack-device-farm", kind=DeviceError) as work, self._uploads() as uploads:
            package, spec = work / "package.zip", work / "spec.yml"
            with disk_errors(work, DeviceError):
                write_package(folder, package)
                spec.write_bytes(test_spec(folder))
            for kind, path in (
                ("ANDROID_APP", self._settings.app),
                ("APPIUM_PYTHON_TEST_PACKAGE", package),
                ("APPIUM_PYTHON_TEST_SPEC", spec),
            ):
                self._upload(kind, path, uploads, request.on_progress)
            run = self._farm.schedule(
                self._settings.project, ARN + name, uploads, self._settings.minutes, f"phipack-{uuid.uuid4().hex[:12]}"
            )
            state = self._wait(run, request.on_progress)
            outputs = self._outputs(run)
        _require_passed(state, outputs)
        return farm_measurement(outputs, folder, request, "device-farm")

    @contextmanager
    def _uploads(self) -> Iterator[dict[str, str]]:
        """Yield a place for the ARNs of uploads, which are removed at the end."""
        uploads: dict[str, str] = {}
        try:
            yield uploads
        finally:
            for arn in uploads.values():
                with suppress(DeviceError, SetupError):  # what went wrong before matters more
                    self._farm.delete_upload(arn)

    def _upload(self, kind: str, path: Path, uploads: dict[str, str], on_progress: Progress) -> None:
        upload = self._farm.create_upload(self._settings.project, path.name, kind)
        uploads[kind] = upload.arn
        send_file(path, upload.url, on_progress)
        until = self._clock() + _UPLOAD_SECONDS
        while True:
            upload = self._farm.upload(upload.arn)
            if upload.status not in UPLOAD_STATES:
                raise DeviceError(
                    f"{path.name}: an upload in the unknown state {upload.status!r}", fix="update phipack"
                )
            if upload.status == "SUCCEEDED":
                return
            if upload.status == "FAILED":
                raise DeviceError(
                    f"Device Farm refuses {path.name} ({kind}): {upload.message[:500] or 'it does not say why'}",
                    fix="check that the app is an APK; else report what Device Farm said",
                )
            if self._clock() > until:
                raise DeviceUnreachableError(f"{path.name} is still {UPLOAD_STATES[upload.status]}", fix="try again")
            self._sleep(self._settings.poll_seconds)

    def _wait(self, run: str, on_progress: Progress) -> RunState:
        """Return the state of a run that has ended. Whatever else ends the wait stops the run."""
        try:
            return self._ended(run, on_progress)
        except BaseException:  # Ctrl-C, too: minutes are billed
            with suppress(DeviceError, SetupError):
                self._farm.stop(run)
            raise

    def _ended(self, run: str, on_progress: Progress) -> RunState:
        settings = self._settings
        queued_until = self._clock() + _QUEUE_SECONDS
        running_until: float | None = None
        while True:
            state = self._farm.run(run)
            if state.status not in RUN_STATES:
                raise DeviceError(f"a run in the unknown state {state.status!r}: {state.url}", fix="update phipack")
            on_progress(Step("farm", int(state.minutes), settings.minutes, subject=RUN_STATES[state.status]))
            if state.status == "COMPLETED":
                return state
            if state.status in WAITING and self._clock() > queued_until:
                raise DeviceUnreachableError(
                    f"the run is still {RUN_STATES[state.status]} after an hour",
                    fix="choose another device, or try later",
                )
            if state.status not in WAITING and running_until is None:
                running_until = self._clock() + 60.0 * (settings.minutes + 10)  # the service stops it before
            if state.minutes > settings.minutes or (running_until is not None and self._clock() > running_until):
                raise DeviceError(
                    f"{settings.minutes} device minutes are used up; the run is stopped: {state.url}",
                    fix=f"allow more with {ENVIRONMENT}_MINUTES, or measure with fewer --repeat",
                )
            self._sleep(settings.poll_seconds)

    def _outputs(self, run: str) -> dict[str, bytes]:
        """Return the phone's files, from the archives of what the run wrote."""
        found: dict[str, bytes] = {}
        for url in self._farm.artifact_urls(run):
            found |= _unpacked(download(url, ARTIFACT_BYTES_LIMIT))
        return found


def _unpacked(archive: bytes) -> dict[str, bytes]:
    """Return the files of an archive that the phone's script writes, whatever folder they are in."""
    found = {}
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            for entry in opened.infolist():
                folder, _, name = entry.filename.rpartition("/")
                if name in NAMES and folder.endswith("phipack"):
                    with opened.open(entry) as stream:
                        found[name] = stream.read(BYTES_LIMIT)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise DeviceError(f"what the run wrote can't be unpacked: {error}", fix="measure again") from error
    return found


def _require_passed(state: RunState, outputs: Mapping[str, bytes]) -> None:
    """Raise `DeviceError` where the run has not passed, unless the phone's own files say more of what went wrong."""
    result = RESULTS.get(state.result)
    if result is None:
        raise DeviceError(f"a run with the unknown result {state.result!r}: {state.url}", fix="update phipack")
    if not result.fix or (state.result == "FAILED" and outputs.get("done", b"0").strip() != b"0"):
        return
    why = ". ".join(filter(None, (RESULT_CODES.get(state.code, state.code), state.message)))[:500]
    raise DeviceError(f"{result.meaning}{f': {why}' if why else ''} ({state.url})", fix=result.fix)


def _found(device: Mapping[str, Any]) -> FoundDevice:
    states: dict[str, State] = {"ready": "ready", "busy": "busy", "offline": "offline"}
    availability = str(device.get("availability", ""))
    model = str(device.get("modelId") or device.get("name") or "unnamed")
    return FoundDevice(
        address=f"{SCHEME}:{str(device.get('arn', '')).rpartition(':')[2]}",
        state=states.get(AVAILABILITY.get(availability, ""), "unknown"),
        entry=DeviceEntry(
            model=model,
            manufacturer=str(device["manufacturer"]) if device.get("manufacturer") else None,
            os="Android",
            os_version=str(device["os"]) if device.get("os") else None,
            ram_bytes=int(device["memory"]) if device.get("memory") else None,
        ),
    )
