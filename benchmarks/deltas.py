"""Fine-tunes of the real 135M model, quantized again, and fetched onto the old bundle: by chunks, and by a delta file.

    .venv/bin/python -m benchmarks.deltas [--recipes gguf-q4_0 …] [--out docs/benchmarks/deltas.md] [--scratch DIR]

For each fine-tune (`nudged.py`) and recipe, the table has the bytes that were downloaded over loopback HTTP onto the
old bundle, without the delta and with it; the seconds to make the delta; and the seconds of the fetch with it. For
comparison it has the bytes that general tools need for the weights' file: `zstd --patch-from`, and zstd -3 of the XOR
of each tensor with the old one.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import zstandard

from benchmarks.delivery import served
from benchmarks.nudged import changes, unchanged, write_version
from builders.build import build
from devtools import real_model
from phipack.tables import table
from registry.bundle.folder import Bundle
from registry.bundle.manifest import FileEntry
from registry.files.digests import digest_of_file
from registry.transfer.bundle_download import DownloadOptions, download_bundle
from registry.transfer.delta_writer import make_delta
from registry.transfer.http import HttpClient
from registry.transfer.local_chunks import LocalChunks
from registry.transfer.remote import HttpSource, RemoteDelta, open_url
from targets.formatting import share, size
from targets.recipes import recipe_named

HEAD = """\
SmolLM2-135M as Phi3ForCausalLM in float32, fine-tuned by arithmetic, quantized again, and fetched over loopback HTTP by
a machine that has the previous bundle. *Noise 1e-3*: normal noise is added to every weight; its deviation is that share
of the tensor's standard deviation. *Rank 16*: products of thin matrices are added to attention's matrices only.

*Chunks*: bytes downloaded without a delta, manifest included. *With delta*: bytes downloaded with one, and their share
of *chunks*. *Make*: seconds to make the delta on two threads. *Fetch*: seconds of the whole fetch with it.
*Patch-from*: `zstd -3 --long --single-thread --patch-from` of the weights' file. *Xor, zstd*: zstd -3 of each changed
tensor XORed with the old one.
"""
RECIPES = ("gguf-q4_0", "gguf-q8_0", "gguf-q4_k_m", "onnx-int4", "coreml-int4")
COLUMNS = ("recipe", "fine-tune", "bundle", "chunks", "with delta", "share", "make", "fetch", "patch-from", "xor, zstd")


def fetched(new: Bundle, over: Bundle, out: Path, delta: Path | None) -> tuple[int, float]:
    """Fetch `new` from a server to a machine that has `over`. Return the bytes downloaded and the seconds."""
    with served(new.path.parent) as url, HttpClient() as client:
        source = open_url(f"{url}/{new.path.name}", client)
        if delta is not None:
            offer = RemoteDelta(over.digest, digest_of_file(delta), delta.stat().st_size, f"{url}/{delta.name}")
            source = HttpSource(urllib.parse.urlsplit(f"{url}/{new.path.name}"), source.manifest, (offer,))
        started = time.perf_counter()
        bundle, statistics = download_bundle(source, out, DownloadOptions(reuse=[over.path]))
        seconds = time.perf_counter() - started
        assert bundle.digest == new.digest
        shutil.rmtree(out)
        return client.received_bytes + statistics.downloaded_bytes, seconds


def patch_from(old: Path, new: Path, out: Path) -> str:
    """Return the size of zstd's patch from one file to another, at its fastest settings; "-" without zstd."""
    command = shutil.which("zstd")
    if command is None:
        return "-"
    window = f"--long={(old.stat().st_size + new.stat().st_size).bit_length()}"
    settings = ["-q", "-f", "-3", window, "--single-thread"]  # with threads it finds far less
    subprocess.run([command, *settings, f"--patch-from={old}", str(new), "-o", str(out)], check=True)
    found = size(out.stat().st_size)
    out.unlink()
    return found


def xored(old: Bundle, new: Bundle, entry: FileEntry) -> int:
    """Return the bytes of zstd -3 of each new chunk, XORed with the old one at the same distance from the end."""
    before = old.file(entry.path).read_bytes()
    after = new.file(entry.path).read_bytes()
    local, compressor = LocalChunks([old]), zstandard.ZstdCompressor(level=3)
    total = begin = 0
    for chunk in entry.chunks:
        if local.find(entry, begin, chunk) is None:
            there = begin + len(before) - len(after)
            a = np.frombuffer(before, np.uint8, chunk.bytes, there)
            total += len(compressor.compress((a ^ np.frombuffer(after, np.uint8, chunk.bytes, begin)).tobytes()))
        begin += chunk.bytes
    return total


def compared(recipe: str, change: str, old: Bundle, new: Bundle, scratch: Path) -> tuple[object, ...]:
    """Measure one row of the table."""
    place = scratch / "delta"
    started = time.perf_counter()
    delta = make_delta(old, new, place)
    seconds = time.perf_counter() - started
    plain, _ = fetched(new, old, scratch / "out", None)
    entry = max(new.manifest.files, key=lambda file: file.bytes)
    row: tuple[object, ...] = (recipe, change, size(new.manifest.total_bytes), size(plain))
    if delta is None:
        row += ("not offered", "", f"{seconds:.1f} s", "")
    else:
        came, applying = fetched(new, old, scratch / "out", place)
        row += (size(came), share(came / plain), f"{seconds:.1f} s", f"{applying:.1f} s")
        place.unlink()
    patched = patch_from(old.file(entry.path), new.file(entry.path), scratch / "patch")
    return (*row, patched, size(xored(old, new, entry)))


def rows(recipes: Sequence[str], scratch: Path) -> list[tuple[object, ...]]:
    """Build all versions and compare."""
    source = real_model.ensure().checkpoint
    checkpoint = write_version(source, scratch / "checkpoint", unchanged)
    olds = {name: build(checkpoint, recipe_named(name), scratch / "old" / name) for name in recipes}
    found = []
    for change, apply in changes().items():
        checkpoint = write_version(source, scratch / "changed", apply)
        for name in recipes:
            new = build(checkpoint, recipe_named(name), scratch / name)
            found.append(compared(name, change, olds[name], new, scratch))
            print(*found[-1], sep="  ", flush=True)
            shutil.rmtree(new.path)
        shutil.rmtree(scratch / "changed")
    return sorted(found, key=lambda row: recipes.index(str(row[0])))


def run_benchmark(
    description: str | None,
    head: str,
    columns: Sequence[str],
    recipes: Sequence[str],
    rows: Callable[[Sequence[str], Path], Sequence[Sequence[object]]],
) -> None:
    """Parse the command line, measure the recipes, print the table, and write it to `--out` where that is named.

    `rows` measures the recipes that were asked for, by default `recipes`, in a scratch folder; `head` is the text above
    the table in the file.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=recipes)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--scratch", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        text = table(columns, rows(options.recipes, Path(name)))
    print("\n" + text)
    if options.out is not None:
        options.out.write_text(f"{head}\n```\n{text}\n```\n", "utf-8")


if __name__ == "__main__":
    run_benchmark(__doc__, HEAD, COLUMNS, RECIPES, rows)
