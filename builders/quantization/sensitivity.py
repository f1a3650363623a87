"""How much the answers change when one matrix alone is rounded: the mean divergence, measured for every matrix.

One walk over the layers does it for all. At each layer the exact hidden states go on, each of the layer's matrices is
rounded in turn and makes hidden states of its own, and those that earlier matrices made go through the exact layer:

    embedding  exact                     embedding
    layer 0    exact    embedding        qkv₀ o₀ gate_up₀ down₀
    layer 1    exact    embedding qkv₀ o₀ gate_up₀ down₀         qkv₁ o₁ …

At the end the distributions of the next token are compared. Memory: the hidden states of all matrices, 4 bytes an
element: 0.8 GB for mini with 512 tokens. They are kept in a file from time to time: a walk that is stopped goes on from
there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builders.checkpoint import TensorSource
from builders.reference.elementwise import few_at_once
from builders.reference.forward import LayerWalk
from builders.reference.products import product
from builders.reference.statistics import MeanSquares
from builders.reference.walk_states import WalkStates
from targets.architecture import Architecture
from targets.progress import Progress, Step, silent

Floats = NDArray[np.float32]
# Returns a matrix [rows, columns] as it is computed with after rounding, by its canonical name. The last argument is
# the mean square of what each column is multiplied with; None for rows that are looked up.
Rounding = Callable[[str, Floats, Floats | None], Floats]

EMBEDDING = "model.embed_tokens.weight"
SECONDS_BETWEEN_SAVES = 20.0  # of states, which are written in one or two
_ROWS = 256  # whose distributions are in memory at a time
_IDS = 2048  # whose logits are compared at a time: with so many rows they stay in the processor's cache


def sensitivities(
    architecture: Architecture,
    source: TensorSource,
    windows: NDArray[np.int64],
    rounded: Rounding,
    on_progress: Progress = silent,
    kept: WalkStates | None = None,
) -> dict[str, float]:
    """Return the mean divergence, in nats, that rounding each matrix alone causes, by canonical name.

    A matrix that is embedding and head at once is rounded as both.

    Args:
        architecture: the checkpoint's.
        source: its weights.
        windows: token ids [W, T].
        rounded: how a matrix is rounded.
        on_progress: receives the step `sensitivity`, in layers.
        kept: where the states of a walk are kept until it is done.
    """
    shapes = architecture.tensor_shapes()
    matrices = [name for name, shape in shapes.items() if len(shape) == 2]
    # A head of its own needs no states: it is multiplied with the exact ones.
    names = [name for name in matrices if name != architecture.head_tensor or name == EMBEDDING]
    measurement = _Measurement(architecture, source, windows, rounded, kept)
    asides = np.empty((len(names), *windows.shape, architecture.hidden_size), np.float32)
    squares = MeanSquares()
    exact = measurement.walk(names, asides, squares, on_progress)
    found = _divergences(
        architecture,
        exact.reshape(-1, architecture.hidden_size),
        dict(zip(names, asides.reshape(len(names), -1, architecture.hidden_size), strict=True)),
        measurement.heads(squares),
    )
    on_progress(Step("sensitivity", architecture.layer_count, architecture.layer_count, "layers"))
    return {name: found[name] for name in matrices}


@dataclass(frozen=True)
class _Measurement:
    """What is walked over: see `sensitivities`."""

    architecture: Architecture
    source: TensorSource
    windows: NDArray[np.int64]
    rounded: Rounding
    kept: WalkStates | None = None

    def walk(self, names: list[str], asides: Floats, squares: MeanSquares, on_progress: Progress) -> Floats:
        """Fill the final hidden states with each matrix rounded, [matrices, W, T, hidden]; return the exact ones.

        `squares`: afterwards has what the head is multiplied with.
        """
        done, exact_states = self._start(asides)
        count, saved = self._count(done), time.monotonic()
        exact = LayerWalk(self.architecture, self.source, self.windows, squares, states=exact_states)
        for layer in range(done, self.architecture.layer_count):
            on_progress(Step("sensitivity", layer, self.architecture.layer_count, "layers"))
            before = exact.states.copy()
            exact.run(layer)
            self._going_on(asides[:count].reshape(-1, *asides.shape[2:])).run(layer)
            for name in (name for name in names if name.startswith(f"model.layers.{layer}.")):
                asides[count] = before
                self._going_on(asides[count], self._with(name, squares.means())).run(layer)
                count += 1
            squares.clear()
            if self.kept is not None and time.monotonic() - saved >= SECONDS_BETWEEN_SAVES:
                self.kept.save(layer + 1, [exact.states, asides[:count]])
                saved = time.monotonic()
        for states in asides:
            states[...] = self._going_on(states).finish()
        return exact.finish()

    def _start(self, asides: Floats) -> tuple[int, Floats | None]:
        """Fill the first states. Return how many layers they have been through, and the exact ones; None at the start.

        They are those of a walk that was stopped, where it has kept them.
        """
        one = self.windows.size * self.architecture.hidden_size
        found = None if self.kept is None else self.kept.load(lambda layers: one * (1 + self._count(layers)))
        if found is None:
            asides[0] = LayerWalk(self.architecture, self._with(EMBEDDING, {}), self.windows).states
            return 0, None
        layers, states = found
        asides[: self._count(layers)].reshape(-1)[:] = states[one:]
        return layers, states[:one].reshape(asides.shape[1:])

    def _count(self, layers: int) -> int:
        """Return how many matrices have states of their own after so many layers: the embedding, and the layers'."""
        shapes = self.architecture.tensor_shapes()
        first = tuple(f"model.layers.{layer}." for layer in range(layers))
        return 1 + sum(len(shape) == 2 and name.startswith(first) for name, shape in shapes.items())

    def heads(self, squares: MeanSquares) -> tuple[Floats, Floats]:
        """Return the exact head and the rounded one [vocabulary, hidden], without the ids that are never produced."""
        name = self.architecture.head_tensor
        head = self.source.tensor(name)
        possible = np.ones(len(head), dtype=bool)
        possible[list(self.architecture.hidden_token_ids)] = False
        return head[possible], self.rounded(name, head, squares.means()[name])[possible]

    def _with(self, name: str, squares: Mapping[str, Floats]) -> TensorSource:
        return _OneRounded(self.source, name, self.rounded, squares)

    def _going_on(self, states: Floats, source: TensorSource | None = None) -> LayerWalk:
        """Return a walk of states [n, T, hidden], which are changed in place, through exact layers by default."""
        return LayerWalk(self.architecture, source or self.source, self.windows, states=states)


class _OneRounded:
    """A checkpoint's weights with one matrix rounded. Implements `TensorSource` as far as a walk reads it."""

    def __init__(self, source: TensorSource, name: str, rounded: Rounding, squares: Mapping[str, Floats]) -> None:
        self._source, self._name, self._rounded = source, name, rounded
        self._squares = squares.get(name)

    def tensor(self, name: str) -> Floats:
        values = self._source.tensor(name)
        return self._rounded(name, values, self._squares) if name == self._name else values

    def stored_tensor(self, name: str) -> Floats:
        return self._source.stored_tensor(name)

    def rows(self, name: str, ids: NDArray[np.int64]) -> Floats:
        values = self._source.rows(name, ids)
        if name != self._name:
            return values
        return self._rounded(name, values.reshape(-1, values.shape[-1]), None).reshape(values.shape)


def _divergences(
    architecture: Architecture, exact: Floats, asides: dict[str, Floats], heads: tuple[Floats, Floats]
) -> dict[str, float]:
    """Return the mean divergence from exact states [tokens, hidden] of each matrix's own, and of the rounded head."""
    head = architecture.head_tensor
    states = asides if head in asides else asides | {head: exact}
    totals = dict.fromkeys(states, 0.0)
    for part in _parts(len(exact)):
        expected = _Expected(exact[part], heads[0], architecture.logit_divisor)
        for name, own in states.items():
            totals[name] += expected.divergence(own[part], heads[1 if name == head else 0])
    return {name: float(np.maximum(total / len(exact), 0)) for name, total in totals.items()}  # NaN stays NaN


def _parts(count: int) -> Iterator[slice]:
    return (slice(start, start + _ROWS) for start in range(0, count, _ROWS))


class _Expected:
    """The distributions of exact states [rows, hidden] with the exact head [vocabulary, hidden]."""

    def __init__(self, states: Floats, head: Floats, divisor: float) -> None:
        import torch

        self._states, self._head, self._divisor = states, head, np.float32(divisor)
        self._log_p = _log_probabilities(states, head, divisor)
        self._p = few_at_once(torch.exp, self._log_p)

    def divergence(self, states: Floats, head: Floats) -> float:
        """Return the sum over rows of the divergence of other states with this head or another, in nats.

        With d the change of the logits, KL is log Σ p eᵈ - Σ p d. Both sums are near 0, and so is what remains of them:
        with M = Σ p (eᵈ - 1 - d) and L = Σ p d, it is M less what M + L is larger than log(1 + M + L).
        """
        import torch

        more, linear = (torch.zeros(len(states), dtype=torch.float64) for _ in range(2))
        with torch.inference_mode():
            for start in range(0, len(head), _IDS):
                ids = slice(start, start + _IDS)
                change, p = torch.from_numpy(self._changes(states, head, ids)), self._p[:, ids]
                more += torch.linalg.vecdot(few_at_once(torch.expm1, change).sub_(change), p)
                linear += torch.linalg.vecdot(change, p)
            total = more + linear
            found = float((more - (total - total.log1p())).sum())
        return found if np.isfinite(found) else self._far_divergence(states, head)

    def _changes(self, states: Floats, head: Floats, ids: slice) -> Floats:
        """Return by how much the logits of some ids are larger, [rows, ids]."""
        if head is self._head:
            changes = _product(np.subtract(states, self._states), head[ids])
        else:
            changes = _product(states, head[ids])
            changes -= _product(self._states, self._head[ids])
        changes /= self._divisor
        return changes

    def _far_divergence(self, states: Floats, head: Floats) -> float:
        """Return the divergence where a logit grows by so much that its exponential overflows."""
        from torch.nn import functional

        found = _log_probabilities(states, head, float(self._divisor))
        divergence = functional.kl_div(found, self._log_p, reduction="none", log_target=True).sum(-1)
        return float(divergence.double().sum())


def _log_probabilities(states: Floats, head: Floats, divisor: float) -> Any:
    """Return log-probabilities [rows, vocabulary], a tensor."""
    import torch

    with torch.inference_mode():
        return torch.log_softmax(torch.from_numpy(_product(states, head)) / divisor, dim=-1)


def _product(states: Floats, head: Floats) -> Floats:
    """Return logits [rows, ids] of states [rows, hidden] and rows of a head [ids, hidden]."""
    import torch

    return np.asarray(product(torch.from_numpy(states), torch.from_numpy(head)).numpy())
