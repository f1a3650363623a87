"""What the reference holds at once: one layer's weights, the head once, nothing of the length's square."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from builders.checkpoint import Checkpoint, open_checkpoint
from builders.checkpoint.sources import ShardSource
from builders.reference import FloatReference
from builders.reference.forward import hidden_states
from tests.support.checkpoints import write_tiny


class Widened:
    """Float32 bytes of weights that are alive, as arrays come and go."""

    def __init__(self) -> None:
        self.alive = self.most = self.reads = 0

    def add(self, array: np.ndarray) -> None:
        self.reads += 1
        self.alive += array.nbytes
        self.most = max(self.most, self.alive)
        weakref.finalize(array, self._gone, array.nbytes)

    def _gone(self, count: int) -> None:
        self.alive -= count


@contextmanager
def widened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Widened]:
    counted = Widened()
    for name in ("tensor", "stored_tensor", "rows"):
        original = getattr(ShardSource, name)

        def noted(self: ShardSource, *asked: Any, original: Any = original) -> np.ndarray:
            values: np.ndarray = original(self, *asked)
            counted.add(values)
            return values

        monkeypatch.setattr(ShardSource, name, noted)
    yield counted
    monkeypatch.undo()


def layer_bytes(checkpoint: Checkpoint) -> int:
    shapes = checkpoint.architecture.tensor_shapes()
    return 4 * sum(int(np.prod(shape)) for name, shape in shapes.items() if name.startswith("model.layers.0."))


@pytest.mark.parametrize("family", ["phi3", "llama", "phi3small"])
def test_one_layer_and_the_asked_rows_are_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "c", family=family, layers=4))
    tokens = np.arange(6).reshape(2, 3)
    states = 4 * tokens.size * checkpoint.architecture.hidden_size
    with widened(monkeypatch) as counted:
        hidden_states(checkpoint.architecture, checkpoint.open_tensors(), tokens)
    assert layer_bytes(checkpoint) <= counted.most <= layer_bytes(checkpoint) + states


@pytest.mark.parametrize("family", ["phi3", "phi3small"])
def test_the_head_is_widened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "c", family=family, tied=True))
    reference = FloatReference(checkpoint)
    states = np.ones((5, checkpoint.architecture.hidden_size), np.float32)
    head = 4 * checkpoint.architecture.vocabulary_size * checkpoint.architecture.hidden_size
    with widened(monkeypatch) as counted:
        for _ in range(3):
            reference.logits(states)
    assert (counted.reads, counted.most) == (1, head)


class Largest(TorchDispatchMode):  # type: ignore[misc]  # torch gives it no type
    """The most elements of any tensor that an operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        sizes = (leaf.numel() for leaf in tree_leaves(given) if isinstance(leaf, Tensor))
        self.elements = max([self.elements, *sizes])
        return given


@pytest.mark.parametrize("family", ["phi3", "phi3small"])
def test_nothing_grows_with_the_square_of_the_length(tmp_path: Path, family: str) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "c", family=family, layers=1, context=4096))
    largest = []
    for length in (1024, 2048):
        with Largest() as noted:
            hidden_states(checkpoint.architecture, checkpoint.open_tensors(), np.zeros((1, length), np.int64))
        largest.append(noted.elements)
    assert 1024 * checkpoint.architecture.hidden_size <= largest[0]
    assert largest[1] <= 2 * largest[0]
