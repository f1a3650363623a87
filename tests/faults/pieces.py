"""Bundles whose weights are pieces, small enough to be fetched a thousand times: an old one, and a new one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from devtools.bundles import make_bundle
from registry.bundle.folder import Bundle, seal
from tests.support.chunked import entry_of

WEIGHTS = "model.gguf"
_random = random.Random(7)
_KEPT = [_random.randbytes(50_000) for _ in range(4)]
OLD = (*_KEPT, _random.randbytes(70_000))
REUSED = tuple(_random.randbytes(60_000) for _ in range(2))
NEW = (_random.randbytes(80_000), *_KEPT, *REUSED, _random.randbytes(150_000))


def write_pieces(folder: Path, pieces: Sequence[bytes]) -> Bundle:
    """A bundle with a file of these pieces as its chunks, one in a folder, and an empty one."""
    others = {"model.mlpackage/Data/weights.bin": pieces[0][:30_000], "notes.txt": b""}
    bundle = make_bundle(folder, {WEIGHTS: b"".join(pieces), **others})
    files = [entry_of(list(pieces), WEIGHTS) if file.path == WEIGHTS else file for file in bundle.manifest.files]
    return seal(folder, bundle.manifest.model_copy(update={"files": files}))
