"""How far bundles continue prompts as the reference does, in at most one walk over the layers a bundle.

Up to the first difference a bundle's continuation is the reference's own, and past it nothing counts. So the reference
reads what a bundle wrote, and knows its own words up to the first that differs, that one included. They are kept: the
next bundle's continuation is read only where it agrees with all of them and goes on.

    CACHE/CHECKPOINT-PROMPTS-ARCHITECTURE-N.continuations    [P, 1 + count]: how many tokens are known, then the tokens
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from builders.reference.answers import common_start
from builders.reference.logits import FloatReference

Tokens = NDArray[np.int64]


class Continuations:
    """What the reference writes after prompts [P, T], `count` tokens each, as far as it is known."""

    def __init__(self, reference: FloatReference, prompts: NDArray[np.int64], count: int) -> None:
        self._reference = reference
        self._prompts = prompts
        self._count = count
        self._key = np.column_stack([np.full(len(prompts), count), prompts])
        kept = reference.cached(self._key, "continuations", (len(prompts), 1 + count))
        rows = np.zeros((len(prompts), 1), np.float32) if kept is None else kept
        self.known: list[Tokens] = [row[1 : 1 + int(row[0])].astype(np.int64) for row in rows]

    def same_tokens(self, found: Sequence[Tokens]) -> list[int]:
        """Return how many tokens of each continuation come before its first difference from the reference's own.

        `found`: of each prompt, `count` tokens, or up to the first that differs from the known ones.
        """
        open_ends = [
            number
            for number, (ids, known) in enumerate(zip(found, self.known, strict=True))
            if len(known) < len(ids) and np.array_equal(ids[: len(known)], known)
        ]
        if open_ends:
            self._read(open_ends, np.stack([found[number] for number in open_ends]))
        return [common_start(ids.tolist(), known.tolist()) for ids, known in zip(found, self.known, strict=True)]

    def _read(self, numbers: Sequence[int], found: NDArray[np.int64]) -> None:
        """Walk over the layers with continuations [n, count] of some prompts, and keep what is known then."""
        read = np.concatenate([self._prompts[list(numbers)], found[:, :-1]], axis=1)
        likeliest = self._reference.likeliest(read)[:, self._prompts.shape[1] - 1 :]
        for number, ids, own in zip(numbers, found, likeliest, strict=True):
            self.known[number] = own[: common_start(ids.tolist(), own.tolist()) + 1]
        rows = np.zeros((len(self._prompts), 1 + self._count), np.float32)
        for row, known in zip(rows, self.known, strict=True):
            row[0], row[1 : 1 + len(known)] = len(known), known
        self._reference.keep(self._key, "continuations", rows)
