"""A context of llama.cpp for several sequences, each with a KV cache of its own: `builders/runtime/together.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builders.runtime.gguf_batch import BATCH, GgufBatch
from builders.runtime.session import Tokens
from targets.errors import MeasurementError


class GgufPlaces:
    """Implements `builders.runtime.together.Places` for a loaded model."""

    def __init__(self, llama_cpp: Any, model: Any, parameters: Any, count: int, room: int) -> None:
        """Open a context. `parameters`: those of a context for one sequence, which are changed.

        Raises:
            MeasurementError: there is no memory for it.
        """
        self.count, self.room = count, room
        self._llama = llama_cpp
        parameters.n_ctx, parameters.n_seq_max, parameters.kv_unified = count * room, count, False
        self._context = llama_cpp.llama_init_from_model(model, parameters)
        if not self._context:
            raise MeasurementError(
                f"llama.cpp can't open a context for {count} sequences of {room} tokens",
                fix="free memory, or build with a shorter --context",
            )
        self._batch = GgufBatch(llama_cpp, llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model)))

    def read(self, place: int, tokens: Tokens, kept: int) -> NDArray[np.float32]:
        """Read a sequence from token `kept` on: logits [vocabulary] after its last token."""
        memory = self._llama.llama_get_memory(self._context)
        self._llama.llama_memory_seq_rm(memory, place, kept, -1)
        logits: NDArray[np.float32] = np.empty(0, np.float32)
        for start in range(kept, len(tokens), BATCH):
            part = tokens[start : start + BATCH].tolist()
            rows = [(token, start + at, place, start + at == len(tokens) - 1) for at, token in enumerate(part)]
            logits = self._batch.decode(self._context, rows)
        return np.array(logits[0])

    def step(self, tokens: Mapping[int, int], lengths: Mapping[int, int]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Go one token further in some places: yield each place with its logits [vocabulary], a view."""
        rows = [(token, lengths[place], place, True) for place, token in tokens.items()]
        yield from zip(tokens, self._batch.decode(self._context, rows), strict=True)

    def close(self) -> None:
        """Free the context."""
        self._batch.close()
        self._llama.llama_free(self._context)
