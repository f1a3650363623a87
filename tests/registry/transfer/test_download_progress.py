"""What a download reports, how it is cancelled, and who waits for whom."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from devtools.servers import RangeHandler, after, answering, serving
from registry.bundle.chunks import CHUNK_BYTES_LIMIT
from registry.bundle.folder import Bundle, open_bundle, verify
from registry.fetch import fetch
from registry.files import lock_wait
from registry.transfer.download import Transfer
from registry.transfer.http import HttpClient
from registry.transfer.remote import open_url
from targets.errors import FetchError
from targets.progress import WAIT, Event, Notice, Phase, Step
from tests.support.downloads import WEIGHTS, fetching
from tests.support.folders import names_in

pytestmark = pytest.mark.usefixtures("local_and_impatient")


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


def test_who_fetches_the_same_to_the_same_place_waits_and_has_it(
    large: Bundle, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_wait, "NOTICE_SECONDS", 0.0)
    entered, leave, waits = threading.Event(), threading.Event(), threading.Event()
    events: list[Event] = []

    def stall(handler: object) -> bool:
        entered.set()
        leave.wait(60)
        return False

    def on_progress(event: Event) -> None:
        events.append(event)
        waits.set()

    with serving(large.path, after(1, stall), kind=RangeHandler) as url, ThreadPoolExecutor(2) as pool:
        first = pool.submit(fetch, url, out)
        assert entered.wait(60)
        second = pool.submit(fetch, url, out, on_progress=on_progress)
        assert waits.wait(60)
        leave.set()
        assert first.result().bundle == second.result().bundle == open_bundle(out)
    notice = Notice(f"waiting for another phipack, which fetches to {out}")
    assert events == [Phase(WAIT, begins=True), notice, Phase(WAIT, begins=False)]
    assert second.result().statistics.downloaded_bytes == len(large.manifest.to_bytes())
    verify(open_bundle(out))
    assert names_in(out.parent) == ["out"]
