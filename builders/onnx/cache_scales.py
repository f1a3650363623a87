"""Scales of an int8 KV cache, a float32 for each element of a key head and of a value head: value = scale * code.

The graph holds them, and GroupQueryAttention quantizes what it puts into the cache, after rotation: round(value /
scale), kept within -128 to 127. So a scale must cover what an element becomes at each position of the context, although
the calibration reads short windows (builders/reference/cache_ranges.py), and for each special token, which a text may
not have (builders/quantization/calibration/special_tokens.py). With the context the bundle's scales grow, and so does
the error: pairs that turn slowly reach less far in a short one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from builders.conversion import BuildRequest
from builders.onnx.datafile import DataFile
from builders.onnx.graph import Graph
from builders.onnx.rotary import last_turns
from builders.reference.cache_ranges import key_reach, value_reach
from targets.errors import CalibrationError
from targets.storage.onnx import cache_scale_arrays

HIGHEST_CODE = 127
# How far beyond the calibration's largest value a scale reaches. Less clips more, more costs resolution: in the 135M
# model's forward pass, with keys and values rounded so, mean KL over 2,048 tokens of Wikipedia is .0033 ± .0003 with
# .9, .0020 ± .0002 with 1, .0019 ± .0001 with 1.05, .0018 ± .0001 with 1.1 and .0021 ± .0001 with 1.2. What bundles
# lose is in docs/quantization.md.
MARGIN = 1.05

Floats = NDArray[np.float32]


class CacheScales:
    """Promises the scales of each layer, and names them. `element_type`: of the cache; empty where it holds floats."""

    def __init__(self, graph: Graph, data: DataFile, request: BuildRequest) -> None:
        self._graph = graph
        self._data = data
        self._request = request
        self._arrays = cache_scale_arrays(request.checkpoint.architecture, request.recipe)
        self.element_type = request.recipe.kv_cache

    def of(self, layer: int) -> Sequence[str]:
        """Return the names of a layer's scales of keys and of values; none where the cache holds floats."""
        if not self._arrays:
            return ()
        found = self._data.promise(f"layers.{layer}.cache_scales", self._arrays, lambda: self._computed(layer))
        return [self._graph.initializer(tensor) for tensor in found]

    def _computed(self, layer: int) -> tuple[Floats, Floats]:
        statistics, architecture = self._request.statistics, self._request.checkpoint.architecture
        assert statistics is not None  # build.py requires both
        assert statistics.cache_ranges is not None
        numbers = statistics.cache_ranges[layer]
        if not np.isfinite(numbers).all():
            raise CalibrationError(
                f"layer {layer} has keys or values that are infinite or not a number on the calibration's text",
                fix="check the training run, or download the checkpoint again; or remove the type of the KV cache",
            )
        keys = np.zeros((architecture.kv_head_count, architecture.head_dim), np.float32)
        for angles, factor in last_turns(architecture, self._request.context_length):
            reach = key_reach(numbers, architecture, angles)
            reach[:, : architecture.rotary_dim] *= np.float32(factor)
            np.maximum(keys, reach, out=keys)
        return cache_scales(keys.ravel()), cache_scales(value_reach(numbers, architecture).ravel())


def cache_scales(ranges: Floats) -> Floats:
    """Return the scales of elements that become as large as `ranges`; 1 for one that is always 0."""
    scales = ranges * np.float32(MARGIN / HIGHEST_CODE)
    return np.where(scales > np.finfo(np.float32).tiny, scales, np.float32(1)).astype(np.float32)
