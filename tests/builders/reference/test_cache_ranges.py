"""What keys reach at positions that were not seen, against transformers' own keys, turned to each of them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from builders.checkpoint import open_checkpoint
from builders.onnx.rotary import last_turns
from builders.reference import FloatReference
from builders.reference.cache_ranges import key_reach, value_reach
from targets.architecture import Architecture
from tests.support.bfloat16 import with_bfloat16_products
from tests.support.checkpoints import write_tiny

CONTEXT = 200
SHAPES: dict[str, dict[str, Any]] = {"rotated": {"kv_heads": 2}, "partly rotated": {"rotated": 0.5, "hidden": 128}}


def projected(folder: Path, windows: NDArray[np.int64]) -> list[NDArray[np.float32]]:
    """Return what transformers' own qkv products are in each layer: [tokens, widths]."""
    import torch
    import transformers

    model = transformers.Phi3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with_bfloat16_products(model)
    seen: list[NDArray[np.float32]] = []
    for layer in model.model.layers:
        layer.self_attn.qkv_proj.register_forward_hook(lambda _module, _inputs, out: seen.append(out.flatten(0, 1)))
    with torch.no_grad():
        model(torch.from_numpy(windows))
    return [np.asarray(one) for one in seen]


def turned(keys: NDArray[np.float32], architecture: Architecture) -> NDArray[np.float64]:
    """Return the largest that each element [heads, d] is at any position of the context: transformers' formula."""
    half, size = architecture.rotary_dim // 2, architecture.rotary_dim
    frequencies = architecture.rope_theta ** (-np.arange(0, size, 2) / size)
    largest = np.abs(keys).max(0).astype(np.float64)
    for position in range(CONTEXT):
        cosines, sines = np.cos(position * frequencies), np.sin(position * frequencies)
        first, second = keys[..., :half], keys[..., half:size]
        pairs = np.concatenate([first * cosines - second * sines, second * cosines + first * sines], axis=-1)
        largest[:, :size] = np.maximum(largest[:, :size], np.abs(pairs).max(0))
    return largest


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES.keys())
def test_they_hold_at_each_position_of_the_context(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = write_tiny(tmp_path / "c", **changes)
    architecture = open_checkpoint(folder).architecture
    windows = np.random.default_rng(4).integers(0, 300, (2, 20))
    reference = FloatReference(open_checkpoint(folder), tmp_path / "cache")
    ranges = reference.cache_ranges(windows)
    np.testing.assert_array_equal(reference.cache_ranges(windows), ranges)
    ((angles, factor),) = last_turns(architecture, CONTEXT)
    assert factor == 1
    heads, kv_heads = architecture.head_count, architecture.kv_head_count
    layers = projected(folder, windows)
    assert len(layers) == len(ranges) == architecture.layer_count
    for numbers, qkv in zip(ranges, layers, strict=True):
        rows = qkv.reshape(len(qkv), heads + 2 * kv_heads, architecture.head_dim)
        found, expected = key_reach(numbers, architecture, angles), turned(rows[:, heads:-kv_heads], architecture)
        assert (found >= expected * (1 - 1e-4)).all()
        assert (found / expected).mean() < 1.05
        np.testing.assert_allclose(value_reach(numbers, architecture), np.abs(rows[:, -kv_heads:]).max(0), rtol=1e-4)


def test_a_longer_context_reaches_no_less(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "c", original_context=64))
    numbers = FloatReference(checkpoint).cache_ranges(np.arange(20)[None])[0]
    reaches = [
        [key_reach(numbers, checkpoint.architecture, angles) * factor for angles, factor in last_turns(architecture, n)]
        for architecture in (checkpoint.architecture,)
        for n in (1, 32, 64, 128)
    ]
    assert [len(one) for one in reaches] == [1, 1, 1, 2]  # 128 tokens are past longrope's edge
    for shorter, longer in pairwise(reaches[:3]):
        assert (longer[0] >= shorter[0]).all()
        assert (longer[0] > shorter[0]).any()
