"""The sample client's deltas: they spare a download, and cost no more than time where they are damaged."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import zstandard

from devtools.catalogs import Publisher
from registry.bundle.folder import Bundle
from registry.publication import Order
from registry.transfer.delta_writer import Delta, make_delta
from tests.clients.plain_bundle import Held, frames_of, stepped, unpacked
from tests.clients.plain_client import Wish
from tests.clients.plain_trust import MIB, Json, Refused
from tests.support.plain_installs import Plain, noise

OLD, NEW = "sha256:" + "1" * 64, "sha256:" + "2" * 64
INDEX = {"schema": "phipack.delta/1", "from": OLD, "to": NEW, "frames": []}


def test_a_delta_and_what_is_left_of_the_old_bundle_spare_the_weights(
    publisher: Publisher, url: str, asked: list[str], tmp_path: Path
) -> None:
    before = noise(60_000)
    after = bytearray(before)
    after[::500] = bytes((one + 1) % 256 for one in before[::500])
    order = Order("phi", "production", deltas=True, new_catalog=True)
    plain = Plain(tmp_path / "plain", url, publisher.root)
    for version, content in (("1.0.0", before), ("1.1.0", bytes(after))):
        publisher.release(version, {"model.gguf": content}, chunked=True)
        publisher.publish(order=order)
        asked.clear()
        folder, _ = plain.fetch()
        weights = hashlib.sha256(content).hexdigest()
        assert any(weights in path for path in asked) == (version == "1.0.0")
    assert (folder / "model.gguf").read_bytes() == bytes(after)


def test_of_two_deltas_the_smaller_is_taken_and_none_that_does_not_pay(
    publisher: Publisher, url: str, asked: list[str], tmp_path: Path
) -> None:
    """1.0.0 is far from 1.2.0, 1.1.0 is near; 1.3.0 has the weights of 1.2.0, and deltas from both."""
    near = noise(20_000)
    weights = {
        "1.0.0": bytes((one + (at % 50 == 0)) % 256 for at, one in enumerate(near)),
        "1.1.0": near,
        "1.2.0": bytes((one + (at % 500 == 0)) % 256 for at, one in enumerate(near)),
    }
    weights["1.3.0"] = weights["1.2.0"]
    offered: dict[str, list[str]] = {}
    for version, percent in (("1.0.0", 100), ("1.1.0", 50), ("1.2.0", 50), ("1.3.0", 100)):
        files = {"model.gguf": weights[version], "version": version.encode()}
        publisher.release(version, files, chunked=True)
        publisher.publish(order=Order("phi", "production", percent * 100, deltas=version >= "1.2.0", new_catalog=True))
        document = json.loads(max(publisher.place.root.glob(f"targets/phi/releases/*.{version}.json")).read_bytes())
        deltas = sorted(document["cells"]["iphone-15"]["deltas"], key=lambda one: one["bytes"])
        offered[version] = [one["blob"][7:] for one in deltas]
    assert {version: len(blobs) for version, blobs in offered.items()} == {
        "1.0.0": 0,
        "1.1.0": 0,
        "1.2.0": 2,
        "1.3.0": 2,
    }
    plain = Plain(tmp_path / "plain", url, publisher.root)
    taken: dict[str, list[str]] = {}
    for version, blobs in offered.items():
        asked.clear()
        folder, _ = plain.fetch(Wish("phi", version=version))
        assert (folder / "model.gguf").read_bytes() == weights[version]
        taken[version] = [blob for blob in blobs if any(blob in path for path in asked)]
    assert taken == {"1.0.0": [], "1.1.0": [], "1.2.0": offered["1.2.0"][:1], "1.3.0": []}
    asked.clear()
    Plain(tmp_path / "new", url, publisher.root).fetch(Wish("phi", version="1.2.0"))
    assert not [path for path in asked if any(blob in path for blob in offered["1.2.0"])]


def test_steps_and_differences_are_added_as_the_page_says() -> None:
    assert stepped(bytes([250, 1, 2]), bytes([1, 2, 10, 5])) == bytes([4, 1, 7])
    assert stepped(bytes(258), bytes([255, 2, 0, 9])) == bytes(256) + b"\x09\x00"
    with pytest.raises(IndexError):
        stepped(bytes(3), bytes([4, 1]))
    with pytest.raises(ValueError, match="zip"):
        stepped(bytes(3), bytes([1, 1, 1]))


@pytest.mark.parametrize(
    ("magic", "changes", "longer"),
    [
        (b"phipack.delta/2\n", {}, 0),
        (b"phipack.delta/1\n", {"schema": "phipack.delta/2"}, 0),
        (b"phipack.delta/1\n", {"from": NEW}, 0),
        (b"phipack.delta/1\n", {"to": OLD}, 0),
        (b"phipack.delta/1\n", {}, 16 * MIB),
    ],
)
def test_another_delta_is_refused(tmp_path: Path, magic: bytes, changes: dict[str, str], longer: int) -> None:
    def write(magic: bytes, index: Json, spaces: int) -> Path:
        content = json.dumps(index).encode() + b" " * spaces
        (tmp_path / "delta").write_bytes(magic + len(content).to_bytes(8, "little") + content)
        return tmp_path / "delta"

    assert frames_of(write(b"phipack.delta/1\n", INDEX, 0), tmp_path, OLD, NEW) == {}
    with pytest.raises(Refused, match="delta"):
        frames_of(write(magic, INDEX | changes, longer), tmp_path, OLD, NEW)


def test_a_frame_says_how_long_its_content_is() -> None:
    assert unpacked(zstandard.compress(b"12345678"), 8) == b"12345678"
    with pytest.raises(Refused, match="longer"):
        unpacked(zstandard.compress(b"123456789"), 8)
    with pytest.raises(Refused, match="longer"):
        unpacked(zstandard.ZstdCompressor(write_content_size=False).compress(b"1"), 8)


def test_a_frame_s_base_lies_in_the_old_bundle(tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"abc")
    delta = tmp_path / "delta"
    delta.write_bytes(zstandard.compress(b""))
    frame = {"frame": delta.stat().st_size, "base": "outside", "at": 0}
    chunk = f"3 {hashlib.sha256(b'abc').hexdigest()}"
    held = Held(tmp_path / "home")
    held.frames = {chunk: (delta, 0, frame, tmp_path)}
    assert held.piece(3, chunk) == b"abc"
    (tmp_path / "old").mkdir()
    held.frames = {chunk: (delta, 0, frame | {"base": "../outside"}, tmp_path / "old")}
    assert held.piece(3, chunk) is None


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

    monkeypatch.setattr("registry.transfer.delta_writer.make_delta", spoilt)
    plain = Plain(tmp_path / "plain", url, publisher.root)
    before = noise(20_000)
    after = bytes((one + (at % 500 == 0)) % 256 for at, one in enumerate(before))
    for version, content in (("1.0.0", before), ("1.1.0", after)):
        publisher.release(version, {"model.gguf": content}, chunked=True)
        publisher.publish(order=Order("phi", "production", deltas=True, new_catalog=True))
        folder, _ = plain.fetch()
    assert made
    assert (folder / "model.gguf").read_bytes() == after
