"""What `phipack devices ls` offers where no farm is configured, which is nearly everywhere."""

from __future__ import annotations

import os

import pytest

from builders.devices import devicectl, test_lab
from builders.devices.device_farm import provider as device_farm
from builders.devices.farms import FARMS
from targets.errors import SetupError


def test_schemes_are_those_that_addresses_start_with() -> None:
    assert set(FARMS) == {devicectl.SCHEME, device_farm.SCHEME, test_lab.SCHEME}
    assert FARMS[devicectl.SCHEME]().scheme == devicectl.SCHEME


@pytest.mark.parametrize("scheme", FARMS)
def test_what_is_not_configured_says_how(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("PHIPACK_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SetupError) as caught:
        FARMS[scheme]().devices()
    assert caught.value.fix.startswith(("set PHIPACK_", "install Xcode"))
