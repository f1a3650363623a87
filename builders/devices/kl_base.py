"""The base file of `llama-perplexity --kl-divergence`, written from the float32 reference's logits.

Format (tools/perplexity/perplexity.cpp of llama.cpp, `process_logits` and `kl_divergence`), little-endian:

    "_logits_"                         8 bytes
    uint32 length, int32 vocabulary, int32 sequences
    int32 tokens [sequences, length]
    then for each sequence, for each position p of length/2 <= p < length - 1:
        float32 scale, float32 least   of the log-probabilities: least + scale * code
        uint16 codes [vocabulary]      and one more 0 where the vocabulary is odd

Only the second half of a sequence is compared. Log-probabilities more than 16 below the largest are stored as that.
Codes have steps of at most 16/65535 = 0.00024 nat, and llama-perplexity prints six digits.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_MAGIC = b"_logits_"
_RANGE, _CODES = 16.0, 65535.0
LONGEST = 514  # tokens of a sequence, whose second half has 256 positions to compare


def compared(length: int) -> int:
    """Return how many positions of a sequence of `length` tokens are compared."""
    return max(0, length - 1 - length // 2)


def write_base(path: Path, tokens: NDArray[np.int64], vocabulary: int, logits: Iterable[NDArray[np.float32]]) -> None:
    """Write a base file. `tokens` [W, T]; `logits`: for each sequence float32 [T, vocabulary], or minus infinity."""
    sequences, length = tokens.shape
    with path.open("wb") as out:
        out.write(_MAGIC + struct.pack("<Iii", length, vocabulary, sequences))
        out.write(np.ascontiguousarray(tokens, dtype="<i4").tobytes())
        for each in logits:
            for row in each[length // 2 : length - 1]:
                out.write(_coded(row))


def _coded(row: NDArray[np.float32]) -> bytes:
    """Return one position's record."""
    largest = np.float64(row.max())
    least = max(np.float64(row.min()), largest - _RANGE)
    total = np.log(np.exp(row.astype(np.float64) - largest).sum())
    scale = (largest - least) / _CODES
    shifted = np.maximum(row.astype(np.float64), least) - least
    codes = np.rint(shifted / scale) if scale else np.zeros(len(row))
    padded = np.zeros(len(row) + len(row) % 2, dtype="<u2")
    padded[: len(row)] = codes
    return struct.pack("<ff", scale, least - largest - total) + padded.tobytes()
