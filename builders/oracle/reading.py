"""phipack's own reading of what the oracle is asked about: the side that is judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from builders.checkpoint import Checkpoint
from builders.oracle.states import (
    ATTENTION_INPUT,
    ATTENTION_OUTPUT,
    EMBEDDING,
    HEAD_INPUT,
    KEPT,
    MLP_INNER,
    MLP_INPUT,
    Observed,
    Rows,
    point,
)
from builders.reference import FloatReference
from builders.reference.forward import hidden_states

if TYPE_CHECKING:
    from torch import Tensor

_MATRICES = {
    "self_attn.qkv_proj.weight": ATTENTION_INPUT,
    "self_attn.o_proj.weight": ATTENTION_OUTPUT,
    "mlp.gate_up_proj.weight": MLP_INPUT,
    "mlp.down_proj.weight": MLP_INNER,
}
_LAYER_PREFIX = "model.layers."


def observe(checkpoint: Checkpoint, sequences: Sequence[NDArray[np.int64]], layers: int) -> list[Observed]:
    """Compute sequences with the float32 reference, as for a whole checkpoint, but with its first layers only.

    The checkpoint was read as a whole: only the number of layers that are computed is changed. Memory: as
    `builders/reference`, one layer's weights at a time, and the head.
    """
    cut = replace(checkpoint, architecture=replace(checkpoint.architecture, layer_count=layers))
    reference, source = FloatReference(cut), cut.open_tensors()
    found = []
    for tokens in sequences:
        watched = _LastRows(cut.architecture.head_tensor)
        embedded = source.rows("model.embed_tokens.weight", tokens[-KEPT:]) * cut.architecture.embedding_multiplier
        hidden = hidden_states(cut.architecture, source, tokens[None], observe=watched)[0, -KEPT:]
        states = {EMBEDDING: embedded, **watched.states}
        found.append(Observed(tokens, states, reference.logits(np.ascontiguousarray(hidden))))
    return found


class _LastRows:
    """An observer of the forward pass that keeps the last rows at each point. It sees a sequence in several pieces."""

    def __init__(self, head: str) -> None:
        self._head = head
        self.states: dict[str, Rows] = {}

    def __call__(self, name: str, rows: Tensor) -> None:
        """Keep rows [tokens, columns] that the matrix `name` is multiplied with."""
        if name == self._head:
            where = HEAD_INPUT
        else:
            number, _, matrix = name.removeprefix(_LAYER_PREFIX).partition(".")
            where = point(int(number), _MATRICES[matrix])
        last = rows[-KEPT:].numpy().copy()
        earlier = self.states.get(where)
        self.states[where] = last if earlier is None else np.concatenate([earlier, last])[-KEPT:]
