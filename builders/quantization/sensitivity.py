"""How much the answers change when one matrix alone is rounded: the mean divergence, measured for every matrix.

One walk over the layers does it for all. At each layer the exact hidden states go on, each of the layer's matrices is
rounded in turn and makes hidden states of its own, and those that earlier matrices made go through the exact layer:

    layer 0    exact    qkv₀ o₀ gate_up₀ down₀
    layer 1    exact    qkv₀ o₀ gate_up₀ down₀  qkv₁ o₁ …

At the end the distributions of the next token are compared. Memory: the hidden states of all matrices, 4 bytes an
element: 0.8 GB for mini with 512 tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from builders.checkpoint import TensorSource
from builders.reference.forward import LayerWalk
from builders.reference.statistics import multiplied
from targets.architecture import Architecture
from targets.progress import Progress, Step, silent

Floats = NDArray[np.float32]
# Returns a matrix [rows, columns] as it is computed with after rounding, by its canonical name.
Rounding = Callable[[str, Floats], Floats]

_ROWS = 128  # of logits that are compared at a time


def sensitivities(
    architecture: Architecture,
    source: TensorSource,
    tokens: NDArray[np.int64],
    rounded: Rounding,
    on_progress: Progress = silent,
) -> dict[str, float]:
    """Return the mean divergence, in nats, that rounding each matrix alone causes, by canonical name.

    Args:
        architecture: the checkpoint's.
        source: its weights.
        tokens: one sequence of ids [T].
        rounded: how a matrix is rounded.
        on_progress: receives the step `sensitivity`, in layers.
    """
    windows, names = tokens[None], multiplied(architecture)
    walk = LayerWalk(architecture, source, windows)
    made: dict[str, Floats] = {}
    for layer in range(architecture.layer_count):
        on_progress(Step("sensitivity", layer, architecture.layer_count, "layers"))
        own = [name for name in names if name.startswith(f"model.layers.{layer}.")]
        new = {}
        for name in own:
            changed = _OneRounded(source, name, rounded)
            aside = LayerWalk(architecture, changed, windows, states=walk.states.copy())
            aside.run(layer)
            new[name] = aside.states
        _run_all(architecture, source, windows, layer, made)
        made |= new
        walk.run(layer)
    on_progress(Step("sensitivity", architecture.layer_count, architecture.layer_count, "layers"))
    exact = walk.finish()[0]
    head = source.tensor(architecture.head_tensor)
    finished = (
        (name, LayerWalk(architecture, source, windows, states=states).finish()[0]) for name, states in made.items()
    )
    found = {name: _divergence(architecture, (exact, head), (states, head)) for name, states in finished}
    found[architecture.head_tensor] = _divergence(
        architecture, (exact, head), (exact, rounded(architecture.head_tensor, head))
    )
    return found


def _run_all(
    architecture: Architecture, source: TensorSource, windows: NDArray[np.int64], layer: int, made: dict[str, Floats]
) -> None:
    """Run what earlier matrices made through an exact layer, in place: its weights are read once."""
    if made:
        stacked = np.concatenate(list(made.values()))
        walk = LayerWalk(architecture, source, windows, states=stacked)
        walk.run(layer)
        for name, states in zip(made, walk.states, strict=True):
            made[name] = states[None]


class _OneRounded:
    """A checkpoint's weights with one matrix rounded. Implements `TensorSource` as far as a walk reads it."""

    def __init__(self, source: TensorSource, name: str, rounded: Rounding) -> None:
        self._source, self._name, self._rounded = source, name, rounded

    def tensor(self, name: str) -> Floats:
        values = self._source.tensor(name)
        return self._rounded(name, values) if name == self._name else values

    def stored_tensor(self, name: str) -> Floats:
        return self._source.stored_tensor(name)

    def rows(self, name: str, ids: NDArray[np.int64]) -> Floats:
        return self._source.rows(name, ids)


def _divergence(architecture: Architecture, exact: tuple[Floats, Floats], found: tuple[Floats, Floats]) -> float:
    """Return the mean KL divergence of distributions from hidden states [T, hidden] and heads [vocabulary, hidden]."""
    total = 0.0
    pairs = zip(_log_probabilities(architecture, *exact), _log_probabilities(architecture, *found), strict=True)
    for log_p, log_q in pairs:
        total += float((np.exp(log_p) * (log_p - log_q)).sum(dtype=np.float64))
    return max(0.0, total / len(exact[0]))


def _log_probabilities(architecture: Architecture, states: Floats, head: Floats) -> Iterator[Floats]:
    """Yield log-probabilities [rows, vocabulary] of a few rows at a time, without ids that are never produced."""
    possible = np.ones(len(head), dtype=bool)
    possible[list(architecture.hidden_token_ids)] = False
    for start in range(0, len(states), _ROWS):
        logits = (states[start : start + _ROWS] @ head.T)[:, possible] / np.float32(architecture.logit_divisor)
        logits -= logits.max(axis=1, keepdims=True)
        yield logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
