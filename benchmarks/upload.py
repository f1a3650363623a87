"""A bundle of 2 GB to an S3 server: phipack's store compared with hashing the file and boto3's `upload_file`.

    python -m benchmarks.upload [--bytes 2000000000] [--runs 3] [--scratch DIR]

Both verify: the store compares every file with the manifest and sends S3 the SHA-256 of every part; the peer hashes the
file with SHA-256, then uploads it, with SHA-256 checksums too. boto3 runs with the fastest of several settings, each
tried once. The two run in turn, each in a separate process; times include Python's start. Prints medians.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.delivery import WEIGHTS, write_bundle
from devtools.services.seaweedfs import S3Server, running_seaweedfs

BUCKET = "phipack-benchmark"
SETTINGS = tuple(itertools.product((2, 4, 10), (8, 16, 64)))  # connections, MiB of a part
_OURS = """
import sys
from pathlib import Path
from registry.bundle.folder import open_bundle
from registry.store.uris import open_store
open_store(sys.argv[1]).add_bundle(open_bundle(Path(sys.argv[2])))
"""
_PEER = """
import hashlib, sys
from pathlib import Path
import boto3
from boto3.s3.transfer import TransferConfig
path, bucket, key, connections, part = Path(sys.argv[1]), *sys.argv[2:4], *map(int, sys.argv[4:])
with path.open("rb") as stream:
    hashlib.file_digest(stream, "sha256")
config = TransferConfig(max_concurrency=connections, multipart_chunksize=part << 20)
boto3.client("s3").upload_file(str(path), bucket, key, Config=config, ExtraArgs={"ChecksumAlgorithm": "SHA256"})
"""
_PEAK = """
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


def timed(script: str, *arguments: object, environment: dict[str, str]) -> tuple[float, int]:
    """Run a script. Return the seconds and its peak memory in kB."""
    began = time.perf_counter()
    command = [sys.executable, "-c", script + _PEAK, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return time.perf_counter() - began, int(done.stdout)


def emptied(server: S3Server) -> None:
    """Remove all objects, so that the next upload sends everything."""
    client = server.client()
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        for found in page.get("Contents", ()):
            client.delete_object(Bucket=BUCKET, Key=found["Key"])


def main() -> None:
    """Run the benchmark and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=int, default=2_000_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--scratch", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        folder = Path(name)
        bundle = write_bundle(folder / "bundle", options.bytes)
        with running_seaweedfs(folder / "seaweedfs", patience_seconds=1) as server:
            server.make_bucket(BUCKET)
            environment = {**os.environ, **server.environment}

            def peer(connections: int, part: int) -> tuple[float, int]:
                emptied(server)
                path = bundle.file(WEIGHTS)
                return timed(_PEER, path, BUCKET, "peer", connections, part, environment=environment)

            def ours() -> tuple[float, int]:
                emptied(server)
                return timed(_OURS, f"s3://{BUCKET}/store", bundle.path, environment=environment)

            tried = {setting: peer(*setting)[0] for setting in SETTINGS}
            best = min(tried, key=lambda setting: tried[setting])
            for (connections, part), seconds in sorted(tried.items()):
                print(f"boto3, {connections} connections, parts of {part} MiB: {seconds:.1f} s")
            turns = [(ours(), peer(*best)) for _ in range(options.runs)]
    for what, which in (("phipack's store", 0), (f"sha256, then boto3 at its best ({best[0]}, {best[1]} MiB)", 1)):
        seconds = [turn[which][0] for turn in turns]
        peak = max(turn[which][1] for turn in turns) / 1000
        rate = bundle.manifest.total_bytes / 1e6 / statistics.median(seconds)
        print(f"{what}: {statistics.median(seconds):.2f} s ({rate:.0f} MB/s), {peak:.0f} MB; {sorted(seconds)}")


if __name__ == "__main__":
    main()
