"""Firebase Test Lab through a `gcloud` of ours, which really runs the phone's script on the files that it is given."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from builders.devices.provider import MeasureRequest
from builders.devices.test_lab import EXIT_CODES, LabSettings, TestLabProvider
from builders.devices.tool_run import run_tool
from targets.errors import DeviceError, DeviceUnreachableError, SetupError
from tests.support.farm_phone import PROPERTIES, request_of

MODELS = [
    {
        "id": "e1q",
        "manufacturer": "Samsung",
        "name": "SM-S921U1",
        "form": "PHYSICAL",
        "supportedVersionIds": ["34", "35"],
    },
    {"id": "oriole", "manufacturer": "Google", "name": "Pixel 6", "form": "PHYSICAL", "supportedVersionIds": []},
    {"id": "Nexus6", "manufacturer": "Google", "name": "Nexus 6", "form": "VIRTUAL", "supportedVersionIds": ["26"]},
]

# What gcloud is asked for goes to calls.jsonl. `firebase test android run` runs the script in a folder for the phone.
GCLOUD = """#!{python}
import json, pathlib, shutil, subprocess, sys, os
home = pathlib.Path({home!r})
arguments = sys.argv[1:]
with (home / "calls.jsonl").open("a") as calls:
    calls.write(json.dumps(arguments) + "\\n")
if "models" in arguments:
    print((home / "models.json").read_text())
elif arguments[:2] == ["storage", "cp"]:
    if not (home / "phone/out").is_dir():
        sys.exit("ERROR: no URLs matched")
    for path in (home / "phone/out").iterdir():
        shutil.copy(path, arguments[3])
elif arguments[:2] == ["storage", "rm"]:
    shutil.rmtree(home / "phone", ignore_errors=True)
else:
    flags = dict(one.split("=", 1) for one in arguments if "=" in one)
    code = int((home / "exit").read_text())
    phone = home / "phone"
    if code in (0, 10):
        phone.mkdir()
        for pushed in flags["--other-files"].split(","):
            there, here = pushed.split("=")
            shutil.copy(here, phone / pathlib.PurePosixPath(there).name)
        shutil.copy(home / "answer.json", phone)
        values = dict(one.split("=", 1) for one in flags["--environment-variables"].split(","))
        script = phone / pathlib.PurePosixPath(values["phipackScript"]).name
        tools = dict(os.environ, PATH=str(home / "phone-bin") + ":" + os.environ["PATH"])
        subprocess.run(["sh", str(script), *values["phipackArguments"].split()], env=tools)
    print("More details are available at [ https://console.firebase.google.com/x ].", file=sys.stderr)
    sys.exit(code)
"""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], TestLabProvider]:
    """Return a function that makes a provider whose gcloud ends a test with an exit code."""
    from tests.support.benchmark_files import llama_bench

    home = tmp_path / "lab"
    for folder in (home, home / "bin", home / "phone-bin"):
        folder.mkdir()
    (home / "models.json").write_text(json.dumps(MODELS), "utf-8")
    (home / "answer.json").write_bytes(llama_bench())
    programs = {
        home / "bin/gcloud": GCLOUD.format(python=sys.executable, home=str(home)),
        home / "phone-bin/getprop": f"#!/bin/sh\ncat <<'E'\n{PROPERTIES}E\n",
        home / "phone-bin/dumpsys": "#!/bin/sh\necho '  temperature: 298'\n",
    }
    for path, text in programs.items():
        path.write_text(text, "utf-8")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{home / 'bin'}:{os.environ['PATH']}")
    for name in ("app.apk", "test.apk"):
        (tmp_path / name).write_bytes(b"apk")

    def made(code: int = 0) -> TestLabProvider:
        (home / "exit").write_text(str(code), "utf-8")
        return TestLabProvider(LabSettings(tmp_path / "app.apk", tmp_path / "test.apk", "gs://bucket", 20))

    return made


def calls(folder: Path) -> list[list[str]]:
    return [json.loads(line) for line in (folder / "lab" / "calls.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture
def request_(tmp_path: Path) -> MeasureRequest:
    return request_of(tmp_path)


def test_a_run_is_a_measurement_and_nothing_is_left(
    lab: Callable[[int], TestLabProvider], request_: MeasureRequest, tmp_path: Path
) -> None:
    found = lab(0).measure("e1q@34", request_)
    assert (found.source, found.match, found.bundle) == ("test-lab", "digest", request_.bundle.digest)
    assert found.figures["device_decode_tokens_per_second"].value == 15.5
    assert found.temperature_before_celsius == 29.8
    run, fetch, remove = calls(tmp_path)
    assert run[:5] == ["firebase", "test", "android", "run", "--type=instrumentation"]
    assert {"--device=model=e1q,version=34", "--timeout=20m", "--num-flaky-test-attempts=0"} <= set(run)
    assert "--directories-to-pull=/data/local/tmp/phipack/out" in run
    assert fetch[:2] == ["storage", "cp"]
    assert fetch[2].startswith("gs://bucket/phipack-")
    assert remove == ["storage", "rm", "--recursive", fetch[2].removesuffix("/**/out/*")]
    assert not (tmp_path / "lab" / "phone").exists()


@pytest.mark.parametrize("code", [*EXIT_CODES, 1, 2])
def test_every_exit_code_ends_in_an_error_that_says_it(
    lab: Callable[[int], TestLabProvider], request_: MeasureRequest, tmp_path: Path, code: int
) -> None:
    with pytest.raises(DeviceError) as caught:
        lab(code).measure("e1q", request_)
    happened, fix = EXIT_CODES.get(code, (f"gcloud ended with {code}", "install the Google Cloud CLI"))
    assert caught.value.problem.startswith(f"{happened}: More details are available at")
    assert caught.value.fix.startswith(fix)
    assert calls(tmp_path)[-1][:2] == ["storage", "rm"]


def test_the_exit_codes_are_those_of_the_tool() -> None:
    """Where gcloud is installed, its own list; it is not part of what is tested elsewhere."""
    listed = Path("/usr/lib/google-cloud-sdk/lib/googlecloudsdk/api_lib/firebase/test/exit_code.py")
    if not listed.is_file():
        assert set(EXIT_CODES) == {10, 15, 18, 19, 20}
        return
    found = {int(line.split("=")[1].split("#")[0]) for line in listed.read_text().splitlines() if " = " in line[:24]}
    assert found - {0} >= set(EXIT_CODES)


def test_physical_phones_are_listed(lab: Callable[[int], TestLabProvider], tmp_path: Path) -> None:
    found = lab(0).devices()
    assert [(one.address, one.state) for one in found] == [("test-lab:e1q", "ready"), ("test-lab:oriole", "offline")]
    assert found[0].entry is not None
    assert (found[0].entry.model, found[0].entry.os_version) == ("SM-S921U1", "API 34, 35")
    for text, problem in (("no list", "not JSON"), ("{}", "another form"), ("[1]", "another form")):
        (tmp_path / "lab" / "models.json").write_text(text, "utf-8")
        with pytest.raises(DeviceError, match=problem):
            lab(0).devices()


def test_what_is_no_device_or_no_tool(
    lab: Callable[[int], TestLabProvider], request_: MeasureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = lab(0)
    for name in ("", "a b", "e1q,version=1", "e1q@x", "--flag=1,"):
        with pytest.raises(DeviceError, match="is no device of Test Lab"):
            provider.measure(name, request_)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SetupError, match="gcloud is not installed"):
        provider.devices()


def test_settings_come_from_the_environment(tmp_path: Path) -> None:
    app = tmp_path / "app.apk"
    app.write_bytes(b"")
    known = {f"PHIPACK_TEST_LAB_{name}": str(app) for name in ("APP", "TEST")} | {"PHIPACK_TEST_LAB_BUCKET": "mine"}
    assert LabSettings.from_environment(known) == LabSettings(app, app, "gs://mine", 15)
    for changes, problem in (
        ({"PHIPACK_TEST_LAB_APP": ""}, "_APP is not set"),
        ({"PHIPACK_TEST_LAB_TEST": "absent.apk"}, "_TEST is absent.apk"),
        ({"PHIPACK_TEST_LAB_BUCKET": "a b"}, "_BUCKET is a b"),
        ({"PHIPACK_TEST_LAB_MINUTES": "46"}, "_MINUTES is '46'"),
    ):
        with pytest.raises(SetupError, match=problem):
            LabSettings.from_environment(known | changes)


def test_a_tool_that_takes_too_long_is_asked_to_cancel(tmp_path: Path) -> None:
    """As by Ctrl-C, at which gcloud cancels the test that it has started."""
    trap = f"trap 'echo cancelled > {tmp_path}/said; exit 19' INT; touch {tmp_path}/up; while :; do sleep 0.05; done"
    with pytest.raises(DeviceUnreachableError, match="took longer than 1 s"):
        run_tool(["sh", "-c", trap], 1.0)
    assert (tmp_path / "said").read_text() == "cancelled\n"


def test_ctrl_c_waits_for_the_tool_to_cancel(tmp_path: Path) -> None:
    said, up = tmp_path / "said", tmp_path / "up"
    trap = f"trap 'sleep 0.2; echo cancelled > {said}; exit 19' INT; touch {up}; while :; do sleep 0.05; done"

    def interrupt() -> None:
        while not (tmp_path / "up").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run_tool(["sh", "-c", trap], 30.0)
    thread.join()
    assert (tmp_path / "said").read_text() == "cancelled\n"
