"""What the reference writes after a prompt, as far as it is known: the same for whoever asks, and however much.

    CACHE/CHECKPOINT-PROMPT-ARCHITECTURE-N-TOOLS.words  likeliest tokens after one prompt, one after the other
    CACHE/CHECKPOINT-PROMPT-ARCHITECTURE-N-TOOLS.state  hidden state after the prompt, by which its first word was found

Greedy tokens depend on the checkpoint and on the prompt alone: not on how many are asked for, nor on what ends an
answer. So a file serves every suite, and grows where more is asked for. Those of a text's windows are kept together
with those of questions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from builders.reference.logits import FloatReference

_KIND = "words"
_STATE = "state"


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

    @property
    def state(self) -> NDArray[np.float32] | None:
        """The hidden state after the prompt, [hidden], where a walk has left it: after the last norm."""
        return self._reference.cached(self._key, _STATE, (self._reference.checkpoint.architecture.hidden_size,))

    def keep_state(self, state: NDArray[np.float32]) -> None:
        """Keep the hidden state after the prompt."""
        self._reference.keep(self._key, _STATE, state)

    def keep(self) -> None:
        """Keep all that is known, where it is more than was kept."""
        if len(self.known) > self._kept:
            self._reference.keep(self._key, _KIND, np.asarray(self.known, np.float32))
            self._kept = len(self.known)
