"""Device Farm by botocore's Stubber: every state and result that the service documents, and what is cleaned up.

The bytes go to a server of ours, where the phone's script really runs on what was uploaded.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.session import Session
from botocore.stub import Stubber

from builders.devices.device_farm import states
from builders.devices.device_farm.client import DeviceFarmClient
from builders.devices.device_farm.package import test_spec as spec_of
from builders.devices.device_farm.package import write_package
from builders.devices.device_farm.provider import ARN, DeviceFarmProvider, FarmSettings
from builders.devices.farm_run.folder import farm_folder
from builders.devices.provider import MeasureRequest
from devtools.servers import running
from targets.errors import DeviceError, DeviceUnreachableError, MeasurementError, PhipackError, SetupError
from targets.progress import Step
from tests.support.device_farm import KINDS, PROJECT, RUN, Farm, Files, upload_arn
from tests.support.farm_phone import BROKEN, request_of, run_on_phone


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    client = Session().create_client(
        "devicefarm", region_name="us-west-2", aws_access_key_id="x", aws_secret_access_key="x"
    )
    kept: dict[str, bytes] = {}
    app = tmp_path / "app.apk"
    app.write_bytes(b"apk")
    seconds = [0.0]

    def sleep(count: float) -> None:
        seconds[0] += count

    settings = FarmSettings(PROJECT, app, minutes=20)
    provider = DeviceFarmProvider(settings, client, sleep=sleep, clock=lambda: seconds[0])
    handler = type("Handler", (Files,), {"kept": kept})
    with running(handler) as port, Stubber(client) as stubber:
        yield Farm(stubber, f"http://127.0.0.1:{port}", kept, provider, request_of(tmp_path))


def outputs_of(farm: Farm, tmp_path: Path) -> dict[str, bytes]:
    return run_on_phone(farm_folder(farm.request), tmp_path)


def test_a_run_through_all_states_that_wait_is_a_measurement(farm: Farm, tmp_path: Path) -> None:
    events: list[Step] = []
    farm.request = MeasureRequest(
        farm.request.bundle, farm.request.settings, farm.request.runtime, on_progress=events.append
    )
    farm.scheduled()
    for status in states.RUN_STATES:
        if status != "COMPLETED":
            farm.state(status)
    farm.state("COMPLETED", "PASSED", 3.5)
    farm.artifacts(outputs_of(farm, tmp_path))
    farm.cleaned()
    found = farm.measure()
    assert (found.source, found.match, found.device.model) == ("device-farm", "digest", "SM-S921U")
    assert found.figures["device_decode_tokens_per_second"].value == 15.5
    waits = {event.subject for event in events if isinstance(event, Step) and event.name == "farm"}
    assert waits == set(states.RUN_STATES.values())
    package = zipfile.ZipFile(io.BytesIO(farm.kept[f"/put/{KINDS[1]}"]))
    assert {"phone/run.sh", "phone/model.gguf", "phone/llama-bench", "tests/test_phipack.py"} <= set(package.namelist())
    assert package.read("phone/model.gguf") == farm.request.bundle.file("model.gguf").read_bytes()
    assert b"shell sh /data/local/tmp/phipack/run.sh 512 128 3\n" in farm.kept[f"/put/{KINDS[2]}"]


@pytest.mark.parametrize("result", states.RESULTS)
def test_every_result_ends_in_figures_or_in_an_error_that_says_it(farm: Farm, tmp_path: Path, result: str) -> None:
    farm.scheduled()
    farm.state("COMPLETED", result, message="Device lost", resultCode="PARSING_FAILED")
    good = not states.RESULTS[result].fix
    farm.artifacts(outputs_of(farm, tmp_path) if good else None)
    farm.cleaned()
    if good:
        assert farm.measure().figures
        return
    with pytest.raises(DeviceError) as caught:
        farm.measure()
    assert states.RESULTS[result].meaning in caught.value.problem
    assert "the test package could not be parsed. Device lost (https://aws/run)" in caught.value.problem
    assert caught.value.fix == states.RESULTS[result].fix


def test_a_program_that_failed_says_so_itself(farm: Farm, tmp_path: Path) -> None:
    assert farm.request.runtime is not None
    (farm.request.runtime / "llama-bench").write_text(BROKEN, "utf-8")
    farm.scheduled()
    farm.state("COMPLETED", "FAILED")
    farm.artifacts(outputs_of(farm, tmp_path))
    farm.cleaned()
    with pytest.raises(DeviceError, match="llama-bench ended with 1 on the phone: error: failed to load model"):
        farm.measure()


def test_our_tables_are_those_of_the_service() -> None:
    model = Session().get_service_model("devicefarm")
    for shape, table in (
        ("ExecutionStatus", states.RUN_STATES),
        ("ExecutionResult", states.RESULTS),
        ("UploadStatus", states.UPLOAD_STATES),
        ("ExecutionResultCode", states.RESULT_CODES),
        ("DeviceAvailability", states.AVAILABILITY),
    ):
        assert set(model.shape_for(shape).enum) == set(table), shape


def test_minutes_that_are_used_up_stop_the_run(farm: Farm) -> None:
    farm.scheduled()
    farm.state("RUNNING", minutes=19.0)
    farm.state("RUNNING", minutes=20.5)
    farm.stopped()
    farm.cleaned()
    with pytest.raises(
        DeviceError, match="20 device minutes are used up; the run is stopped: https://aws/run"
    ) as caught:
        farm.measure()
    assert "PHIPACK_DEVICE_FARM_MINUTES" in caught.value.fix


def test_a_run_whose_minutes_are_not_reported_is_stopped_too(farm: Farm) -> None:
    farm.scheduled()
    for _ in range(30 * 60 // 15 + 2):  # 20 minutes and 10 for the device to be prepared
        farm.state("RUNNING", minutes=0.0)
    farm.stopped()
    farm.cleaned()
    with pytest.raises(DeviceError, match="are used up"):
        farm.measure()


def test_a_device_that_never_comes_is_not_waited_for(farm: Farm) -> None:
    farm.scheduled()
    for _ in range(3600 // 15 + 2):
        farm.state("PENDING_DEVICE", minutes=0.0)
    farm.stopped()
    farm.cleaned()
    with pytest.raises(DeviceUnreachableError, match="the run is still waiting for the device after an hour"):
        farm.measure()


def test_ctrl_c_stops_the_run_and_removes_the_uploads(farm: Farm) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    farm.scheduled()
    farm.state("RUNNING")
    farm.stopped()
    farm.cleaned()
    polls = farm.provider._ended
    farm.provider._ended = lambda run, report: polls(run, interrupted)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        farm.measure()


@pytest.mark.parametrize(
    ("status", "result", "problem"),
    [("LOST", "PENDING", "the unknown state 'LOST'"), ("COMPLETED", "MAYBE", "the unknown result 'MAYBE'")],
)
def test_a_state_that_nobody_documented_is_an_error(farm: Farm, status: str, result: str, problem: str) -> None:
    farm.scheduled()
    farm.state(status, result)
    if status == "COMPLETED":
        farm.artifacts(None)
    else:
        farm.stopped()
    farm.cleaned()
    with pytest.raises(DeviceError, match=problem):
        farm.measure()


def test_an_upload_that_is_refused(farm: Farm) -> None:
    farm.uploads(status="FAILED")
    farm.cleaned()
    with pytest.raises(DeviceError, match=r"refuses spec.yml \(APPIUM_PYTHON_TEST_SPEC\): no tests directory"):
        farm.measure()


def test_bytes_that_are_refused(farm: Farm) -> None:
    upload = {"arn": upload_arn(KINDS[0]), "status": "INITIALIZED", "url": f"{farm.url}/refused"}
    farm.stubber.add_response("create_upload", {"upload": upload})
    farm.cleaned(KINDS[:1])
    with pytest.raises(DeviceError, match=r"app\.apk can't be uploaded: HTTP 403"):
        farm.measure()


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"no archive", "can't be unpacked"), (None, "HTTP 404"), (b"PK\x05\x06" + bytes(18), "was cut short")],
)
def test_artifacts_that_can_not_be_read(farm: Farm, content: bytes | None, problem: str) -> None:
    farm.scheduled()
    farm.state("COMPLETED", "PASSED")
    farm.artifacts({})
    if content is None:
        del farm.kept["/artifact"]
    else:
        farm.kept["/artifact"] = content
    farm.cleaned()
    with pytest.raises(DeviceError, match=problem):
        farm.measure()


@pytest.mark.parametrize(
    "code",
    [
        "ArgumentException",
        "NotFoundException",
        "LimitExceededException",
        "ServiceAccountException",
        "AccessDeniedException",
    ],
)
def test_every_documented_error_says_what_to_do(farm: Farm, code: str) -> None:
    farm.stubber.add_client_error("create_upload", code, "it says why")
    with pytest.raises(DeviceError, match=f"Device Farm refuses create_upload: {code}: it says why") as caught:
        farm.measure()
    assert caught.value.fix != "read what AWS said; then run the same command again"


def test_devices_are_listed_over_all_pages(farm: Farm) -> None:
    expected = {"filters": [{"attribute": "PLATFORM", "operator": "EQUALS", "values": ["ANDROID"]}]}
    for page, availability in enumerate(states.AVAILABILITY):
        device = {
            "arn": f"{ARN}{page}",
            "name": "Samsung Galaxy S24",
            "modelId": "SM-S921U",
            "manufacturer": "Samsung",
            "os": "14",
            "memory": 8 << 30,
            "availability": availability,
        }
        last = page == len(states.AVAILABILITY) - 1
        answer: dict[str, Any] = {"devices": [device]} | ({} if last else {"nextToken": f"page {page}"})
        farm.stubber.add_response(
            "list_devices", answer, expected | ({"nextToken": f"page {page - 1}"} if page else {})
        )
    found = farm.provider.devices()
    assert [(one.address, one.state) for one in found] == [
        *(
            ("device-farm:0", "ready"),
            ("device-farm:1", "ready"),
            ("device-farm:2", "busy"),
            ("device-farm:3", "offline"),
        ),
    ]
    assert found[0].entry is not None
    assert (found[0].entry.model, found[0].entry.os_version, found[0].entry.ram_bytes) == ("SM-S921U", "14", 8 << 30)


def test_without_credentials_or_network() -> None:
    from botocore.config import Config

    options = Config(retries={"max_attempts": 0}, connect_timeout=1)
    away = Session().create_client(
        "devicefarm",
        region_name="us-west-2",
        endpoint_url="http://127.0.0.1:9",
        aws_access_key_id="x",
        aws_secret_access_key="x",
        config=options,
    )
    with pytest.raises(DeviceUnreachableError, match="does not answer get_run"):
        DeviceFarmClient(away).run(RUN)
    with pytest.raises(DeviceError, match="can't be asked for get_run"):
        DeviceFarmClient(away).run("x")


def test_settings_come_from_the_environment(tmp_path: Path) -> None:
    app = tmp_path / "app.apk"
    app.write_bytes(b"")
    known = {"PHIPACK_DEVICE_FARM_PROJECT": PROJECT, "PHIPACK_DEVICE_FARM_APP": str(app)}
    assert FarmSettings.from_environment(known) == FarmSettings(PROJECT, app, 30)
    assert FarmSettings.from_environment(known | {"PHIPACK_DEVICE_FARM_MINUTES": "5"}).minutes == 5
    for changes, problem in (
        ({"PHIPACK_DEVICE_FARM_PROJECT": ""}, "is not configured"),
        ({"PHIPACK_DEVICE_FARM_APP": ""}, "wants an app"),
        ({"PHIPACK_DEVICE_FARM_MINUTES": "0"}, "_MINUTES is '0'"),
        ({"PHIPACK_DEVICE_FARM_MINUTES": "²"}, "_MINUTES is"),
    ):
        with pytest.raises(SetupError, match=problem):
            FarmSettings.from_environment(known | changes)


def test_the_test_spec_is_yaml_of_the_documented_form(tmp_path: Path) -> None:
    import yaml

    spec = yaml.safe_load(spec_of(farm_folder(request_of(tmp_path))))
    assert (spec["version"], spec["android_test_host"]) == (0.1, "amazon_linux_2")
    assert list(spec["phases"]) == ["install", "pre_test", "test", "post_test"]
    assert all(isinstance(command, str) for phase in spec["phases"].values() for command in phase["commands"])
    assert spec["artifacts"] == ["$DEVICEFARM_LOG_DIR"]


def test_a_bundle_that_the_service_does_not_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = farm_folder(request_of(tmp_path))
    monkeypatch.setattr("builders.devices.device_farm.package.PACKAGE_BYTES_LIMIT", 100)
    with pytest.raises(MeasurementError, match="to upload; Device Farm takes") as caught:
        write_package(folder, tmp_path / "package.zip")
    assert isinstance(caught.value, PhipackError)
    assert not (tmp_path / "package.zip").exists()
