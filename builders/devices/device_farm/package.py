"""What is uploaded to Device Farm: a test package with the folder for the phone, and the test spec that runs it.

The custom test environment gives the test host's commands `adb` and the phone, which is all that is needed: no Appium
test is run. The package has the layout that the service asks of an Appium Python package (`tests/`, `requirements.txt`,
`wheelhouse/`).

Source: AWS Device Farm Developer Guide, "Test spec reference and syntax", "Common environment variables".
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from builders.devices.farm_run.folder import OUT, SCRIPT, FarmFolder, script
from targets.errors import MeasurementError

PACKAGE_BYTES_LIMIT = 4_000_000_000  # "Limits in AWS Device Farm": an uploaded file has at most 4 GB
_PHONE = "/data/local/tmp/phipack"
_TEST = b"def test_nothing():\n    '''The test spec measures; this file is what a package must have.'''\n"

_SPEC = f"""version: 0.1
android_test_host: amazon_linux_2
phases:
  install:
    commands: []
  pre_test:
    commands:
      - adb -s $DEVICEFARM_DEVICE_UDID shell rm -rf {_PHONE}
      - adb -s $DEVICEFARM_DEVICE_UDID push $DEVICEFARM_TEST_PACKAGE_PATH/phone {_PHONE} > /dev/null
  test:
    commands:
      - adb -s $DEVICEFARM_DEVICE_UDID shell sh {_PHONE}/{SCRIPT} ARGUMENTS
  post_test:
    commands:
      - adb -s $DEVICEFARM_DEVICE_UDID pull {_PHONE}/{OUT} $DEVICEFARM_LOG_DIR/phipack || true
      - adb -s $DEVICEFARM_DEVICE_UDID shell rm -rf {_PHONE}
artifacts:
  - $DEVICEFARM_LOG_DIR
"""


def write_package(folder: FarmFolder, path: Path) -> None:
    """Write the test package. Raises `MeasurementError` where it is larger than the service takes."""
    if folder.total_bytes > PACKAGE_BYTES_LIMIT:
        raise MeasurementError(
            f"{folder.total_bytes / 1e9:.2f} GB to upload; Device Farm takes {PACKAGE_BYTES_LIMIT / 1e9:.0f} GB",
            fix="measure a recipe with fewer bits there, or this one on a phone of your own",
        )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("requirements.txt", b"")
        archive.writestr("tests/test_phipack.py", _TEST)
        archive.writestr("wheelhouse/README", b"no wheels are needed\n")
        archive.writestr(f"phone/{SCRIPT}", script())
        for name, source in folder.files.items():
            archive.write(source, f"phone/{name}")


def test_spec(folder: FarmFolder) -> bytes:
    """Return the test spec."""
    return _SPEC.replace("ARGUMENTS", folder.arguments).encode()
