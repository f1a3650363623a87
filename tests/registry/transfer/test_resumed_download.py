"""A download that broke off, failed or was killed goes on where it ended; what it left is verified."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from devtools.servers import RangeHandler, after, answering, on, serving
from registry.bundle.folder import Bundle
from registry.fetch import fetch
from targets.errors import FetchError
from targets.progress import Event, Step
from tests.support.downloads import TENSORS, WEIGHTS, fetching, make_chunked
from tests.support.folders import flip, names_in

pytestmark = pytest.mark.usefixtures("local_and_impatient")


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
