"""States of a model at the points that both sides can be observed at, and how far two readings of them are apart.

- embedding: what layer 0 receives
- attention input: after a layer's first norm
- attention output: before o_proj
- mlp input: after o_proj, the residual and the second norm
- mlp inner: before down_proj
- head input: after the last layer and the final norm
- log-probabilities
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]
KEPT = 64  # rows of a sequence that are compared, its last ones: they depend on all that come before
LAYERS = 2
_SMALLEST = float(np.finfo(np.float32).tiny)
ATTENTION_INPUT, ATTENTION_OUTPUT, MLP_INPUT, MLP_INNER = (
    "attention input",
    "attention output",
    "mlp input",
    "mlp inner",
)
EMBEDDING, HEAD_INPUT, LOGITS = "embedding", "head input", "log-probabilities"
_BETWEEN = {
    ATTENTION_INPUT: "layer {layer}'s input_layernorm: its weight, or the norm's epsilon",
    ATTENTION_OUTPUT: "layer {layer}'s attention: q, k and v, the heads, the rope, or the window",
    MLP_INPUT: "layer {layer}'s o_proj, its post_attention_layernorm, or the residual",
    MLP_INNER: "layer {layer}'s mlp: gate and up, or the activation",
    EMBEDDING: "the embedding",
    HEAD_INPUT: "layer {layer}'s down_proj, or the final norm",
    LOGITS: "the head: its matrix, the logits' scale, or ids without logits",
}


def point(layer: int, kind: str) -> str:
    """Return the name of a point within a layer."""
    return f"{layer} {kind}"


def points(layers: int) -> list[str]:
    """Return the names of all points, in the order in which a model computes them, without the log-probabilities."""
    kinds = (ATTENTION_INPUT, ATTENTION_OUTPUT, MLP_INPUT, MLP_INNER)
    return [EMBEDDING, *(point(layer, kind) for layer in range(layers) for kind in kinds), HEAD_INPUT]


@dataclass(frozen=True)
class Observed:
    """What one side computes for a sequence: the last rows at each point, and their logits [rows, vocabulary]."""

    tokens: NDArray[np.int64]
    states: dict[str, Rows]
    logits: Rows


@dataclass(frozen=True)
class Difference:
    """The largest differences over some sequences, and the first point where one is over the bound."""

    log_probability: float
    state: float
    first: str | None = None


def compare(truth: Sequence[Observed], found: Sequence[Observed], *, layers: int, bound: float) -> Difference:
    """Compare the same sequences, point by point in the order of the computation."""
    largest = Difference(0.0, 0.0)
    for one, other in zip(truth, found, strict=True):
        states, first = 0.0, largest.first
        for name in points(layers):
            apart = state_difference(one.states[name], other.states[name])
            states = max(states, apart)
            if apart > bound and first is None:
                first = _sentence(name, layers, len(one.tokens), apart)
        apart = log_probability_difference(one.logits, other.logits)
        if apart > bound and first is None:
            first = _sentence(LOGITS, layers, len(one.tokens), apart)
        largest = Difference(max(largest.log_probability, apart), max(largest.state, states), first)
    return largest


def state_difference(truth: Rows, found: Rows) -> float:
    """Return the largest |found - truth| relative to the value itself, or to the mean size of the values if larger."""
    if truth.shape != found.shape:
        return float("inf")
    wide = truth.astype(np.float64)
    mean_size = max(float(np.sqrt(np.square(wide).mean())), _SMALLEST)
    scale = np.maximum(np.abs(wide), mean_size)
    return _largest(np.abs(found.astype(np.float64) - wide) / scale)


def log_probability_difference(truth: Rows, found: Rows) -> float:
    """Return the largest difference of a log-probability, in nats; infinite where only one rules a token out."""
    if truth.shape != found.shape:
        return float("inf")
    ruled_out = np.isneginf(truth) & np.isneginf(found)
    with np.errstate(invalid="ignore"):
        apart = np.abs(_log_softmax(found) - _log_softmax(truth))
    return _largest(np.where(ruled_out, 0.0, apart))


def _log_softmax(logits: Rows) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(-1, keepdims=True))


def _largest(values: NDArray[np.float64]) -> float:
    largest = float(values.max(initial=0.0))
    return float("inf") if np.isnan(largest) else largest  # NaN on one side agrees with nothing


def _sentence(name: str, layers: int, length: int, apart: float) -> str:
    layer, _, kind = name.partition(" ")
    if kind not in _BETWEEN:
        layer, kind = str(layers - 1), name
    return f"{_BETWEEN[kind].format(layer=layer)} (off by {apart:.2g} in a sequence of {length} tokens)"
