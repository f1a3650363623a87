"""Where special tokens stand: short sequences that are read for the ranges of a KV cache, and for nothing else.

A calibration text has few of them, and what they become can be far from all the rest: on a real model of 135 million
parameters an element of `<|endoftext|>`'s value in the second layer reaches 3.4, and .7 over the text of `light`. Cut
off there, it changes the answers to all that follows. It also depends on the place: as the first token it reaches 2.0.
So each special token is read where a sequence starts, and where it follows text:

    S t t t t t … t        t … t S t … t
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from builders.checkpoint import Checkpoint
from builders.tokenizer import tokenizer_of

LENGTH = 24  # tokens of a sequence
_BEFORE = 12  # tokens of text before a special one: after 48 its values are as large
_MOST = 64  # special tokens that are read, lowest ids first; models with more have hundreds that are reserved


def special_token_windows(checkpoint: Checkpoint, windows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return sequences of ids [2 * special tokens, T], with text from windows [W, T]; none without special tokens.

    Special are the tokens that the tokenizer finds in a text before anything else.

    Raises:
        CheckpointError: the tokenizer is damaged.
    """
    vocabulary_size = checkpoint.architecture.vocabulary_size
    special = [token for token in sorted(tokenizer_of(checkpoint).added_tokens()) if token < vocabulary_size][:_MOST]
    length = min(LENGTH, windows.shape[1])
    text, before = np.resize(windows, (len(special), length)), min(_BEFORE, length - 1)
    first, later = text.copy(), text.copy()
    first[:, 0] = later[:, before] = special
    return np.concatenate([first, later])
