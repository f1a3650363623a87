"""Device Farm's calls, with its errors wrapped once. The one place of the builders that knows boto3."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from targets.errors import DeviceError, DeviceUnreachableError, SetupError
from targets.installation import install_command

REGION = "us-west-2"  # the only one that has the service
_FIXES = {
    "ArgumentException": "check the ARN of the project in PHIPACK_DEVICE_FARM_PROJECT, and the device's name",
    "NotFoundException": "check the ARN of the project in PHIPACK_DEVICE_FARM_PROJECT: aws devicefarm list-projects",
    "LimitExceededException": "wait for runs of the account to end, or ask AWS for a higher limit",
    "ServiceAccountException": "check the account's permissions for devicefarm:*",
    "IdempotencyException": "run the same command again",
    "AccessDeniedException": "allow devicefarm:* on the project to these credentials",
}


@dataclass(frozen=True)
class RunState:
    """A run as the service reports it. `minutes`: of device time so far."""

    status: str
    result: str
    message: str
    code: str
    url: str
    minutes: float


@dataclass(frozen=True)
class Upload:
    """An upload as the service reports it. `url`: where the bytes go; empty once they are there."""

    arn: str
    status: str
    message: str
    url: str


def open_client() -> Any:
    """Return boto3's client, with the user's own credentials. Raises `SetupError` without boto3."""
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise SetupError("Device Farm needs boto3", fix=install_command("registry")) from error
    settings = Config(connect_timeout=10, read_timeout=60, retries={"mode": "standard", "max_attempts": 5})
    return boto3.client("devicefarm", region_name=REGION, config=settings)


class DeviceFarmClient:
    """The calls that a measurement needs.

    Every method raises `DeviceError` where the service refuses, `DeviceUnreachableError` where it does not answer, and
    `SetupError` without credentials.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def android_devices(self) -> Iterator[dict[str, Any]]:
        """Yield the public fleet's Android devices, as the service describes them."""
        token: dict[str, str] = {}
        while True:
            page = self._call("list_devices", filters=[_filter("PLATFORM", "EQUALS", "ANDROID")], **token)
            yield from page.get("devices", [])
            if not (more := page.get("nextToken")):
                return
            token = {"nextToken": more}

    def create_upload(self, project: str, name: str, kind: str) -> Upload:
        """Announce an upload, and return where its bytes go."""
        arguments = {"projectArn": project, "name": name, "type": kind, "contentType": "application/octet-stream"}
        return _upload(self._call("create_upload", **arguments))

    def upload(self, arn: str) -> Upload:
        """Return an upload's state."""
        return _upload(self._call("get_upload", arn=arn))

    def delete_upload(self, arn: str) -> None:
        """Remove an upload."""
        self._call("delete_upload", arn=arn)

    def schedule(self, project: str, device: str, uploads: dict[str, str], minutes: int, name: str) -> str:
        """Start a run on one device of this ARN, and return the run's ARN. `uploads`: ARNs by their kind."""
        run = self._call(
            "schedule_run",
            projectArn=project,
            appArn=uploads["ANDROID_APP"],
            name=name,
            deviceSelectionConfiguration={"filters": [_filter("ARN", "IN", device)], "maxDevices": 1},
            test={
                "type": "APPIUM_PYTHON",
                "testPackageArn": uploads["APPIUM_PYTHON_TEST_PACKAGE"],
                "testSpecArn": uploads["APPIUM_PYTHON_TEST_SPEC"],
            },
            executionConfiguration={"jobTimeoutMinutes": minutes, "videoCapture": False, "appPackagesCleanup": True},
        )
        return str(run["run"]["arn"])

    def run(self, arn: str) -> RunState:
        """Return a run's state."""
        run = self._call("get_run", arn=arn)["run"]
        return RunState(
            status=str(run.get("status", "")),
            result=str(run.get("result", "")),
            message=str(run.get("message", "")),
            code=str(run.get("resultCode", "")),
            url=str(run.get("webUrl", "")),
            minutes=float(run.get("deviceMinutes", {}).get("total", 0.0)),
        )

    def stop(self, arn: str) -> None:
        """Stop a run. One that has ended stays as it is."""
        self._call("stop_run", arn=arn)

    def artifact_urls(self, run: str) -> list[str]:
        """Return the addresses of what the run wrote to its log folder, each an archive."""
        found: list[str] = []
        token: dict[str, str] = {}
        while True:
            page = self._call("list_artifacts", arn=run, type="FILE", **token)
            found += [str(one["url"]) for one in page.get("artifacts", []) if one.get("type") == "CUSTOMER_ARTIFACT"]
            if not (more := page.get("nextToken")):
                return found
            token = {"nextToken": more}

    def _call(self, operation: str, /, **arguments: Any) -> Any:
        from botocore import exceptions

        try:
            return getattr(self._client, operation)(**arguments)
        except exceptions.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            said = str(error.response.get("Error", {}).get("Message", ""))[:500]
            fix = _FIXES.get(code, "read what AWS said; then run the same command again")
            raise DeviceError(f"Device Farm refuses {operation}: {code}: {said}", fix=fix) from error
        except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as error:
            raise SetupError(f"no AWS credentials: {error}", fix="run aws configure, or set AWS_PROFILE") from error
        except exceptions.ParamValidationError as error:
            raise DeviceError(
                f"Device Farm can't be asked for {operation}: {str(error)[:500]}",
                fix="check the project's ARN and the device",
            ) from error
        except (exceptions.BotoCoreError, OSError) as error:
            raise DeviceUnreachableError(
                f"Device Farm does not answer {operation}: {error}", fix="try again"
            ) from error


def _filter(attribute: str, operator: str, value: str) -> dict[str, Any]:
    return {"attribute": attribute, "operator": operator, "values": [value]}


def _upload(response: Any) -> Upload:
    upload = response["upload"]
    return Upload(
        arn=str(upload["arn"]),
        status=str(upload.get("status", "")),
        message=str(upload.get("message", "") or upload.get("metadata", "")),
        url=str(upload.get("url", "")),
    )
