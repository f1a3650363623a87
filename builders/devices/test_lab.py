"""Firebase Test Lab, by its command line tool: `gcloud firebase test android run`.

Test Lab runs an app's instrumentation test on a phone, pushes files to it before, and copies a folder from it after.
The test has one task: run the script of builders/devices/farm_run as the shell user (docs/device-farms.md has its ten
lines of Kotlin). The tool waits for the result, and cancels the test on Ctrl-C.

Configured by the environment: `PHIPACK_TEST_LAB_APP` and `PHIPACK_TEST_LAB_TEST` (the APKs), `PHIPACK_TEST_LAB_BUCKET`
(a Cloud Storage bucket, for the results), `PHIPACK_TEST_LAB_MINUTES` (the longest time on the phone, 15 by default).
A device's address is `test-lab:MODEL` or `test-lab:MODEL@VERSION`, by the names in the list that
`gcloud firebase test android models list` prints.

Source: `gcloud firebase test android run --help`; exit codes: google-cloud-sdk, api_lib/firebase/test/exit_code.py.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builders.devices.farm_run.folder import OUT, SCRIPT, FarmFolder, farm_folder, script
from builders.devices.farm_run.outputs import BYTES_LIMIT, NAMES, farm_measurement
from builders.devices.provider import FoundDevice, MeasureRequest
from builders.devices.tool_run import Ran, run_tool, tool_path
from registry.files.staging import disk_errors
from registry.files.temporary import temporary_folder
from targets.bounded_file import TooLargeError, read_at_most
from targets.errors import DeviceError, SetupError
from targets.measurement import DeviceEntry, Measurement
from targets.progress import Step
from targets.strict_json import MalformedJsonError, parse_json

SCHEME = "test-lab"
ENVIRONMENT = "PHIPACK_TEST_LAB"
_PHONE = "/data/local/tmp/phipack"
_MINUTES, _LONGEST_MINUTES = 15, 45  # --timeout: at most 45 minutes on a physical device
_QUEUE_SECONDS = 3600.0  # in addition to the phone's own minutes
_TOOL_SECONDS = 900.0
_NAME = re.compile(r"([A-Za-z0-9_.-]{1,100})(?:@([0-9]{1,3}))?")
_INSTALL = "install the Google Cloud CLI, then: gcloud auth login && gcloud config set project PROJECT"

# Exit code -> (what happened, what to do).
EXIT_CODES = {
    10: ("the test failed on the phone", "read the log that gcloud names, and run the test on a phone of your own"),
    15: ("the result is inconclusive", "measure again"),
    18: (
        "Test Lab does not have this device with this version",
        "choose one of: gcloud firebase test android models list",
    ),
    19: ("the test was cancelled", "measure again"),
    20: ("Test Lab's infrastructure failed", "measure again"),
}


@dataclass(frozen=True)
class LabSettings:
    """What a measurement uses. `app`, `test`: APKs. `minutes`: the longest time on the phone; Google bills them."""

    app: Path
    test: Path
    bucket: str
    minutes: int = _MINUTES

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> LabSettings:
        """Read the settings. Raises `SetupError` naming the variable that is missing or wrong."""
        given = {name: environment.get(f"{ENVIRONMENT}_{name}", "") for name in ("APP", "TEST", "BUCKET")}
        for name in ("APP", "TEST"):
            if not Path(given[name]).is_file():
                raise SetupError(
                    f"Test Lab is not configured: {ENVIRONMENT}_{name} is {given[name] or 'not set'}",
                    fix=f"set {ENVIRONMENT}_{name} to an APK: docs/device-farms.md",
                )
        if re.fullmatch(r"(?:gs://)?[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", given["BUCKET"]) is None:
            raise SetupError(
                f"{ENVIRONMENT}_BUCKET is {given['BUCKET'] or 'not set'}", fix="set it to a bucket of yours, gs://NAME"
            )
        minutes = environment.get(f"{ENVIRONMENT}_MINUTES", str(_MINUTES))
        if not minutes.isascii() or not minutes.isdigit() or not 1 <= int(minutes) <= _LONGEST_MINUTES:
            raise SetupError(
                f"{ENVIRONMENT}_MINUTES is {minutes!r}", fix=f"set it to a whole number from 1 to {_LONGEST_MINUTES}"
            )
        bucket = f"gs://{given['BUCKET'].removeprefix('gs://')}"
        return cls(Path(given["APP"]), Path(given["TEST"]), bucket, int(minutes))


class TestLabProvider:
    """Phones of Firebase Test Lab."""

    __test__ = False  # it is no test of pytest's

    def __init__(self, settings: LabSettings | None = None) -> None:
        self._settings = LabSettings.from_environment() if settings is None else settings

    @property
    def scheme(self) -> str:
        """What addresses start with."""
        return SCHEME

    def devices(self) -> Sequence[FoundDevice]:
        """Return the physical Android phones of Test Lab."""
        ran = self._gcloud(["firebase", "test", "android", "models", "list", "--format=json"], 120.0)
        if ran.code != 0:
            raise DeviceError(f"gcloud can't list devices: {ran.last_words}", fix=_INSTALL)
        try:
            listed = parse_json(ran.stdout, ours=False)
        except MalformedJsonError as error:
            raise DeviceError(f"gcloud's list is not JSON: {error}", fix="gcloud components update") from error
        if not isinstance(listed, list) or not all(isinstance(one, dict) and one.get("id") for one in listed):
            raise DeviceError("gcloud's list has another form than is known", fix="update phipack")
        return [_found(one) for one in listed if one.get("form") == "PHYSICAL"]

    def measure(self, name: str, request: MeasureRequest) -> Measurement:
        """Measure a bundle on a phone, by Test Lab's name of its model. Costs up to the settings' minutes.

        Raises:
            DeviceError: Test Lab refuses, or the run failed. MeasurementError: the bundle can't be run there.
            SetupError: gcloud is not installed, or there is no llama-bench for the phone.
        """
        match = _NAME.fullmatch(name)
        if match is None:
            raise DeviceError(
                f"{name!r} is no device of Test Lab", fix="write test-lab:MODEL or test-lab:MODEL@VERSION"
            )
        folder = farm_folder(request)
        results = f"phipack-{uuid.uuid4().hex}"
        request.on_progress(Step("farm", 0, self._settings.minutes, subject="running"))
        with temporary_folder("phipack-test-lab", kind=DeviceError) as work:
            try:
                ran = self._gcloud(self._command(match, folder, results, work), self._seconds)
                outputs = self._outputs(results, work) if ran.code in (0, 10) else {}
            finally:
                self._remove(results)
        if ran.code != 0 and not (ran.code == 10 and outputs.get("done", b"0").strip() != b"0"):
            happened, fix = EXIT_CODES.get(ran.code, (f"gcloud ended with {ran.code}", _INSTALL))
            raise DeviceError(f"{happened}: {ran.last_words}", fix=fix)
        return farm_measurement(outputs, folder, request, "test-lab")

    @property
    def _seconds(self) -> float:
        return 60.0 * self._settings.minutes + _QUEUE_SECONDS

    def _command(self, device: re.Match[str], folder: FarmFolder, results: str, work: Path) -> list[str]:
        """Return the arguments of the run. The files get plain names here: commas part gcloud's lists."""
        settings, pushed = self._settings, []
        (work / SCRIPT).write_bytes(script())
        for name, path in (*folder.files.items(), (SCRIPT, work / SCRIPT)):
            if not (work / name).exists():
                (work / name).symlink_to(path.resolve())
            pushed.append(f"{_PHONE}/{name}={work / name}")
        version = f",version={device[2]}" if device[2] else ""
        return [
            *("firebase", "test", "android", "run", "--type=instrumentation", "--quiet", "--format=json"),
            *(f"--app={settings.app}", f"--test={settings.test}", f"--device=model={device[1]}{version}"),
            *(f"--timeout={settings.minutes}m", f"--other-files={','.join(pushed)}"),
            f"--environment-variables=phipackScript={_PHONE}/{SCRIPT},phipackArguments={folder.arguments}",
            *(
                f"--directories-to-pull={_PHONE}/{OUT}",
                f"--results-bucket={settings.bucket}",
                f"--results-dir={results}",
            ),
            *("--no-record-video", "--no-performance-metrics", "--no-auto-google-login", "--num-flaky-test-attempts=0"),
        ]

    def _outputs(self, results: str, work: Path) -> dict[str, bytes]:
        """Return the phone's files. Which folder of the results they are in depends on the device."""
        fetched = work / "results"
        with disk_errors(fetched):
            fetched.mkdir()
        source = f"{self._settings.bucket}/{results}/**/{OUT}/*"
        ran = self._gcloud(["storage", "cp", source, str(fetched)], _TOOL_SECONDS)
        if ran.code != 0:
            raise DeviceError(f"the results can't be fetched: {ran.last_words}", fix="check the rights to the bucket")
        found = {name: fetched / name for name in NAMES if (fetched / name).is_file()}
        try:
            return {name: read_at_most(path, BYTES_LIMIT) for name, path in found.items()}
        except (OSError, TooLargeError) as error:
            raise DeviceError(f"what the phone wrote can't be read: {error}", fix="measure again") from error

    def _remove(self, results: str) -> None:
        """Remove the results, which hold the bundle, too."""
        with suppress(DeviceError, SetupError):  # what went wrong before matters more
            self._gcloud(["storage", "rm", "--recursive", f"{self._settings.bucket}/{results}"], _TOOL_SECONDS)

    def _gcloud(self, arguments: list[str], seconds: float) -> Ran:
        return run_tool([tool_path("gcloud", _INSTALL), *arguments], seconds)


def _found(model: Mapping[str, Any]) -> FoundDevice:
    versions = [str(one) for one in model.get("supportedVersionIds", []) if one]
    name = str(model.get("name") or model["id"])[:500]
    return FoundDevice(
        address=f"{SCHEME}:{str(model['id'])[:100]}",
        state="ready" if versions else "offline",
        entry=DeviceEntry(
            model=name,
            manufacturer=str(model["manufacturer"])[:500] if model.get("manufacturer") else None,
            os="Android",
            os_version=f"API {', '.join(versions)}"[:500] if versions else None,
        ),
    )
