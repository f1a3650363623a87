"""A bundle of 1 GB fetched through `phipack serve`, compared with the same catalog behind a plain static server.

    .venv/bin/python -m benchmarks.serving [--bytes 1000000000] [--runs 3] [--scratch DIR]

The same command fetches from both, in ranges over several connections, and verifies every chunk and file; its time
includes Python's start. The static server is that of `benchmarks.delivery`: a process that answers ranges by sendfile.
The two run in turn. Prints medians and the processor time of `phipack serve`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.delivery import served, write_bundle
from devtools.catalogs import Publisher
from devtools.services.ports import stop


@contextmanager
def serve(store: Path) -> Iterator[tuple[str, int]]:
    """Run `phipack serve`. Yield its URL and its process ID."""
    command = [sys.executable, "-m", "phipack", "serve", "--store", str(store), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        yield process.stderr.readline().split(" at ")[1].strip(), process.pid
    finally:
        stop(process)


def fetched(url: str, root: Path, folder: Path) -> float:
    """Fetch to a phone that has no bundle yet. Return the seconds."""
    command = [sys.executable, "-m", "phipack", "--quiet", "fetch", url, "--device", "iPhone15,4", "--root", str(root)]
    command += ["-o", str(folder / "out")]
    started = time.perf_counter()
    subprocess.run(command, check=True, env={**os.environ, "PHIPACK_STATE": str(folder / "state")})
    seconds = time.perf_counter() - started
    shutil.rmtree(folder)
    return seconds


def processor_seconds(pid: int) -> float:
    """Return the processor time of a process so far, in seconds (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Run the benchmark and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=int, default=1_000_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--scratch", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        folder = Path(name)
        publisher = Publisher(folder)
        publisher.place = publisher.store
        bundle = write_bundle(folder / "bundle", options.bytes)
        publisher.add("1.0.0", bundle)
        publisher.publish()
        shutil.rmtree(folder / "bundle")
        ours: list[float] = []
        theirs: list[float] = []
        with serve(publisher.store.root) as (url, pid), served(publisher.store.root) as static:
            for _ in range(options.runs):
                ours.append(fetched(url, publisher.root, folder / "phone"))
                theirs.append(fetched(static, publisher.root, folder / "phone"))
            taken = processor_seconds(pid) / options.runs
        mine, plain = statistics.median(ours), statistics.median(theirs)
        print(f"{bundle.manifest.total_bytes / 1e9:.2f} GB, verified; medians of {options.runs}")
        print(f"through phipack serve: {mine:.2f} s ({_listed(ours)}), {taken:.2f} s of its processor each")
        print(f"from a static server:  {plain:.2f} s ({_listed(theirs)})")
        print(f"phipack serve is {plain / mine:.2f} x as fast")


def _listed(seconds: list[float]) -> str:
    return ", ".join(f"{one:.2f}" for one in sorted(seconds))


if __name__ == "__main__":
    main()
