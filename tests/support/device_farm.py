"""Device Farm as a Stubber plays it, and the place of its uploads."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any

from botocore.stub import ANY, Stubber

from builders.devices.device_farm.provider import ARN, DeviceFarmProvider
from builders.devices.provider import MeasureRequest

PROJECT = "arn:aws:devicefarm:us-west-2:123456789012:project:11111111-2222-3333-4444-555555555555"
RUN = PROJECT.replace("project", "run")
KINDS = ("ANDROID_APP", "APPIUM_PYTHON_TEST_PACKAGE", "APPIUM_PYTHON_TEST_SPEC")


class Files(BaseHTTPRequestHandler):
    """Keeps what is put, and returns it; refuses what is called `refused`."""

    kept: dict[str, bytes]

    def do_PUT(self) -> None:
        self.kept[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(403 if "refused" in self.path else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        content = self.kept.get(self.path)
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@dataclass
class Farm:
    """The service: what it will answer, in order."""

    stubber: Stubber
    url: str
    kept: dict[str, bytes]
    provider: DeviceFarmProvider
    request: MeasureRequest

    def uploads(self, *, status: str = "SUCCEEDED", path: str = "put") -> None:
        """Answer the three uploads; the last one's state is `status`."""
        for kind in KINDS:
            upload = {"arn": upload_arn(kind), "status": "INITIALIZED", "url": f"{self.url}/{path}/{kind}"}
            expected = {"projectArn": PROJECT, "name": ANY, "type": kind, "contentType": "application/octet-stream"}
            self.stubber.add_response("create_upload", {"upload": upload}, expected)
            for step in ("PROCESSING", status if kind == KINDS[-1] else "SUCCEEDED"):
                answer = {"upload": {"arn": upload_arn(kind), "status": step, "message": "no tests directory"}}
                self.stubber.add_response("get_upload", answer, {"arn": upload_arn(kind)})

    def scheduled(self) -> None:
        """Answer the uploads and the run's start."""
        self.uploads()
        expected = {
            "projectArn": PROJECT,
            "appArn": upload_arn(KINDS[0]),
            "name": ANY,
            "deviceSelectionConfiguration": {
                "filters": [{"attribute": "ARN", "operator": "IN", "values": [ARN + "S24"]}],
                "maxDevices": 1,
            },
            "test": {
                "type": "APPIUM_PYTHON",
                "testPackageArn": upload_arn(KINDS[1]),
                "testSpecArn": upload_arn(KINDS[2]),
            },
            "executionConfiguration": {"jobTimeoutMinutes": 20, "videoCapture": False, "appPackagesCleanup": True},
        }
        self.stubber.add_response("schedule_run", {"run": {"arn": RUN, "status": "SCHEDULING"}}, expected)

    def state(self, status: str, result: str = "PENDING", minutes: float = 1.0, **more: Any) -> None:
        """Answer one question for the run."""
        run = {"arn": RUN, "status": status, "result": result, "webUrl": "https://aws/run"} | more
        answer = {"run": run | {"deviceMinutes": {"total": minutes, "metered": minutes, "unmetered": 0.0}}}
        self.stubber.add_response("get_run", answer, {"arn": RUN})

    def artifacts(self, outputs: dict[str, bytes] | None) -> None:
        """Answer the question for artifacts: an archive of outputs, on the second page; or none."""
        found = [{"type": "DEVICE_LOG", "url": f"{self.url}/log", "name": "Logcat"}]
        self.stubber.add_response(
            "list_artifacts", {"artifacts": found, "nextToken": "more"}, {"arn": RUN, "type": "FILE"}
        )
        if outputs is not None:
            archive = io.BytesIO()
            with zipfile.ZipFile(archive, "w") as opened:
                for name, content in outputs.items():
                    opened.writestr(f"Host_Machine_Files/$DEVICEFARM_LOG_DIR/phipack/{name}", content)
            self.kept["/artifact"] = archive.getvalue()
        found = [] if outputs is None else [{"type": "CUSTOMER_ARTIFACT", "url": f"{self.url}/artifact", "name": "x"}]
        expected = {"arn": RUN, "type": "FILE", "nextToken": "more"}
        self.stubber.add_response("list_artifacts", {"artifacts": found}, expected)

    def stopped(self) -> None:
        self.stubber.add_response("stop_run", {"run": {"arn": RUN}}, {"arn": RUN})

    def cleaned(self, kinds: tuple[str, ...] = KINDS) -> None:
        for kind in kinds:
            self.stubber.add_response("delete_upload", {}, {"arn": upload_arn(kind)})

    def measure(self) -> Any:
        """Measure, and check that the service was asked for everything that it was to answer."""
        try:
            return self.provider.measure("S24", self.request)
        finally:
            self.stubber.assert_no_pending_responses()


def upload_arn(kind: str) -> str:
    return f"{PROJECT.replace('project', 'upload')}/{KINDS.index(kind)}"
