"""The sample client gets the bundle that phipack's own client gets, and nothing where that has nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from devtools.catalogs import Phone, Publisher
from targets.errors import FetchError
from targets.selection import Device as PhoneDevice
from tests.clients.plain_client import Device, Wish, numbers, place_of
from tests.clients.plain_trust import Refused
from tests.support.folders import contents
from tests.support.plain_installs import GIB, IPHONE, Plain, noise

FORBIDDEN = ("phipack", "registry", "targets", "builders", "tuf", "securesystemslib")


def test_the_page_s_test_vector() -> None:
    assert place_of("phi-3-mini", "1.4.0", "0f2e") == 1556


def test_os_versions_are_compared_by_number() -> None:
    assert numbers("18") == numbers("18.0") < numbers("18.9") < numbers("18.10")


@pytest.mark.parametrize(
    ("reference", "wish"),
    [(None, Wish("phi")), ("phi:1.0.0", Wish("phi", version="1.0.0")), ("phi:production", Wish("phi"))],
)
@pytest.mark.parametrize(
    "device",
    [
        IPHONE,
        Device("iPhone99,1", "apple a16", "ios", "18.0", 5_800_000_000),  # by its SoC
        Device("iPhone99,1", "Apple A99", "iOS", "19.2", 12 * GIB),  # by its memory
        Device("Pixel 9", "Google Tensor G4", "Android", "15", 12 * GIB),
        Device("A phone", "Some SoC", "Android", "16", 12 * GIB),
    ],
    ids=lambda device: f"{device.identifier} {device.os_version} {device.memory // GIB}",
)
def test_it_gets_what_phipack_s_own_client_gets(
    publisher: Publisher, url: str, tmp_path: Path, reference: str | None, wish: Wish, device: Device
) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    files = {"a/model.gguf": noise(5000), "b.txt": b"", "c.txt": b"few"}
    publisher.release("1.1.0", files, chunked=True)
    publisher.publish()
    phone = Phone(tmp_path / "phone", url, publisher.root)
    plain = Plain(tmp_path / "plain", url, publisher.root)
    bundle, release = phone.fetch(reference, as_phipack_s(device))
    folder, plain_release = plain.fetch(wish, device)
    assert plain_release == release == (wish.version or "1.1.0")
    assert contents(folder) == contents(bundle.path)


@pytest.mark.parametrize(
    "device",
    [Device("iPhone15,4", "Apple A16", "iOS", "12.0", 6 * GIB), Device("A phone", "Some SoC", "Android", "16", GIB)],
    ids=["OS too old", "memory too small"],
)
def test_both_have_nothing_for_a_device(publisher: Publisher, url: str, tmp_path: Path, device: Device) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    with pytest.raises(FetchError, match="nothing is published for"):
        Phone(tmp_path / "phone", url, publisher.root).fetch(None, as_phipack_s(device))
    with pytest.raises(Refused, match="nothing is published for"):
        Plain(tmp_path / "plain", url, publisher.root).fetch(device=device)


def test_a_rollout_reaches_the_same_installations(publisher: Publisher, url: str, tmp_path: Path) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    publisher.release("1.1.0")
    publisher.publish(40)
    plain = Plain(tmp_path / "plain", url, publisher.root)
    names = [f"phone {number}" for number in range(12)]
    theirs = [Phone(tmp_path / name, url, publisher.root, name).fetch()[1] for name in names]
    assert [plain.fetch(name=name)[1] for name in names] == theirs
    assert set(theirs) == {"1.0.0", "1.1.0"}


def test_whom_no_rollout_has_reached_gets_nothing(publisher: Publisher, url: str, tmp_path: Path) -> None:
    """The cell is chosen by what its last stage says."""
    for version in ("1.0.0", "1.1.0"):
        publisher.release(version)
        publisher.publish(0.01)
    with pytest.raises(FetchError, match=r"1\.0\.0 of cell iphone-15 is being rolled out.* is not among the first"):
        Phone(tmp_path / "phone", url, publisher.root).fetch()
    with pytest.raises(Refused, match=r"iphone-15: 1\.0\.0 is not out for this installation"):
        Plain(tmp_path / "plain", url, publisher.root).fetch()


def test_whom_the_chosen_cell_has_not_reached_gets_no_other_cell(
    publisher: Publisher, url: str, tmp_path: Path
) -> None:
    """The iPhone 13 mini's bundle would run on an iPhone 15 too; out for all, it is not taken in its place."""
    publisher.release("1.0.0", cells={"iphone-13-mini": "iphone-13-mini"})
    publisher.publish()
    assert Plain(tmp_path / "before", url, publisher.root).fetch()[1] == "1.0.0"
    publisher.release("1.1.0", cells={"iphone-13-mini": "iphone-13-mini", "iphone-15": "iphone-15"})
    publisher.publish(0.01)
    with pytest.raises(FetchError, match="is not among the first"):
        Phone(tmp_path / "phone", url, publisher.root).fetch()
    with pytest.raises(Refused, match=r"iphone-15: 1\.1\.0 is not out"):
        Plain(tmp_path / "plain", url, publisher.root).fetch()


def test_of_several_cells_that_fit_both_take_the_same(publisher: Publisher, url: str, tmp_path: Path) -> None:
    """By memory: the largest, and of two as large the first by name; by SoC before memory."""
    targets = ("iphone-13-mini", "iphone-15", "iphone-15-pro", "iphone-16", "iphone-17-pro")
    cells = ("e", "d", "c", "b", "a")  # names of targets count, not theirs
    for number, (cell, target) in enumerate(zip(cells, targets, strict=True)):
        publisher.release(f"1.{number}.0", cells={cell: target})
        publisher.publish()
    plain = Plain(tmp_path / "plain", url, publisher.root)
    expected = {
        Device("iPhone99,1", "Apple A99", "iOS", "18.0", 4 * GIB): "1.0.0",
        Device("iPhone99,1", "Apple A99", "iOS", "18.0", int(6.75 * GIB)): "1.1.0",  # of 8 GiB, .85 are needed
        Device("iPhone99,1", "Apple A99", "iOS", "18.0", int(6.85 * GIB)): "1.2.0",
        Device("iPhone99,1", "Apple A99", "iOS", "18.0", 16 * GIB): "1.2.0",
        Device("iPhone99,1", "Apple A99", "iOS", "26.0", 16 * GIB): "1.4.0",
        Device("iPhone99,1", "Apple A16", "iOS", "26.0", 16 * GIB): "1.1.0",
        Device("iPhone17,3", "Apple A16", "iOS", "18.0", 6 * GIB): "1.3.0",
    }
    theirs = Phone(tmp_path / "phone", url, publisher.root)
    for device, release in expected.items():
        assert theirs.fetch(None, as_phipack_s(device))[1] == release
        assert plain.fetch(device=device)[1] == release


def test_a_format_that_the_app_does_not_run_is_left_out(publisher: Publisher, url: str, tmp_path: Path) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    plain = Plain(tmp_path / "plain", url, publisher.root)
    assert plain.fetch(Wish("phi", formats=("gguf",)))[1] == "1.0.0"
    with pytest.raises(Refused, match="nothing is published for"):
        plain.fetch(Wish("phi", formats=("coreml", "onnx")))


def test_of_several_cells_of_a_target_its_own_name_is_taken(publisher: Publisher, url: str, tmp_path: Path) -> None:
    publisher.release("1.0.0", cells={"a": "iphone-15", "b": "iphone-15"})
    publisher.publish()
    plain = Plain(tmp_path / "plain", url, publisher.root)
    with pytest.raises(Refused, match="target iphone-15 has several cells"):
        plain.fetch()
    publisher.release("1.1.0", cells={"iphone-15": "iphone-15"})
    publisher.publish()
    assert plain.fetch()[1] == "1.1.0"


def test_it_needs_nothing_of_phipack() -> None:
    code = (
        "import sys, tests.clients.plain_client\n"
        f"assert not {set(FORBIDDEN)!r} & {{name.partition('.')[0] for name in sys.modules}}"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def as_phipack_s(device: Device) -> PhoneDevice:
    """The same device, for phipack's own client."""
    return PhoneDevice(device.identifier, device.soc, device.memory, device.os, device.os_version)
