"""Fetch with delta files over real HTTP: less is downloaded, and a bad delta costs no more than itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from devtools.servers import Fault, FolderHandler, RangeHandler, after, answering, on, serving
from registry.bundle.folder import open_bundle, verify
from registry.files.digests import digest_of_file
from registry.transfer import http as http_requests
from registry.transfer.bundle_download import DownloadOptions, download_bundle
from registry.transfer.delta_writer import make_delta
from registry.transfer.download import TransferStatistics
from registry.transfer.remote import HttpSource, RemoteDelta
from targets.errors import FetchError
from tests.support.chunked import TENSORS, bundle_of, nudged
from tests.support.folders import contents, flip, names_in

_LARGE = [tensor * 20 for tensor in TENSORS]  # 2 MB
_DELTA = "/delta"
_FAILING = answering(500, {"Content-Length": "0"})


@pytest.fixture(autouse=True)
def _local_and_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(http_requests, "RETRY_WAITS_SECONDS", (0.01,))


class Site:
    """A server's folder with a new bundle and the delta to it, and the old bundle at `out`."""

    def __init__(self, folder: Path, before: Sequence[bytes] = _LARGE, after: Sequence[bytes] | None = None) -> None:
        self.out = folder / "place" / "out"
        self.old = bundle_of(self.out, {"weights": [b"head", *before], "tokenizer.json": [b"{}"]})
        self.spare = folder / "spare"
        shutil.copytree(self.out, self.spare)
        self.served = folder / "served"
        pieces = [b"another head", *(after or map(nudged, before))]
        self.new = bundle_of(self.served, {"weights": pieces, "tokenizer.json": [b"{}"]})
        self.delta = self.served / "delta"
        assert make_delta(self.old, self.new, self.delta) is not None
        self.offer = RemoteDelta(self.old.digest, digest_of_file(self.delta), self.delta.stat().st_size, "")
        self.asked: list[str] = []

    def fetch(
        self,
        *offers: RemoteDelta,
        fault: Fault | None = None,
        options: DownloadOptions | None = None,
        kind: type[FolderHandler] = RangeHandler,
    ) -> TransferStatistics:
        with serving(self.served, fault, self.asked, kind) as url:
            deltas = tuple(replace(offer, url=url + _DELTA) for offer in offers)
            remote = HttpSource(urlsplit(url), self.new.manifest, deltas)
            _, statistics = download_bundle(remote, self.out, options or DownloadOptions(replace=True))
        verify(open_bundle(self.out))
        assert contents(self.out) == {name: raw for name, raw in contents(self.served).items() if name != "delta"}
        assert names_in(self.out.parent) == ["out"]
        return statistics


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.mark.parametrize("kind", [RangeHandler, FolderHandler], ids=["ranges", "no ranges"])
def test_a_delta_takes_the_place_of_most_of_the_download(site: Site, kind: type[FolderHandler]) -> None:
    statistics = site.fetch(site.offer, kind=kind)
    assert statistics.delta_bytes == sum(map(len, _LARGE))
    if kind is RangeHandler:
        assert site.offer.bytes < statistics.downloaded_bytes < site.offer.bytes + 100
        assert statistics.downloaded_bytes < 0.15 * site.new.manifest.total_bytes


def test_a_delta_applies_to_any_bundle_that_may_be_reused(site: Site) -> None:
    shutil.rmtree(site.out)
    statistics = site.fetch(site.offer, options=DownloadOptions(reuse=[site.spare]))
    assert statistics.delta_bytes == sum(map(len, _LARGE))


def test_the_smallest_of_those_that_apply_is_taken(site: Site) -> None:
    larger = replace(site.offer, blob="sha256:" + "1" * 64, bytes=site.offer.bytes + 1)
    elsewhere = replace(site.offer, from_=site.new.digest, bytes=1)
    assert site.fetch(larger, elsewhere, site.offer).delta_bytes


@pytest.mark.parametrize("why", ["is for another bundle", "is larger than the download", "is not needed"])
def test_a_delta_that_saves_nothing_is_not_asked_for(site: Site, why: str) -> None:
    offer = {
        "is for another bundle": replace(site.offer, from_=site.new.digest),
        "is larger than the download": replace(site.offer, bytes=site.new.manifest.total_bytes),
        "is not needed": site.offer,
    }[why]
    options = DownloadOptions(replace=True)
    if why == "is not needed":
        copy = bundle_of(site.spare.parent / "other", {"elsewhere": [site.new.file("weights").read_bytes()]})
        options = DownloadOptions(replace=True, reuse=[copy.path])
    assert site.fetch(offer, options=options).delta_bytes == 0
    assert _DELTA not in site.asked


@pytest.mark.parametrize(
    "fault",
    [
        answering(404, {"Content-Length": "0"}),
        _FAILING,
        answering(200, {"Content-Length": "3"}, b"abc"),
        answering(302, {"Location": "file:///etc/passwd", "Content-Length": "0"}),
    ],
    ids=["404", "500", "another file", "a redirect to nowhere"],
)
def test_without_its_delta_a_fetch_downloads_the_chunks(site: Site, fault: object) -> None:
    statistics = site.fetch(site.offer, fault=on(_DELTA, fault))  # type: ignore[arg-type]
    assert statistics.delta_bytes == 0
    assert statistics.downloaded_bytes > sum(map(len, _LARGE))


def test_other_bytes_than_were_signed_are_not_used(site: Site) -> None:
    flip(site.delta, 2000)
    assert site.fetch(site.offer).delta_bytes == 0


def test_a_delta_that_is_none_is_not_used(site: Site) -> None:
    site.delta.write_bytes(b"phipack.delta/1\n" + bytes(1000))
    offer = replace(site.offer, blob=digest_of_file(site.delta), bytes=site.delta.stat().st_size)
    statistics = site.fetch(offer)
    assert statistics.delta_bytes == 0
    assert statistics.downloaded_bytes > sum(map(len, _LARGE))


def test_a_delta_to_another_bundle_is_not_used(site: Site) -> None:
    pieces = [nudged(tensor) for tensor in _LARGE]
    other = bundle_of(site.spare.parent / "other", {"weights": pieces, "tokenizer.json": [b"{}"]})
    site.delta.unlink()
    assert make_delta(site.old, other, site.delta) is not None
    offer = replace(site.offer, blob=digest_of_file(site.delta), bytes=site.delta.stat().st_size)
    assert site.fetch(offer).delta_bytes == 0


def test_frames_that_are_damaged_cost_their_own_chunks_alone(site: Site) -> None:
    raw = bytearray(site.delta.read_bytes())
    raw[-5000] ^= 255
    site.delta.write_bytes(raw)
    offer = replace(site.offer, blob=digest_of_file(site.delta))
    assert 0 < site.fetch(offer).delta_bytes < sum(map(len, _LARGE))


def test_a_damaged_base_costs_the_chunks_that_are_made_of_it(site: Site) -> None:
    flip(site.out / "weights", 100)
    statistics = site.fetch(site.offer)
    assert statistics.delta_bytes == sum(map(len, _LARGE[1:]))
    assert statistics.downloaded_bytes < site.offer.bytes + len(_LARGE[0]) + 100


def test_a_delta_that_broke_off_is_taken_by_the_next_try(site: Site) -> None:
    broken = after(1, on(_DELTA, _FAILING))

    def cut(handler: FolderHandler) -> bool:  # half of the delta, then the server fails for all
        if handler.path != _DELTA:
            _FAILING(handler)
            return True
        if broken(handler):
            return True
        size = site.offer.bytes
        handler.send_response(200)
        handler.send_header("Content-Length", str(size))
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(site.delta.read_bytes()[: size // 2])
        handler.wfile.flush()
        handler.connection.close()
        return True

    with pytest.raises(FetchError):
        site.fetch(site.offer, fault=cut)  # type: ignore[arg-type]
    assert site.old.manifest == open_bundle(site.out).manifest
    statistics = site.fetch(site.offer)
    assert statistics.delta_bytes == sum(map(len, _LARGE))


def test_the_old_bundle_is_left_where_all_fails(site: Site) -> None:
    with pytest.raises(FetchError):
        site.fetch(site.offer, fault=on("/weights", _FAILING))
    verify(open_bundle(site.out))
    assert open_bundle(site.out).digest == site.old.digest
    statistics = site.fetch(site.offer)
    assert statistics.resumed_bytes >= site.offer.bytes  # the delta was there whole
    assert statistics.downloaded_bytes < 1000


# --- large ones: 50 MB of which every second byte changed, a delta of more than 16 MB

_FETCH = """
import sys
from pathlib import Path
from urllib.parse import urlsplit
from registry.bundle.manifest import Manifest
from registry.transfer.bundle_download import DownloadOptions, download_bundle
from registry.transfer.remote import HttpSource, RemoteDelta
url, manifest, out, from_, blob, size = sys.argv[1:]
delta = RemoteDelta(from_, blob, int(size), url + "/delta")
source = HttpSource(urlsplit(url), Manifest.parse(Path(manifest).read_bytes(), source=manifest), (delta,))
_, statistics = download_bundle(source, Path(out), DownloadOptions(replace=True))
print(statistics.delta_bytes, Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sequence[bytes], Sequence[bytes]]:
    chance = np.random.default_rng(3)
    before = [chance.integers(0, 256, 8_300_000, np.uint8) for _ in range(6)]
    after = [
        one + chance.integers(0, 8, one.size, np.uint8) * chance.integers(0, 2, one.size, np.uint8) for one in before
    ]
    return [one.tobytes() for one in before], [one.tobytes() for one in after]


@pytest.fixture
def large_site(large: tuple[Sequence[bytes], Sequence[bytes]], tmp_path: Path) -> Site:
    return Site(tmp_path, *large)


def test_a_large_delta_goes_on_where_it_broke_off(large_site: Site) -> None:
    assert large_site.offer.bytes > 16 << 20
    failing = after(9_000_000, on(_DELTA, _FAILING))
    with pytest.raises(FetchError):
        large_site.fetch(large_site.offer, fault=lambda handler: failing(handler) or on("/weights", _FAILING)(handler))
    statistics = large_site.fetch(large_site.offer)
    assert statistics.resumed_bytes >= 16 << 20
    assert statistics.downloaded_bytes < large_site.offer.bytes - statistics.resumed_bytes + 1000
    assert statistics.delta_bytes == 6 * 8_300_000


def test_applying_a_delta_holds_little(large_site: Site) -> None:
    site = large_site
    with serving(site.served, kind=RangeHandler) as url:
        arguments = [url, str(site.served / "manifest.json"), str(site.out), site.offer.from_, site.offer.blob]
        done = subprocess.run(
            [sys.executable, "-c", _FETCH, *arguments, str(site.offer.bytes)],
            env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
    made, peak = map(int, done.stdout.split())
    assert made == 6 * 8_300_000
    assert peak < 150_000  # kB
