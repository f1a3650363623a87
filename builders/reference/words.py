"""What the reference writes after a prompt, as far as it is known: the same for whoever asks, and however much.

    CACHE/CHECKPOINT-PROMPT-ARCHITECTURE-N.words    the likeliest tokens after one prompt, one after the other

Greedy tokens depend on the checkpoint and on the prompt alone: not on how many are asked for, nor on what ends an
answer. So a file serves every suite, and grows where more is asked for. Those of a text's windows are kept together
with those of questions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from builders.reference.logits import FloatReference

_KIND = "words"


class Words:
    """The reference's own words after one prompt, of at least one token."""

    def __init__(self, reference: FloatReference, prompt: Sequence[int]) -> None:
        self.prompt = [int(token) for token in prompt]
        self._reference = reference
        self._key = np.asarray([self.prompt], np.int64)
        kept = reference.cached(self._key, _KIND, None)
        self.known: list[int] = [] if kept is None else kept.astype(np.int64).tolist()
        self._kept = len(self.known)

    def add(self, tokens: Sequence[int]) -> None:
        """Add what follows the known words."""
        self.known += tokens

    def keep(self) -> None:
        """Keep all that is known, where it is more than was kept."""
        if len(self.known) > self._kept:
            self._reference.keep(self._key, _KIND, np.asarray(self.known, np.float32))
            self._kept = len(self.known)
