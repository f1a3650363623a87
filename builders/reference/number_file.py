"""Files of float32 numbers that know when they are damaged: what a walk over a checkpoint has measured.

    FILE    32 bytes, the SHA-256 of the rest; then float32 numbers, little-endian

A file is written under another name and moved to its own when it is whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from registry.files.atomic import remove_unfinished, unfinished_file
from registry.files.owned import private_folder
from registry.files.staging import disk_errors

Floats = NDArray[np.float32]
_DIGEST_BYTES = 32


def prepare_folder(folder: Path) -> None:
    """Create a folder that is this user's alone, and remove what runs that were killed have left there."""
    with disk_errors(folder):
        private_folder(folder)
        remove_unfinished(folder)


def write_numbers(path: Path, pieces: Iterable[Floats]) -> None:
    """Write arrays one after the other. Raises `BuildError` where the disk is full."""
    digest = hashlib.sha256()
    with disk_errors(path), unfinished_file(path.parent, path.name, 0o600) as file:
        file.out.write(bytes(_DIGEST_BYTES))
        for piece in pieces:
            content = np.ascontiguousarray(piece, dtype="<f4").data.cast("B")
            digest.update(content)
            file.out.write(content)
        file.out.seek(0)
        file.out.write(digest.digest())
        file.move_to(path)


def read_numbers(path: Path) -> Floats:
    """Return the numbers of a file, in one dimension. Raises `OSError` where it is missing or damaged."""
    content = path.read_bytes()
    numbers = memoryview(content)[_DIGEST_BYTES:]
    if len(numbers) % 4 or hashlib.sha256(numbers).digest() != content[:_DIGEST_BYTES]:
        raise OSError(f"{path} is damaged")
    return np.frombuffer(numbers, dtype="<f4")
