"""What phones and the tools that reach them print."""

from __future__ import annotations

import json
from pathlib import Path

from builders.devices.devicectl import PACKAGE, devices_of, runner_measurement
from builders.devices.farm_run.folder import farm_folder
from builders.devices.farm_run.outputs import farm_measurement
from builders.devices.provider import MeasureRequest
from devtools.bundles import make_bundle
from tests.fuzz.target import Target, as_text
from tests.support.farm_phone import request_of, run_on_phone


def devicectl_target(_: Path) -> Target:
    device = {
        "connectionProperties": {"pairingState": "paired", "tunnelState": "connected"},
        "deviceProperties": {"osVersionNumber": "18.1", "developerModeStatus": "enabled"},
        "hardwareProperties": {"platform": "iOS", "productType": "iPhone15,4", "udid": "00008130-001C"},
        "identifier": "1111",
    }
    return Target((json.dumps({"result": {"devices": [device, device]}}).encode(),), devices_of)


def ios_run_target(folder: Path) -> Target:
    bundle = make_bundle(folder / "bundle", {f"{PACKAGE}/weights.bin": b"x"})
    run = {
        "schema": "phipack.ios-run/1",
        "model": "iPhone15,4",
        "os": "iOS",
        "prompt_tokens": 512,
        "decode_tokens": 128,
        "prefill_seconds": [2.0],
        "decode_seconds": [10.0],
        "peak_memory_bytes": 1 << 30,
        "files": {"weights.bin": bundle.manifest.files[0].sha256},
    }
    request = MeasureRequest(bundle)
    line = f"PHIPACK_RUN {json.dumps(run)}\n".encode()
    return Target((line,), lambda raw: runner_measurement(as_text(raw), request).to_json())


def farm_outputs_target(folder: Path) -> Target:
    """One file with all outputs, parted by a line that no output has."""
    request = request_of(folder)
    sent = farm_folder(request)
    outputs = run_on_phone(sent, folder)
    names = sorted(outputs)
    part = b"\n=====\n"

    def parse(raw: bytes) -> object:
        return farm_measurement(dict(zip(names, raw.split(part), strict=False)), sent, request, "test-lab").to_json()

    return Target((part.join(outputs[name] for name in names),), parse)
