"""How large keys and values become, for a KV cache in whole numbers: an observer of the forward pass, and its result.

A key's elements i and i + r / 2 are turned by an angle that grows with the position: what they reach depends on where a
token stands, and a calibration sees short sequences only. Therefore keys are looked at before they are turned, in
`DIRECTIONS` directions of each pair's plane: how far the pairs reach there, to either side. Turning by an angle is
looking in another direction, so this yields what an element reaches at any position, seen or not.

    of a layer   [directions, heads, r / 2]  pairs;  [heads, d - r]  elements that are not turned;  [heads, d]  values
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from targets.architecture import Architecture

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float32]

DIRECTIONS = 8  # of half a circle
_TOKENS = 32  # whose keys stay in the processor's cache
_BETWEEN = 1 / np.cos(np.pi / (2 * DIRECTIONS))  # a pair between two directions is longer than what both show


class CacheRanges:
    """Accumulates how far keys and values reach."""

    def __init__(self, architecture: Architecture) -> None:
        self._half = architecture.rotary_dim // 2
        self._found = np.zeros(ranges_shape(architecture), np.float32)

    def __call__(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Add keys, not yet turned, and values [heads, tokens, head size] of a layer."""
        found = self._found[layer]
        for start in range(0, keys.shape[1], _TOKENS):
            own = slice(start, start + _TOKENS)
            # Tokens first, as the product has them: what lies together in memory is worked on together.
            parts = [heads[:, own].transpose(0, 1).numpy() for heads in (keys, values)]
            first, second, rest = np.split(parts[0], (self._half, 2 * self._half), axis=-1)
            first, second = np.ascontiguousarray(first), np.ascontiguousarray(second)
            looked, along = np.empty_like(first), np.empty_like(first)
            seen = []
            for angle in np.arange(DIRECTIONS) * np.pi / DIRECTIONS:
                np.multiply(first, np.float32(np.cos(angle)), out=looked)
                np.multiply(second, np.float32(np.sin(angle)), out=along)
                looked += along
                seen.append(_largest(looked))
            np.maximum(found, np.concatenate([*seen, _largest(rest), _largest(parts[1])]), out=found)

    def of(self, layer: int) -> Floats:
        """Return a layer's numbers: see the module's docstring."""
        return np.asarray(self._found[layer])

    def all(self) -> Floats:
        """Return the numbers of all layers [layers, numbers]."""
        return self._found


def _largest(rows: Floats) -> Floats:
    """Return the largest magnitudes over tokens [tokens, heads, elements]: flat."""
    return np.asarray(np.maximum(rows.max(0), -rows.min(0)).ravel())


def ranges_shape(architecture: Architecture) -> tuple[int, int]:
    """Return the shape of what `CacheRanges` accumulates: layers, and numbers of each."""
    width, turned = architecture.kv_width, architecture.kv_head_count * architecture.rotary_dim
    return architecture.layer_count, DIRECTIONS * turned // 2 + width - turned + width


def key_reach(numbers: Floats, architecture: Architecture, last_angles: NDArray[np.float64]) -> Floats:
    """Return what each element of a key reaches when pairs are turned by any angle from 0 to their last.

    Args:
        numbers: a layer's, of `CacheRanges`.
        architecture: of the model.
        last_angles: [r / 2], of the last position.

    Returns:
        Reaches [heads, d].
    """
    heads, half = architecture.kv_head_count, architecture.rotary_dim // 2
    pairs = numbers[: DIRECTIONS * heads * half].reshape(DIRECTIONS, heads, half)
    rest = numbers[DIRECTIONS * heads * half : -architecture.kv_width].reshape(heads, -1)
    steps = np.minimum(np.ceil(last_angles * DIRECTIONS / np.pi), DIRECTIONS - 1).astype(np.int64)
    # The first element, turned by an angle, is the pair's reach at minus that angle; the second's starts at a quarter.
    turned = [_largest_before(pairs, start, steps) for start in (0, DIRECTIONS // 2)]
    return np.concatenate([*turned, rest], axis=1)


def value_reach(numbers: Floats, architecture: Architecture) -> Floats:
    """Return what each element of a value reaches [heads, d]."""
    return numbers[-architecture.kv_width :].reshape(architecture.kv_head_count, -1)


def _largest_before(pairs: Floats, start: int, steps: NDArray[np.int64]) -> Floats:
    """Return the largest of each pair's reaches [heads, pairs] from a direction back over so many before it."""
    found = pairs[start].copy()
    for step in range(1, DIRECTIONS):
        within = np.where(step <= steps, pairs[start - step], 0)
        np.maximum(found, within, out=found)
    return (found * np.where(steps > 0, _BETWEEN, 1)).astype(np.float32)
