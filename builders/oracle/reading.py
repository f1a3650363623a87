"""phipack's own reading of what the oracle is asked about: the side that is judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from builders.checkpoint import Checkpoint
from builders.oracle.states import (
    ATTENTION_INPUT,
    ATTENTION_OUTPUT,
    EMBEDDING,
    HEAD_INPUT,
    MLP_INNER,
    MLP_INPUT,
    Observed,
    Rows,
    point,
)
from builders.oracle.truth import CUT_BLOCK_TOKENS, CUT_LOCAL_BLOCKS, Probe
from builders.reference import FloatReference
from builders.reference.forward import hidden_states
from targets.architecture import Architecture

if TYPE_CHECKING:
    from torch import Tensor

_MATRICES = {
    "self_attn.qkv_proj.weight": ATTENTION_INPUT,
    "self_attn.o_proj.weight": ATTENTION_OUTPUT,
    "mlp.gate_up_proj.weight": MLP_INPUT,
    "mlp.down_proj.weight": MLP_INNER,
}
_LAYER_PREFIX = "model.layers."


def observe(checkpoint: Checkpoint, probes: Sequence[Probe], layers: int) -> list[Observed]:
    """Compute sequences with the float32 reference, as for a whole checkpoint, but with its first layers only.

    The checkpoint was read as a whole: the number of layers that are computed is changed, and a probe's edge. Memory:
    one layer's weights at a time, and the head, as in `builders/reference`.
    """
    own = replace(checkpoint.architecture, layer_count=layers)
    source, reference = checkpoint.open_tensors(), FloatReference(replace(checkpoint, architecture=own))
    found = []
    for probe in probes:
        watched = _Watched(own.head_tensor)
        embedded = source.rows("model.embed_tokens.weight", probe.tokens) * own.embedding_multiplier
        hidden = hidden_states(_with_edge(own, probe), source, probe.tokens[None], observe=watched)[0]
        found.append(Observed({EMBEDDING: embedded, **watched.states}, reference.logits(hidden)))
    return found


def _with_edge(own: Architecture, probe: Probe) -> Architecture:
    """Return the architecture with a smaller number where the probe has one."""
    if not probe.is_cut:
        return own
    match probe.edge:
        case "sliding_window":
            return replace(own, sliding_window=probe.past)
        case "original_max_position_embeddings":
            assert own.longrope is not None
            return replace(own, longrope=replace(own.longrope, original_context=probe.past))
        case _:
            assert own.block_sparse is not None
            cut = replace(own.block_sparse, block_size=CUT_BLOCK_TOKENS, local_blocks=CUT_LOCAL_BLOCKS)
            return replace(own, block_sparse=cut)


class _Watched:
    """An observer of the forward pass that keeps the rows at each point. It sees a sequence in one piece or several."""

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
        earlier, new = self.states.get(where), rows.numpy().copy()
        self.states[where] = new if earlier is None else np.concatenate([earlier, new])
