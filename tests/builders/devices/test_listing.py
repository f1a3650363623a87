"""Which phones there are, and phones that can't be used."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import closing
from pathlib import Path

import pytest

from builders.devices.adb.client import call, require_own_server
from builders.devices.adb.listing import describe, list_phones, open_phone
from builders.devices.adb.sensors import parse_sensors
from builders.devices.providers import list_devices, measure_on
from targets.errors import DeviceError, DeviceUnreachableError, SetupError
from tests.support.phone.device import Phone
from tests.support.phone.server import adb, connected

# As a Samsung A52 prints it (android.stackexchange.com/questions/246774), shortened; in it, 0.0 is a missing sensor.
THERMAL = """IsStatusOverride: false
Thermal Status: 1
Cached temperatures:
	Temperature{mValue=50.0, mType=3, mName=SKIN, mStatus=0}
HAL Ready: true
Current temperatures from HAL:
	Temperature{mValue=45.6, mType=0, mName=AP, mStatus=0}
	Temperature{mValue=23.8, mType=2, mName=BAT, mStatus=0}
	Temperature{mValue=24.7, mType=3, mName=LRB, mStatus=0}
	Temperature{mValue=24.9, mType=3, mName=LRF, mStatus=0}
	Temperature{mValue=0.0, mType=2, mName=SUBBAT, mStatus=0}
Current cooling devices from HAL:
"""
BATTERY = (
    "Current Battery Service state:\n  status: 3\n  level: 42\n  scale: 100\n  voltage: 4100\n  temperature: 287\n"
)


def test_a_phone_is_described_and_matched_with_its_target(phone: Phone) -> None:
    found = next(one for one in list_phones() if one.address == f"adb:{phone.serial}")
    assert (found.state, found.problem) == ("ready", None)
    assert found.entry is not None
    assert (found.entry.model, found.entry.target, found.entry.abi) == ("SM-S921U", "galaxy-s24", "x86_64")
    assert found.entry.ram_bytes == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert found.free_bytes == pytest.approx(4e9, rel=1e-3)
    assert (found.battery_level, found.temperature_celsius) == (0.87, 28.0)
    phone.set_properties(
        ro__product__model="Nobody's", ro__soc__model="", ro__soc__manufacturer="", ro__hardware="qcom"
    )
    other = describe(open_phone(phone.serial)).entry
    assert (other.model, other.target, other.soc) == ("Nobody's", None, "qcom")


def test_a_phone_that_does_not_allow_this_computer(phone: Phone, adb_server: dict[str, str], tmp_path: Path) -> None:
    locked = Phone(tmp_path / "locked", authorized=False)
    locked.power_on()
    try:
        adb(adb_server, "connect", locked.serial)
        found = {one.address: one for one in list_phones()}
        assert found[f"adb:{phone.serial}"].state == "ready"
        assert found[f"adb:{locked.serial}"].state == "unauthorized"
        assert "accept 'Allow USB debugging?'" in str(found[f"adb:{locked.serial}"].fix)
        with pytest.raises(DeviceError, match="does not allow this computer to use it"):
            open_phone(locked.serial)
    finally:
        adb(adb_server, "disconnect", locked.serial)
        locked.power_off()


def test_one_of_several_phones_must_be_named(phone: Phone, adb_server: dict[str, str], tmp_path: Path) -> None:
    assert open_phone("").serial == phone.serial
    with connected(adb_server, tmp_path / "second") as second, pytest.raises(DeviceError) as caught:
        open_phone("")
    both = ", ".join(sorted((phone.serial, second.serial)))
    assert caught.value.problem == f"2 phones are connected: {both}"
    assert caught.value.fix.startswith("name one: --device adb:127.0.0.1:")


def test_a_phone_that_is_not_there(phone: Phone, adb_server: dict[str, str]) -> None:
    with pytest.raises(DeviceUnreachableError) as caught:
        open_phone("R3CW90ABCDE")
    assert caught.value.problem == f"R3CW90ABCDE: no such phone is connected; connected: {phone.serial}"
    adb(adb_server, "disconnect", phone.serial)
    with pytest.raises(DeviceUnreachableError, match="no phone is connected"):
        open_phone("")


def test_a_phone_that_does_not_answer(phone: Phone) -> None:
    phone.on("getprop", threading.Event().wait)
    with pytest.raises(DeviceUnreachableError, match="gave no answer within 1 s"):
        call("-s", phone.serial, "shell", "getprop", seconds=1)


def test_a_server_of_another_version_is_left_alone(adb_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []
    with closing(socket.create_server(("127.0.0.1", 0))) as other:

        def answer() -> None:
            peer, _ = other.accept()
            with peer:
                asked.append(peer.recv(100))
                peer.sendall(b"OKAY00040020")

        threading.Thread(target=answer, daemon=True).start()
        port = other.getsockname()[1]
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
        with pytest.raises(SetupError) as caught:
            require_own_server()
    assert asked == [b"000chost:version"]
    assert f"adb's server on port {port} has version 32, and " in caught.value.problem
    assert "adb kill-server once nobody needs it" in caught.value.fix


def test_a_port_that_another_program_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(taken.getsockname()[1]))
        threading.Thread(target=lambda: [peer.close() for peer in _accepted(taken)], daemon=True).start()
        with pytest.raises(DeviceError) as caught:
            require_own_server()
    assert "adb's server can't be started" in caught.value.problem
    assert "set ANDROID_ADB_SERVER_PORT to a free port" in caught.value.fix


def _accepted(listener: socket.socket) -> list[socket.socket]:
    found = []
    while True:
        try:
            peer, _ = listener.accept()
            peer.close()
        except OSError:
            return found


def test_without_adb_the_list_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    for name in ("ANDROID_HOME", "ANDROID_SDK_ROOT"):
        monkeypatch.delenv(name, raising=False)
    listing = next(one for one in list_devices() if one.scheme == "adb")
    assert listing.problem == "adb is not installed here, and no phone can be reached without it"
    assert "apt-get install adb" in str(listing.fix)


def test_an_address_of_an_unknown_kind() -> None:
    with pytest.raises(SetupError, match=r"'usb:1' is no device: the scheme 'usb' is unknown"):
        measure_on("usb:1", None)  # type: ignore[arg-type]


def test_temperatures_are_those_of_the_skin_else_of_the_battery() -> None:
    found = parse_sensors(THERMAL, BATTERY)
    assert (found.celsius, found.status, found.severity) == (24.9, 1, "light")
    assert (found.battery_level, found.discharging) == (0.42, True)
    no_skin = "\n".join(line for line in THERMAL.splitlines() if "mType=3" not in line)
    assert parse_sensors(no_skin, BATTERY).celsius == 23.8
    older = parse_sensors("Can't find service: thermalservice", BATTERY)  # before Android 10
    assert (older.celsius, older.status, older.severity) == (28.7, None, "not known")
    nothing = parse_sensors("", "")
    assert (nothing.celsius, nothing.battery_level, nothing.discharging) == (None, None, None)
