"""Downloads over real HTTP: ranges in parallel, reuse, going on after a break, and servers that fail in between."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from devtools.bundles import make_bundle
from devtools.servers import FolderHandler, RangeHandler, after, answering, on, serving, times
from registry.bundle.chunks import CHUNK_BYTES_LIMIT
from registry.bundle.folder import Bundle, open_bundle, seal, verify
from registry.bundle.manifest import MANIFEST_NAME
from registry.fetch import fetch
from registry.files import lock_wait
from registry.transfer import http as http_requests
from registry.transfer.bundle_download import DownloadOptions
from registry.transfer.download import Transfer, TransferStatistics
from registry.transfer.http import HttpClient
from registry.transfer.remote import open_url
from targets.errors import FetchError
from targets.progress import Event, Notice, Step
from tests.support.chunked import entry_of
from tests.support.folders import contents, flip, names_in

WEIGHTS = "model.gguf"
_random = random.Random(4)
TENSORS = [_random.randbytes(size) for size in [3_000_000, 700, 1_500_000, 64] * 10]  # 45 MB


@pytest.fixture(autouse=True)
def _local_and_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(http_requests, "RETRY_WAITS_SECONDS", (0.01, 0.01))


def make_chunked(folder: Path, tensors: Sequence[bytes], other: bytes = b"{}", *, chunked: bool = True) -> Bundle:
    """A bundle whose weights' chunks are the tensors, with a head before them, and a small file."""
    pieces = [b"head " + other, *tensors]
    bundle = make_bundle(folder, {WEIGHTS: b"".join(pieces), "tokenizer.json": other})
    if not chunked:
        return bundle
    files = [entry_of(pieces, WEIGHTS) if file.path == WEIGHTS else file for file in bundle.manifest.files]
    return seal(folder, bundle.manifest.model_copy(update={"files": files}))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_chunked(tmp_path_factory.mktemp("large") / "bundle", TENSORS)


@pytest.fixture(params=[RangeHandler, FolderHandler], ids=["ranges", "no ranges"])
def kind(request: pytest.FixtureRequest) -> type[FolderHandler]:
    kind: type[FolderHandler] = request.param
    return kind


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "place").mkdir()
    return tmp_path / "place" / "out"


def fetching(url: str, out: Path, *, replace: bool = False, reuse: Sequence[Path] = ()) -> TransferStatistics:
    fetched = fetch(url, out, DownloadOptions(replace=replace, reuse=reuse))
    verify(fetched.bundle)
    assert names_in(out.parent) == ["out"]
    return fetched.statistics


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


@pytest.mark.parametrize("chunked", [True, False])
def test_the_next_try_goes_on_where_the_last_one_broke_off(tmp_path: Path, out: Path, chunked: bool) -> None:
    bundle = make_chunked(tmp_path / "bundle", TENSORS, chunked=chunked)
    failing = after(30_000_000, on(f"/{WEIGHTS}", answering(500, {"Content-Length": "0"})))
    with serving(bundle.path, failing, kind=RangeHandler) as url, pytest.raises(FetchError, match="answers 500"):
        fetch(url, out)
    assert len(names_in(out.parent)) == 1
    with serving(bundle.path, kind=RangeHandler) as url:
        statistics = fetching(url, out)
    assert statistics.resumed_bytes > 15_000_000
    assert statistics.downloaded_bytes == bundle.manifest.total_bytes - statistics.resumed_bytes


def test_it_goes_on_where_new_files_are_the_groups_to_write(large: Bundle, out: Path) -> None:
    failing = after(30_000_000, on(f"/{WEIGHTS}", answering(500, {"Content-Length": "0"})))
    mask = os.umask(0o002)  # of systems that give each user a group
    try:
        with serving(large.path, failing, kind=RangeHandler) as url, pytest.raises(FetchError, match="answers 500"):
            fetch(url, out)
        with serving(large.path, kind=RangeHandler) as url:
            assert fetching(url, out).resumed_bytes > 15_000_000
    finally:
        os.umask(mask)


@pytest.mark.parametrize("chunked", [True, False])
def test_what_a_try_left_is_verified(tmp_path: Path, out: Path, chunked: bool) -> None:
    bundle = make_chunked(tmp_path / "bundle", TENSORS, chunked=chunked)
    failing = after(30_000_000, on(f"/{WEIGHTS}", answering(500, {"Content-Length": "0"})))
    with serving(bundle.path, failing, kind=RangeHandler) as url, pytest.raises(FetchError):
        fetch(url, out)
    (left,) = out.parent.iterdir()
    flip(left / "0", 9_000_000)
    with serving(bundle.path, kind=RangeHandler) as url:
        fetching(url, out)


def test_what_is_kept_of_a_download_is_said(large: Bundle, out: Path) -> None:
    failing = after(30_000_000, on(f"/{WEIGHTS}", answering(404, {"Content-Length": "0"})))
    with serving(large.path, failing, kind=RangeHandler) as url, pytest.raises(FetchError) as caught:
        fetch(url, out)
    (note,) = caught.value.__notes__
    assert f"MB of the download are kept in {out.parent}/.phipack-partial-" in note
    with serving(large.path, on(f"/{WEIGHTS}", answering(404, {}))) as url, pytest.raises(FetchError) as caught:
        fetch(url, out.with_name("other"))
    assert not hasattr(caught.value, "__notes__")


# --- progress, and cancelling


def test_progress_is_reported_for_each_job_of_a_file(large: Bundle, out: Path) -> None:
    events: list[Event] = []
    with serving(large.path, kind=RangeHandler) as url:
        fetch(url, out, on_progress=events.append)
    steps = [event for event in events if isinstance(event, Step) and event.subject == WEIGHTS]
    size = large.file(WEIGHTS).stat().st_size
    assert {(step.name, step.unit, step.total) for step in steps} == {("download", "bytes", size)}
    done = [step.done for step in steps]
    assert done == sorted(set(done))
    assert (done[0], done[-1]) == (0, size)
    assert size // CHUNK_BYTES_LIMIT < len(done) < 20
    assert {event.subject for event in events if isinstance(event, Step)} == {WEIGHTS, "tokenizer.json"}


def test_a_continued_download_reports_what_was_there(large: Bundle, out: Path) -> None:
    failing = after(30_000_000, on(f"/{WEIGHTS}", answering(500, {"Content-Length": "0"})))
    with serving(large.path, failing, kind=RangeHandler) as url, pytest.raises(FetchError):
        fetch(url, out)
    events: list[Event] = []
    with serving(large.path, kind=RangeHandler) as url:
        fetched = fetch(url, out, on_progress=events.append)
    first = events[0]
    assert isinstance(first, Step)
    assert first.done == fetched.statistics.resumed_bytes > 15_000_000


def test_a_receiver_of_progress_that_raises_ends_the_download(large: Bundle, out: Path) -> None:
    class StopError(Exception):
        pass

    def stop(event: Event) -> None:
        if isinstance(event, Step) and event.done > 10_000_000:
            raise StopError

    with serving(large.path, kind=RangeHandler) as url:
        with pytest.raises(StopError):
            fetch(url, out, on_progress=stop)
        assert fetching(url, out).resumed_bytes > 5_000_000


def test_another_thread_cancels_a_transfer_and_no_other_connections(large: Bundle, out: Path) -> None:
    waiting, leave = threading.Event(), threading.Event()

    def stall(handler: object) -> bool:
        waiting.set()
        leave.wait(20)
        return False

    entry = next(entry for entry in large.manifest.files if entry.path == WEIGHTS)

    def cancel() -> None:
        assert waiting.wait(20)
        transfer.cancel()

    with (
        serving(large.path, after(20_000_000, stall), kind=RangeHandler) as url,
        HttpClient() as client,
        Transfer() as transfer,
    ):
        thread = threading.Thread(target=cancel)
        thread.start()
        with pytest.raises(FetchError, match="cancelled"):
            transfer.download(entry, f"{url}/{WEIGHTS}", out)
        assert not leave.is_set()  # nobody waited for the server
        leave.set()
        thread.join()
        assert open_url(url, client).manifest == large.manifest
        with pytest.raises(FetchError, match="cancelled"):
            transfer.download(entry, f"{url}/{WEIGHTS}", out)


def test_a_transfer_that_fails_waits_for_no_server(large: Bundle, out: Path) -> None:
    """One range is refused while the others hang."""
    hanging, leave = threading.Semaphore(0), threading.Event()

    def fault(handler: SimpleHTTPRequestHandler) -> bool:
        begin = int(handler.headers["Range"].removeprefix("bytes=").split("-")[0])
        if begin == 0:
            return False
        if begin > 15_000_000:
            hanging.release()
            leave.wait(20)
            return False
        assert hanging.acquire(timeout=20)
        answering(404, {"Content-Length": "0"})(handler)
        return True

    entry = next(entry for entry in large.manifest.files if entry.path == WEIGHTS)
    with serving(large.path, fault, kind=RangeHandler) as url, Transfer() as transfer:
        with pytest.raises(FetchError, match="answers 404"):
            transfer.download(entry, f"{url}/{WEIGHTS}", out)
        assert not leave.is_set()
        leave.set()


# A runner in the background may have us ignore SIGINT.
_FETCH = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from pathlib import Path; from registry.fetch import fetch; fetch(sys.argv[1], Path(sys.argv[2]))"
)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_download_is_continued(large: Bundle, out: Path, number: int) -> None:
    started = threading.Event()

    def stall(handler: object) -> None:
        started.set()
        time.sleep(2)

    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    with serving(large.path, after(38_000_000, on(f"/{WEIGHTS}", stall)), kind=RangeHandler) as url:
        command = [sys.executable, "-c", _FETCH, url, str(out)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment) as process:
            assert started.wait(20)
            time.sleep(0.3)
            process.send_signal(number)
            assert process.wait(30)
    assert len(names_in(out.parent)) == 1
    with serving(large.path, kind=RangeHandler) as url:
        assert fetching(url, out).resumed_bytes > 5_000_000


def test_who_fetches_the_same_to_the_same_place_waits_and_has_it(
    large: Bundle, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_wait, "NOTICE_SECONDS", 0.0)
    entered, leave, waits = threading.Event(), threading.Event(), threading.Event()
    events: list[Event] = []

    def stall(handler: object) -> bool:
        entered.set()
        leave.wait(10)
        return False

    def on_progress(event: Event) -> None:
        events.append(event)
        waits.set()

    with serving(large.path, after(1, stall), kind=RangeHandler) as url, ThreadPoolExecutor(2) as pool:
        first = pool.submit(fetch, url, out)
        assert entered.wait(10)
        second = pool.submit(fetch, url, out, on_progress=on_progress)
        assert waits.wait(10)
        leave.set()
        assert first.result().bundle == second.result().bundle == open_bundle(out)
    assert events == [Notice(f"waiting for another phipack, which fetches to {out}")]
    assert second.result().statistics.downloaded_bytes == len(large.manifest.to_bytes())
    verify(open_bundle(out))
    assert names_in(out.parent) == ["out"]


def test_left_overs_of_another_version_are_swept(large: Bundle, tmp_path: Path, out: Path) -> None:
    other = make_chunked(tmp_path / "other", TENSORS[:8], b"[]")
    failing = after(9_000_000, on(f"/{WEIGHTS}", answering(404, {"Content-Length": "0"})))
    with serving(large.path, failing, kind=RangeHandler) as url, pytest.raises(FetchError, match="answers 404"):
        fetch(url, out)
    assert len(names_in(out.parent)) == 1
    with serving(other.path, kind=RangeHandler) as url:
        fetching(url, out)


def test_a_fetch_holds_little(large: Bundle, out: Path) -> None:
    script = _FETCH + "; print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    with serving(large.path, kind=RangeHandler) as url:
        done = subprocess.run(
            [sys.executable, "-c", script, url, str(out)],
            env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            check=True,
        )
    assert int(done.stdout) < 150_000  # kB
