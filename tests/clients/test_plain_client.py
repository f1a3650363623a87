"""The sample client gets what phipack's own gets, trusts what the publisher signs, and nothing else."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.bundle import Bundle
from registry.delta_making import Delta, make_delta
from registry.publication import Order
from registry.signing import create_keys, rotate
from targets.errors import FetchError
from targets.selection import Device as PhoneDevice
from tests.clients.plain_client import Device, Wish, check_manifest, install, numbers, place_of
from tests.clients.plain_trust import Refused, Trust
from tests.registry.catalogs import Phone, Publisher
from tests.registry.conftest import contents
from tests.registry.servers import FolderHandler, RangeHandler, answering, on, serving, times

GIB = 1 << 30
IPHONE = Device("iPhone15,4", "Apple A16", "iOS", "18.1", 6 * GIB)
FORBIDDEN = ("phipack", "registry", "targets", "builders", "tuf", "securesystemslib")


class Plain:
    """An installation of the sample client."""

    def __init__(self, folder: Path, url: str, root: Path) -> None:
        self.trust = Trust(url, folder / "trust", root.read_bytes())
        self.home = folder / "bundles"

    def fetch(self, wish: Wish | None = None, device: Device = IPHONE, name: str = "a phone") -> tuple[Path, str]:
        return install(self.trust, wish or Wish("phi"), device, name, self.home)


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    """Has keys, and nothing published."""
    publisher = Publisher(tmp_path / "publisher")
    publisher.place.root.mkdir(parents=True)
    return publisher


@pytest.fixture
def asked() -> list[str]:
    """The paths that were asked for."""
    return []


@pytest.fixture
def url(publisher: Publisher, asked: list[str]) -> Iterator[str]:
    """The catalog's URL."""
    with serving(publisher.place.root, asked=asked, kind=RangeHandler) as url:
        yield url


def noise(count: int) -> bytes:
    """Bytes that no compression shortens: `count` times 32."""
    return b"".join(hashlib.sha256(number.to_bytes(4)).digest() for number in range(count))


def blob_of(publisher: Publisher, digest: str) -> Path:
    """A published blob's file."""
    return publisher.place.root / "blobs" / "sha256" / digest[:2] / digest


def test_the_page_s_test_vector() -> None:
    assert place_of("phi-3-mini", "1.4.0", "0f2e") == 1556
    assert numbers("18") == numbers("18.0") < numbers("18.10")


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
    same = PhoneDevice(device.identifier, device.soc, device.memory, device.os, device.os_version)
    plain = Plain(tmp_path / "plain", url, publisher.root)
    bundle, release = phone.fetch(reference, same)
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
    same = PhoneDevice(device.identifier, device.soc, device.memory, device.os, device.os_version)
    with pytest.raises(FetchError, match="nothing is published for"):
        Phone(tmp_path / "phone", url, publisher.root).fetch(None, same)
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


def test_whom_a_first_rollout_has_not_reached_gets_nothing(publisher: Publisher, url: str, tmp_path: Path) -> None:
    publisher.release("1.0.0")
    publisher.publish(0.01)
    with pytest.raises(FetchError, match="is not among them"):
        Phone(tmp_path / "phone", url, publisher.root).fetch()
    with pytest.raises(Refused, match="not out for this installation"):
        Plain(tmp_path / "plain", url, publisher.root).fetch()


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "root"])
def test_keys_are_rotated_under_it(publisher: Publisher, url: str, tmp_path: Path, role: str) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    Plain(tmp_path / "plain", url, publisher.root).fetch()
    publisher.keys = rotate(publisher.keys, role)  # type: ignore[arg-type]
    publisher.release("1.1.0")
    publisher.publish()
    for name in ("plain", "new"):
        assert Plain(tmp_path / name, url, publisher.root).fetch()[1] == "1.1.0"


def test_a_rotation_under_way_is_met_by_a_second_try(publisher: Publisher, tmp_path: Path) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    before = (publisher.place.root / "metadata" / "timestamp.json").read_bytes()
    publisher.keys = rotate(publisher.keys, "timestamp")
    publisher.publish()
    late = times(1, on("/metadata/timestamp.json", answering(200, {"Content-Length": str(len(before))}, before)))
    with serving(publisher.place.root, late) as url:
        assert Plain(tmp_path / "plain", url, publisher.root).fetch()[1] == "1.0.0"


def test_a_delta_and_what_is_left_of_the_old_bundle_spare_the_weights(
    publisher: Publisher, url: str, asked: list[str], tmp_path: Path
) -> None:
    before = noise(60_000)
    after = bytearray(before)
    after[::500] = bytes((one + 1) % 256 for one in before[::500])
    order = Order("phi", "production", deltas=True)
    plain = Plain(tmp_path / "plain", url, publisher.root)
    for version, content in (("1.0.0", before), ("1.1.0", bytes(after))):
        publisher.release(version, {"model.gguf": content}, chunked=True)
        publisher.publish(order=order)
        asked.clear()
        folder, _ = plain.fetch()
        weights = hashlib.sha256(content).hexdigest()
        assert any(weights in path for path in asked) == (version == "1.0.0")
    assert (folder / "model.gguf").read_bytes() == bytes(after)


def test_a_damaged_delta_costs_no_more_than_time(
    publisher: Publisher, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def spoilt(old: Bundle, new: Bundle, out: Path) -> Delta | None:
        delta = make_delta(old, new, out)
        raw = out.read_bytes()
        out.write_bytes(raw[:-40] + bytes(40))
        made.append(out)
        return delta

    monkeypatch.setattr("registry.delta_making.make_delta", spoilt)
    plain = Plain(tmp_path / "plain", url, publisher.root)
    before = noise(20_000)
    after = bytes((one + (at % 500 == 0)) % 256 for at, one in enumerate(before))
    for version, content in (("1.0.0", before), ("1.1.0", after)):
        publisher.release(version, {"model.gguf": content}, chunked=True)
        publisher.publish(order=Order("phi", "production", deltas=True))
        folder, _ = plain.fetch()
    assert made
    assert (folder / "model.gguf").read_bytes() == after


@pytest.mark.parametrize("kind", [RangeHandler, FolderHandler], ids=["ranges", "no ranges"])
def test_chunks_of_the_old_bundle_are_not_downloaded(
    publisher: Publisher, tmp_path: Path, kind: type[FolderHandler]
) -> None:
    asked: list[str] = []
    before, size = noise(20_000), 1 << 16
    after = before[: 3 * size] + bytes(size) + before[4 * size :]
    with serving(publisher.place.root, asked=asked, kind=kind) as url:
        plain = Plain(tmp_path / "plain", url, publisher.root)
        for version, content in (("1.0.0", before), ("1.1.0", after)):
            publisher.release(version, {"model.gguf": content}, chunked=True)
            publisher.publish()
            asked.clear()
            folder, _ = plain.fetch()
            requests = sum(hashlib.sha256(content).hexdigest() in path for path in asked)
            assert requests == (1 if version == "1.1.0" or kind is FolderHandler else 10)
    assert (folder / "model.gguf").read_bytes() == after


def test_a_busy_server_is_asked_again(publisher: Publisher, tmp_path: Path) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    busy = times(2, on("/metadata/timestamp.json", answering(503, {"Retry-After": "0"})))
    with serving(publisher.place.root, busy) as url:
        assert Plain(tmp_path / "plain", url, publisher.root).fetch()[1] == "1.0.0"


def test_an_older_catalog_is_refused(publisher: Publisher, url: str, tmp_path: Path) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    timestamp = publisher.place.root / "metadata" / "timestamp.json"
    older = timestamp.read_bytes()
    publisher.release("1.1.0")
    publisher.publish()
    plain = Plain(tmp_path / "plain", url, publisher.root)
    plain.fetch()
    timestamp.write_bytes(older)
    with pytest.raises(Refused, match="older than what was trusted"):
        plain.fetch()


def test_an_expired_catalog_is_refused(tmp_path: Path) -> None:
    publisher = Publisher(tmp_path / "publisher")
    shutil.rmtree(publisher.folder / "keys")
    publisher.keys = create_keys(publisher.folder / "keys", {}, {"timestamp": 0})
    publisher.release("1.0.0")
    publisher.publish()
    with serving(publisher.place.root) as url, pytest.raises(Refused, match="timestamp expired"):
        Plain(tmp_path / "plain", url, publisher.root).fetch()


def test_another_root_is_refused(publisher: Publisher, url: str, tmp_path: Path) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    stranger = Publisher(tmp_path / "stranger")
    with pytest.raises(Refused, match="0 good signatures of 1"):
        Plain(tmp_path / "plain", url, stranger.root).fetch()


@pytest.mark.parametrize("folder", ["channels", "releases"])
def test_a_changed_document_is_refused(publisher: Publisher, url: str, tmp_path: Path, folder: str) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    changed = next(publisher.place.root.glob(f"targets/phi/{folder}/*.json"))
    changed.write_bytes(changed.read_bytes().replace(b"1.0.0", b"1.0.1"))
    with pytest.raises(Refused, match="was changed"):
        Plain(tmp_path / "plain", url, publisher.root).fetch()


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("what", ["manifest", "weights"])
def test_a_changed_blob_is_refused_and_the_old_bundle_stays(
    publisher: Publisher, url: str, tmp_path: Path, what: str, chunked: bool
) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    plain = Plain(tmp_path / "plain", url, publisher.root)
    plain.fetch()
    before = contents(plain.home)
    weights = noise(5000)
    bundle = publisher.release("1.1.0", {"model.gguf": weights}, chunked=chunked)
    publisher.publish()
    digest = bundle.digest.removeprefix("sha256:") if what == "manifest" else hashlib.sha256(weights).hexdigest()
    blob = blob_of(publisher, digest)
    raw = bytearray(blob.read_bytes())
    raw[len(raw) // 2] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(raw)
    with pytest.raises(Refused, match="was changed"):
        plain.fetch()
    assert contents(plain.home) == before


BAD_PATHS = [
    "/a",
    "../a",
    "a/../b",
    "a\\b",
    "c:a",
    "a\nb",
    "a.",
    "a /b",
    "Manifest.json",
    "a//b",
    "",
    "nul.txt",
    "COM¹",
]


@pytest.mark.parametrize(
    "paths", [*([path] for path in BAD_PATHS), ["a", "A"], ["é", "e\u0301"], ["a", "a/b"]], ids=ascii
)
def test_paths_that_lead_astray_are_refused(paths: list[str]) -> None:
    entries = [{"path": path, "bytes": 0, "sha256": "0" * 64} for path in paths]
    with pytest.raises(Refused, match="the manifest"):
        check_manifest({"schema": "phipack.bundle/1", "files": entries})


def test_it_needs_nothing_of_phipack() -> None:
    code = (
        "import sys, tests.clients.plain_client\n"
        f"assert not {set(FORBIDDEN)!r} & {{name.partition('.')[0] for name in sys.modules}}"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
