"""A bundle of 2 GB over loopback HTTP: phipack's fetch compared with curl and sha256sum, and with MLflow's download.

    .venv/bin/python -m benchmarks.delivery [--bytes 2000000000] [--runs 3] [--scratch DIR]

One server process serves fetch and curl, with ranges, by sendfile. A tracking server serves MLflow's download from the
same folder. The three run in turn; medians are printed. Fetch verifies every chunk and every file and moves the bundle
to its place; its time includes Python's start. curl's file is hashed after the download. MLflow verifies nothing. Then
two changed bundles are fetched: one with another chat template, one with every tenth tensor changed.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

from benchmarks.full_size.measure import Measured, run
from devtools.bundles import make_bundle
from devtools.servers import RangeHandler
from devtools.services.mlflow_server import MlflowSettings, running_mlflow
from registry.bundle.chunks import ChunkHasher
from registry.bundle.folder import Bundle, seal
from registry.bundle.manifest import FileEntry
from registry.files.large_file import LargeFile

WEIGHTS = "model.gguf"
_TENSOR_BYTES = 14_155_776  # of a 3072 x 8192 matrix in 4.5 bits
_FETCH = """
import sys
from pathlib import Path
from registry.fetch import fetch
from registry.transfer.bundle_download import DownloadOptions
options = DownloadOptions(reuse=[Path(name) for name in sys.argv[3:]])
statistics = fetch(sys.argv[1], Path(sys.argv[2]), options).statistics
peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
print(statistics.downloaded_bytes, statistics.reused_bytes, peak)
"""


def write_bundle(folder: Path, total: int, *, template: bytes = b"{}", changed_every: int = 0) -> Bundle:
    """Write a bundle of random tensors, with a chunk border before each. Every `changed_every`th tensor differs."""
    sealed = make_bundle(folder, {"tokenizer.json": b"{}" * 900_000, "chat_template.jinja": template})
    whole, chunks = hashlib.sha256(), ChunkHasher()
    with LargeFile(folder / WEIGHTS) as file:
        for number in range(max(1, total // _TENSOR_BYTES)):
            fresh = changed_every and number % changed_every == 0
            seed = f"{number}{'changed' if fresh else ''}".encode()
            for piece in (
                (template, hashlib.shake_128(seed).digest(_TENSOR_BYTES))
                if number == 0
                else (hashlib.shake_128(seed).digest(_TENSOR_BYTES),)
            ):
                chunks.end()
                chunks.update(piece)
                whole.update(piece)
                file.write(piece)
        size = file.position
    entry = FileEntry(path=WEIGHTS, bytes=size, sha256=whole.hexdigest(), chunks=chunks.chunks())
    files = sorted([*sealed.manifest.files, entry], key=lambda one: one.path)
    return seal(folder, sealed.manifest.model_copy(update={"files": files}))


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder from a separate process."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(RangeHandler, directory=str(folder), fault=None, asked=[]))
    process = multiprocessing.get_context("fork").Process(target=server.serve_forever, daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        process.terminate()
        process.join()
        server.server_close()


def fetched(url: str, out: Path, *reuse: Path) -> tuple[float, int, int, int]:
    """Fetch in a separate process. Return the seconds, bytes downloaded, bytes reused and peak memory in kB."""
    started = time.perf_counter()
    command = [sys.executable, "-c", _FETCH, url, str(out), *map(str, reuse)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - started
    downloaded, reused, peak = map(int, done.stdout.split())
    return seconds, downloaded, reused, peak


def peer(url: str, out: Path) -> Measured:
    """Run curl, then sha256sum on the file."""
    script = 'curl -sSf -o "$1" "$0" && sha256sum "$1"'
    return run(["sh", "-c", script, f"{url}/{WEIGHTS}", str(out)])


def mlflow_peer(server: str, name: str, out: Path) -> Measured:
    """Run MLflow's own download of the server's folder in a separate process. It verifies nothing."""
    script = "import sys, mlflow; mlflow.set_tracking_uri(sys.argv[1]); "
    script += "mlflow.artifacts.download_artifacts(f'mlflow-artifacts:/{sys.argv[2]}', dst_path=sys.argv[3])"
    return run([sys.executable, "-c", script, server, name, str(out)])


def main() -> None:
    """Run the benchmark and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=int, default=2_000_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--scratch", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        folder = Path(name)
        bundle = write_bundle(folder / "bundle", options.bytes)
        total = bundle.manifest.total_bytes
        write_bundle(folder / "template", options.bytes, template=b"{# another #}" * 200)
        write_bundle(folder / "tenth", options.bytes, changed_every=10)
        ours, theirs, mlflows, peaks = [], [], [], []
        settings = MlflowSettings(f"sqlite:///{folder}/mlflow.db", str(folder))
        with served(folder) as url, running_mlflow(folder / "mlflow", settings) as mlflow:
            for _ in range(options.runs):
                seconds, *_, peak = fetched(f"{url}/bundle", folder / "out")
                ours.append(seconds)
                peaks.append(peak)
                shutil.rmtree(folder / "out")
                measured = peer(f"{url}/bundle", folder / "curl")
                if measured.failed:
                    raise SystemExit(measured.failed)
                theirs.append(measured.seconds)
                (folder / "curl").unlink()
                measured = mlflow_peer(mlflow.uri, "bundle", folder / "mlflow-out")
                if measured.failed:
                    raise SystemExit(measured.failed)
                mlflows.append(measured.seconds)
                shutil.rmtree(folder / "mlflow-out")
            print(f"{total / 1e9:.2f} GB: fetch {statistics.median(ours):.2f} s ({sorted(ours)})")
            print(f"curl, then sha256sum: {statistics.median(theirs):.2f} s ({sorted(theirs)})")
            print(f"MLflow's own download, unverified: {statistics.median(mlflows):.2f} s ({sorted(mlflows)})")
            print(f"fetch's peak memory: {max(peaks) / 1000:.0f} MB")
            for what in ("template", "tenth"):
                seconds, downloaded, reused, _ = fetched(f"{url}/{what}", folder / "out", folder / "bundle")
                print(
                    f"{what} changed: {downloaded / 1e6:.3f} MB downloaded ({downloaded / total:.2%}), "
                    f"{reused / 1e6:.0f} MB copied, {seconds:.2f} s"
                )
                shutil.rmtree(folder / "out")


if __name__ == "__main__":
    main()
