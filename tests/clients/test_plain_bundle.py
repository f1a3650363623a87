"""The sample client's bundles: what is here is not downloaded, and what was changed is refused."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from registry.bundle import Bundle
from registry.delta_making import Delta, make_delta
from registry.publication import Order
from tests.clients.conftest import Plain, noise
from tests.clients.plain_bundle import PIECE, check_manifest
from tests.clients.plain_trust import Refused
from tests.registry.catalogs import Publisher
from tests.registry.conftest import contents
from tests.registry.servers import FolderHandler, RangeHandler, answering, serving


def blob_of(publisher: Publisher, digest: str) -> Path:
    """A published blob's file."""
    return publisher.place.root / "blobs" / "sha256" / digest[:2] / digest


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


def test_a_damaged_bundle_on_the_device_costs_no_more_than_a_download(
    publisher: Publisher, url: str, tmp_path: Path
) -> None:
    weights = noise(20_000)
    plain = Plain(tmp_path / "plain", url, publisher.root)
    for version in ("1.0.0", "1.1.0"):
        publisher.release(version, {"model.gguf": weights, "version": version.encode()}, chunked=True)
        publisher.publish()
        folder, _ = plain.fetch()
        assert (folder / "model.gguf").read_bytes() == weights
        (folder / "model.gguf").write_bytes(weights[:70_000] + bytes(10) + weights[70_010:600_000])


@dataclass
class Broken:
    """A server that gives `left` ranges of a blob and then refuses. `ranges`: (Range, If-Range) that were asked for."""

    digest: str
    left: int
    ranges: list[tuple[str, str]] = field(default_factory=list)

    def __call__(self, handler: SimpleHTTPRequestHandler) -> bool:
        if self.digest not in handler.path:
            return False
        self.ranges.append((handler.headers["Range"], handler.headers.get("If-Range", "")))
        self.left -= 1
        if self.left >= 0:
            return False
        answering(404, {})(handler)
        return True


@pytest.mark.parametrize(("chunked", "size"), [(True, 1 << 16), (False, PIECE)])
@pytest.mark.parametrize("damaged", [False, True])
def test_a_download_that_broke_off_goes_on(
    publisher: Publisher, tmp_path: Path, chunked: bool, size: int, damaged: bool
) -> None:
    weights = noise(3 * size // 32 + 10)
    publisher.release("1.0.0", {"model.gguf": weights}, chunked=chunked)
    publisher.publish()
    server = Broken(hashlib.sha256(weights).hexdigest(), 2)
    with serving(publisher.place.root, server, kind=RangeHandler) as url:
        plain = Plain(tmp_path / "plain", url, publisher.root)
        with pytest.raises(OSError, match="404"):
            plain.fetch()
        asked = [f"bytes={at}-{min(at + size, len(weights)) - 1}" for at in range(0, len(weights), size)]
        assert [one for one, _ in server.ranges] == asked[:3]
        tags = [tag for _, tag in server.ranges]
        assert not tags[0]
        assert tags[1].startswith('"')
        assert tags[1] == tags[2]
        part = next(plain.home.glob("*.part/files/model.gguf"))
        part.write_bytes((b"damaged" if damaged else weights[:7]) + part.read_bytes()[7:] + b"a piece of a piece")
        server.left = 100
        server.ranges.clear()
        if damaged and not chunked:  # which bytes are wrong nobody can say
            with pytest.raises(Refused, match="was changed"):
                plain.fetch()
            server.ranges.clear()
        folder, _ = plain.fetch()
    assert [one for one, _ in server.ranges] == (asked if damaged else asked[2:])
    assert (folder / "model.gguf").read_bytes() == weights
    assert list(plain.home.iterdir()) == [folder]


def test_a_redirect_is_followed(publisher: Publisher, tmp_path: Path) -> None:
    publisher.release("1.0.0")
    publisher.publish()

    def moved(handler: SimpleHTTPRequestHandler) -> bool:
        if not handler.path.startswith("/blobs/") or handler.path.endswith("?elsewhere"):
            return False
        answering(307, {"Location": handler.path + "?elsewhere", "Content-Length": "0"})(handler)
        return True

    with serving(publisher.place.root, moved, kind=RangeHandler) as url:
        folder, _ = Plain(tmp_path / "plain", url, publisher.root).fetch()
    assert (folder / "model.gguf").read_bytes() == b"1.0.0" * 1000


def test_what_another_release_s_download_left_goes(publisher: Publisher, tmp_path: Path) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    server = Broken(hashlib.sha256(b"1.0.0" * 1000).hexdigest(), 0)
    with serving(publisher.place.root, server) as url:
        plain = Plain(tmp_path / "plain", url, publisher.root)
        with pytest.raises(OSError, match="404"):
            plain.fetch()
        assert list(plain.home.glob("*.part"))
        publisher.release("1.1.0")
        publisher.publish()
        folder, _ = plain.fetch()
        assert list(plain.home.iterdir()) == [folder]


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


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("what", ["manifest", "weights"])
def test_a_changed_blob_is_refused_and_the_old_bundle_stays(
    publisher: Publisher, url: str, tmp_path: Path, what: str, chunked: bool
) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    plain = Plain(tmp_path / "plain", url, publisher.root)
    before, _ = plain.fetch()
    there = contents(before)
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
    assert contents(before) == there
    assert [path for path in plain.home.iterdir() if path.suffix != ".part"] == [before]


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
