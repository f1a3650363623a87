"""What one call of llama.cpp reads: some tokens, each with its position and its sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builders.runtime.gguf_log import said
from targets.errors import MeasurementError

BATCH = 512  # tokens a call
# A token, its position, its sequence, and whether the logits after it are asked for.
Row = tuple[int, int, int, bool]


class GgufBatch:
    """The memory of a call's tokens."""

    def __init__(self, llama_cpp: Any, vocabulary_size: int) -> None:
        self._llama = llama_cpp
        self._vocabulary_size = vocabulary_size
        self._batch: Any = llama_cpp.llama_batch_init(BATCH, 0, 1)

    def decode(self, context: Any, rows: Sequence[Row]) -> NDArray[np.float32]:
        """Run up to `BATCH` tokens in a context.

        Returns:
            The logits that are asked for, [asked, vocabulary]: a view, until the next call.

        Raises:
            MeasurementError: an id is not in the vocabulary, or llama.cpp fails.
        """
        batch = self._batch
        batch.n_tokens = len(rows)
        for at, (token, position, sequence, is_asked) in enumerate(rows):
            if not 0 <= token < self._vocabulary_size:
                raise MeasurementError(
                    f"token id {token} is not in the vocabulary of {self._vocabulary_size}",
                    fix="tokenize with the bundle's own tokenizer files",
                )
            batch.token[at], batch.pos[at], batch.logits[at] = token, position, is_asked
            batch.n_seq_id[at], batch.seq_id[at][0] = 1, sequence
        if self._llama.llama_decode(context, batch):
            raise MeasurementError(
                f"llama.cpp fails at token {rows[0][1]}: {said()}",
                fix="free memory and run it again, or build with a shorter --context",
            )
        count = sum(is_asked for *_, is_asked in rows)
        if not count:
            return np.empty((0, self._vocabulary_size), np.float32)
        flat = np.ctypeslib.as_array(self._llama.llama_get_logits(context), shape=(count * self._vocabulary_size,))
        return np.asarray(flat.reshape(count, self._vocabulary_size))

    def close(self) -> None:
        """Free the memory."""
        self._llama.llama_batch_free(self._batch)
