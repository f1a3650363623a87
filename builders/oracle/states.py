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

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]
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
    """What one side computes for a sequence: rows at each point [tokens, width], and logits [tokens, vocabulary]."""

    states: dict[str, Rows]
    logits: Rows


@dataclass(frozen=True)
class Difference:
    """The largest differences over a sequence, and what computes the first state that is off by more than the bound."""

    log_probability: float
    state: float
    first: str | None = None


def compare(truth: Observed, found: Observed, *, layers: int, bound: float) -> Difference:
    """Compare what both sides compute for a sequence, point by point in the order of the computation."""
    first = None
    apart = {name: state_difference(truth.states[name], found.states[name]) for name in points(layers)}
    of_logits = log_probability_difference(truth.logits, found.logits)
    for name, difference in (apart | {LOGITS: of_logits}).items():
        if difference > bound and first is None:
            first = _sentence(name, layers, difference)
    return Difference(of_logits, max(apart.values()), first)


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


def _sentence(name: str, layers: int, apart: float) -> str:
    layer, _, kind = name.partition(" ")
    if kind not in _BETWEEN:
        layer, kind = str(layers - 1), name
    return f"{_BETWEEN[kind].format(layer=layer)} (off by {apart:.2g})"
