"""Bundles of 45 MB whose chunks are known, and a fetch of one that is verified."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from devtools.bundles import make_bundle
from registry.bundle.folder import Bundle, seal, verify
from registry.fetch import fetch
from registry.transfer.bundle_download import DownloadOptions
from registry.transfer.download import TransferStatistics
from tests.support.chunked import entry_of
from tests.support.folders import names_in

WEIGHTS = "model.gguf"
_random = np.random.default_rng(4)  # quick: each worker makes them when it collects
TENSORS = [_random.bytes(size) for size in [3_000_000, 700, 1_500_000, 64] * 10]  # 45 MB


def make_chunked(folder: Path, tensors: Sequence[bytes], other: bytes = b"{}", *, chunked: bool = True) -> Bundle:
    """A bundle whose weights' chunks are the tensors, with a head before them, and a small file."""
    pieces = [b"head " + other, *tensors]
    bundle = make_bundle(folder, {WEIGHTS: b"".join(pieces), "tokenizer.json": other})
    if not chunked:
        return bundle
    files = [entry_of(pieces, WEIGHTS) if file.path == WEIGHTS else file for file in bundle.manifest.files]
    return seal(folder, bundle.manifest.model_copy(update={"files": files}))


def fetching(url: str, out: Path, *, replace: bool = False, reuse: Sequence[Path] = ()) -> TransferStatistics:
    fetched = fetch(url, out, DownloadOptions(replace=replace, reuse=reuse))
    verify(fetched.bundle)
    assert names_in(out.parent) == ["out"]
    return fetched.statistics
