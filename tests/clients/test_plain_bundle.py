"""The sample client's bundles: what is here is not downloaded, and what was changed is refused."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from devtools.catalogs import Publisher
from devtools.servers import FolderHandler, RangeHandler, answering, serving
from tests.clients.plain_bundle import PIECE, check_manifest, fetch_bundle
from tests.clients.plain_trust import Json, Refused
from tests.support.folders import contents
from tests.support.plain_installs import Plain, noise


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
    (folder / "manifest.json").write_text("damaged")
    publisher.release("1.2.0", {"model.gguf": weights}, chunked=True)
    publisher.publish()
    assert contents(plain.fetch()[0])["model.gguf"] == weights


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
        assert plain.fetch()[0] == folder  # nothing is asked for again
    assert [one for one, _ in server.ranges] == (
        [asked[0], *asked[2:]] if chunked and damaged else asked if damaged else asked[2:]
    )
    assert (folder / "model.gguf").read_bytes() == weights
    assert list(plain.home.iterdir()) == [folder]


class WeakHandler(RangeHandler):
    """Its ETags are weak: they do not vouch for bytes, and If-Range may not have them (RFC 9110, 13.1.5)."""

    def send_header(self, keyword: str, value: str) -> None:
        super().send_header(keyword, f"W/{value}" if keyword == "ETag" else value)


def test_a_weak_etag_is_not_relied_on(publisher: Publisher, tmp_path: Path) -> None:
    weights = noise(5000)
    publisher.release("1.0.0", {"model.gguf": weights}, chunked=True)
    publisher.publish()
    server = Broken(hashlib.sha256(weights).hexdigest(), 100)
    with serving(publisher.place.root, server, kind=WeakHandler) as url:
        Plain(tmp_path / "plain", url, publisher.root).fetch()
    assert [tag for _, tag in server.ranges] == ["", "", ""]


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
    byte = 1 << 16 if chunked and what == "weights" else 0
    with pytest.raises(Refused, match=f"{digest} was changed at byte {byte}$"):
        plain.fetch()
    assert contents(before) == there
    assert [path for path in plain.home.iterdir() if path.suffix != ".part"] == [before]


SHA = "0" * 64
ENTRY = {"path": "a", "bytes": 2, "sha256": SHA}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"sha256": "0" * 63}, "no SHA-256"),
        ({"sha256": "../" + "0" * 61}, "no SHA-256"),
        ({"bytes": -1}, "not all of"),
        ({"chunks": [f"1 {SHA}"]}, "not all of"),
        ({"chunks": [f"2 {SHA}", f"1 {SHA}"]}, "not all of"),
        ({"chunks": [f"3 {SHA}", f"-1 {SHA}"]}, "chunk of another length"),
        ({"chunks": [f"{PIECE + 1} {SHA}"], "bytes": PIECE + 1}, "chunk of another length"),
    ],
)
def test_entries_that_do_not_add_up_are_refused(changes: Json, why: str) -> None:
    check_manifest({"schema": "phipack.bundle/1", "files": [ENTRY]})
    with pytest.raises(Refused, match=why):
        check_manifest({"schema": "phipack.bundle/1", "files": [ENTRY | changes]})
    with pytest.raises(Refused, match="another schema"):
        check_manifest({"schema": "phipack.bundle/2", "files": [ENTRY]})


def test_a_long_manifest_is_refused_unread(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="longer than 8 MiB"):
        fetch_bundle("http://127.0.0.1:9", {"bundle": f"sha256:{SHA}", "manifest_bytes": PIECE + 1}, tmp_path)


BAD_PATHS = [
    "/a",
    "../a",
    "a/../b",
    "a\\b",
    "c:a",
    "a\nb",
    "a.",
    "a /b",
    "./a",
    "a/",
    "con .txt",
    "\u202ea",
    "manifest.json/a",
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
