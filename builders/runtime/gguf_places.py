"""A context of llama.cpp for several sequences, each with a KV cache of its own: `builders/runtime/together.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builders.runtime.session import Tokens
from targets.errors import MeasurementError

_BATCH = 512  # tokens a call


class GgufPlaces:
    """Implements `builders.runtime.together.Places` for a loaded model."""

    def __init__(self, llama_cpp: Any, model: Any, parameters: Any, count: int, room: int) -> None:
        """Open a context. `parameters`: those of a context for one sequence, which are changed.

        Raises:
            MeasurementError: there is no memory for it.
        """
        self.count, self.room = count, room
        self._llama = llama_cpp
        self._vocabulary_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        parameters.n_ctx, parameters.n_seq_max, parameters.kv_unified = count * room, count, False
        self._context = llama_cpp.llama_init_from_model(model, parameters)
        if not self._context:
            raise MeasurementError(
                f"llama.cpp can't open a context for {count} sequences of {room} tokens",
                fix="free memory, or build with a shorter --context",
            )
        self._batch = llama_cpp.llama_batch_init(_BATCH, 0, 1)

    def read(self, place: int, tokens: Tokens, kept: int) -> NDArray[np.float32]:
        """Read a sequence from token `kept` on: logits [vocabulary] after its last token."""
        memory = self._llama.llama_get_memory(self._context)
        self._llama.llama_memory_seq_rm(memory, place, kept, -1)
        logits: NDArray[np.float32] = np.empty(0, np.float32)
        for start in range(kept, len(tokens), _BATCH):
            part = tokens[start : start + _BATCH].tolist()
            rows = [(token, start + at, place, start + at == len(tokens) - 1) for at, token in enumerate(part)]
            logits = self._decode(rows)
        return np.array(logits[0])

    def step(self, tokens: Mapping[int, int], lengths: Mapping[int, int]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Go one token further in some places: yield each place with its logits [vocabulary], a view."""
        rows = self._decode([(token, lengths[place], place, True) for place, token in tokens.items()])
        yield from zip(tokens, rows, strict=True)

    def close(self) -> None:
        """Free the context."""
        self._llama.llama_batch_free(self._batch)
        self._llama.llama_free(self._context)

    def _decode(self, rows: list[tuple[int, int, int, bool]]) -> NDArray[np.float32]:
        """Run tokens, each with its position, its place, and whether its logits are asked for; return these, a view."""
        batch = self._batch
        batch.n_tokens = len(rows)
        for at, (token, position, place, is_asked) in enumerate(rows):
            if not 0 <= token < self._vocabulary_size:
                raise MeasurementError(
                    f"token id {token} is not in the vocabulary of {self._vocabulary_size}",
                    fix="tokenize with the bundle's own tokenizer files",
                )
            batch.token[at], batch.pos[at], batch.logits[at] = token, position, is_asked
            batch.n_seq_id[at], batch.seq_id[at][0] = 1, place
        if self._llama.llama_decode(self._context, batch):
            raise MeasurementError(
                f"llama.cpp fails with {len(rows)} tokens of several sequences",
                fix="free memory and run it again, or build with a shorter --context",
            )
        count = sum(is_asked for *_, is_asked in rows)
        if not count:
            return np.empty((0, self._vocabulary_size), np.float32)
        flat = np.ctypeslib.as_array(
            self._llama.llama_get_logits(self._context), shape=(count * self._vocabulary_size,)
        )
        return np.asarray(flat.reshape(count, self._vocabulary_size))
