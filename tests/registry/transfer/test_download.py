"""Downloads over real HTTP: ranges in parallel, reuse, and servers that fail in between."""

from __future__ import annotations

import os
import shutil
import threading
from email.utils import formatdate
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from devtools.servers import FolderHandler, RangeHandler, after, answering, on, serving, times
from registry.bundle.chunks import CHUNK_BYTES_LIMIT
from registry.bundle.folder import Bundle
from registry.bundle.manifest import MANIFEST_NAME
from registry.fetch import fetch
from registry.transfer.bundle_download import DownloadOptions
from registry.transfer.http import HttpClient
from targets.errors import FetchError
from tests.support.downloads import TENSORS, WEIGHTS, fetching, make_chunked
from tests.support.folders import contents, flip

pytestmark = pytest.mark.usefixtures("local_and_impatient")


@pytest.fixture(params=[RangeHandler, FolderHandler], ids=["ranges", "no ranges"])
def kind(request: pytest.FixtureRequest) -> type[FolderHandler]:
    kind: type[FolderHandler] = request.param
    return kind


@pytest.mark.parametrize("chunked", [True, False])
def test_a_large_file_is_fetched(tmp_path: Path, out: Path, kind: type[FolderHandler], chunked: bool) -> None:
    bundle = make_chunked(tmp_path / "bundle", TENSORS, chunked=chunked)
    asked: list[str] = []
    with serving(bundle.path, asked=asked, kind=kind) as url:
        statistics = fetching(url, out)
    assert contents(out) == contents(bundle.path)
    assert statistics.reused_bytes == statistics.resumed_bytes == 0
    if kind is RangeHandler:
        assert statistics.downloaded_bytes == bundle.manifest.total_bytes
        assert 3 + 45_000_000 // CHUNK_BYTES_LIMIT <= len(asked) <= 16


def test_other_text_with_the_same_tensors_costs_kilobytes(large: Bundle, tmp_path: Path, out: Path) -> None:
    newer = make_chunked(tmp_path / "newer", TENSORS, b'{"stop": "<|end|>"}' * 100)
    fetch(str(large.path), out)
    with serving(newer.path, kind=RangeHandler) as url:
        statistics = fetching(url, out, replace=True)
    assert contents(out) == contents(newer.path)
    assert statistics.downloaded_bytes < 20_000
    assert statistics.reused_bytes == sum(map(len, TENSORS))


def test_a_tenth_of_the_tensors_costs_little_more_than_a_tenth(large: Bundle, tmp_path: Path, out: Path) -> None:
    tensors = list(TENSORS)
    for index in range(0, len(tensors), 10):
        tensors[index] = tensors[index][::-1]
    changed = sum(map(len, tensors[::10]))
    newer = make_chunked(tmp_path / "newer", [b"a new one, first", *tensors], b"{  }")
    with serving(newer.path, kind=RangeHandler) as url:
        statistics = fetching(url, out, reuse=[large.path])
    assert contents(out) == contents(newer.path)
    assert changed < statistics.downloaded_bytes < changed + 0.01 * newer.manifest.total_bytes


def test_what_is_reused_is_verified(large: Bundle, tmp_path: Path, out: Path) -> None:
    old = make_chunked(tmp_path / "old", TENSORS, b"{ }")
    flip(old.file(WEIGHTS), 10_000_000)
    old.file("tokenizer.json").unlink()
    with serving(large.path, kind=RangeHandler) as url:
        statistics = fetching(url, out, reuse=[old.path])
    assert contents(out) == contents(large.path)
    assert 0 < statistics.downloaded_bytes < 2 * CHUNK_BYTES_LIMIT


def test_a_damaged_file_without_chunks_is_fetched_again(tmp_path: Path, out: Path) -> None:
    bundle = make_chunked(tmp_path / "bundle", TENSORS[:4], chunked=False)
    fetch(str(bundle.path), out)
    flip(out / WEIGHTS, 4000)
    with serving(bundle.path, kind=RangeHandler) as url:
        fetching(url, out, replace=True)


def test_what_to_reuse_must_be_a_bundle(large: Bundle, tmp_path: Path, out: Path) -> None:
    with serving(large.path) as url, pytest.raises(FetchError, match="nothing can be reused"):
        fetch(url, out, DownloadOptions(reuse=[tmp_path]))


# --- what breaks off


FAULTS = {
    "500": answering(500, {"Content-Length": "0"}),
    "503, come back soon": answering(503, {"Content-Length": "0", "Retry-After": "0"}),
    "429, come back at": answering(429, {"Content-Length": "0", "Retry-After": formatdate(0, usegmt=True)}),
    "other bytes": answering(206, {"Content-Range": "bytes 1-5/*", "Content-Length": "5"}, b"12345"),
    "no answer": lambda handler: setattr(handler, "close_connection", True),
    "no HTTP": lambda handler: handler.wfile.write(b"hello\n"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_passes_is_lived_through(large: Bundle, out: Path, name: str) -> None:
    with serving(large.path, times(2, on(f"/{WEIGHTS}", FAULTS[name])), kind=RangeHandler) as url:
        fetching(url, out)
    assert contents(out) == contents(large.path)


def test_a_body_cut_short_is_continued_where_it_ended(large: Bundle, out: Path) -> None:
    class Cutting(RangeHandler):
        cut = 0

        def serve(self) -> None:
            asked = self.headers.get("Range")
            if asked and Cutting.cut < 2:
                Cutting.cut += 1
                begin = int(asked.removeprefix("bytes=").split("-")[0])
                size = large.file(WEIGHTS).stat().st_size
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {asked.removeprefix('bytes=')}/{size}")
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(large.file(WEIGHTS).read_bytes()[begin : begin + 3_000_000])
                return
            super().serve()

    with serving(large.path, kind=Cutting) as url:
        statistics = fetching(url, out)
    assert statistics.downloaded_bytes == large.manifest.total_bytes  # nothing twice


def test_a_server_that_asks_for_time_is_given_it(large: Bundle, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(HttpClient, "wait", lambda _, seconds: waits.append(seconds) or False)
    slow = answering(503, {"Content-Length": "0", "Retry-After": "7"})
    with serving(large.path, times(1, on(f"/{MANIFEST_NAME}", slow)), kind=RangeHandler) as url:
        fetching(url, out)
    assert waits == [7]


def test_a_file_that_changes_between_two_ranges_is_noticed(tmp_path: Path, out: Path) -> None:
    bundle = make_chunked(tmp_path / "bundle", TENSORS)
    changed = tmp_path / "changed"
    shutil.copy(bundle.file(WEIGHTS), changed)
    flip(changed, 40_000_000)
    alone = threading.Lock()

    def change(handler: SimpleHTTPRequestHandler) -> bool:
        with alone:
            if changed.exists():
                changed.replace(bundle.file(WEIGHTS))
        return False

    with (
        serving(bundle.path, after(20_000_000, change), kind=RangeHandler) as url,
        pytest.raises(FetchError, match="not the ones"),
    ):
        fetch(url, out)
    flip(bundle.file(WEIGHTS), 40_000_000)
    with serving(bundle.path, kind=RangeHandler) as url:
        assert fetching(url, out).resumed_bytes > 10_000_000


def test_a_file_that_is_put_there_again_unchanged_is_fetched(tmp_path: Path, out: Path) -> None:
    """The range that was refused for its ETag is asked for again without it."""
    bundle = make_chunked(tmp_path / "bundle", TENSORS)
    touched = threading.Event()

    def touch(handler: SimpleHTTPRequestHandler) -> bool:
        if "If-Range" in handler.headers and not touched.is_set():
            touched.set()
            os.utime(bundle.file(WEIGHTS), (1, 1))
        return False

    with serving(bundle.path, touch, kind=RangeHandler) as url:
        fetching(url, out)
    assert touched.is_set()
