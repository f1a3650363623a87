"""Every family's stored tensors under the canonical names: which row comes from where."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from builders.checkpoint import open_checkpoint
from builders.checkpoint.shards import MappedTensors
from targets.layouts import stored_shapes
from tests.support.checkpoints import write_tiny

LAYER = "model.layers.1."


def test_llamas_parts_lie_one_below_the_other(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "llama", family="llama", dtype="F32")
    stored, source = load_file(folder / "model.safetensors"), open_checkpoint(folder).open_tensors()
    qkv = np.concatenate([stored[f"{LAYER}self_attn.{part}_proj.weight"] for part in "qkv"])
    np.testing.assert_array_equal(source.tensor(LAYER + "self_attn.qkv_proj.weight"), qkv)
    both = np.concatenate([stored[f"{LAYER}mlp.{part}_proj.weight"] for part in ("gate", "up")])
    np.testing.assert_array_equal(source.tensor(LAYER + "mlp.gate_up_proj.weight"), both)


@pytest.mark.parametrize("kind", ["weight", "bias"])
def test_phi_3_smalls_rows_are_sorted_out(tmp_path: Path, kind: str) -> None:
    """PHI3.md: [key heads, queries of it + 1 + 1, head size], and gate and up in turn."""
    folder = write_tiny(tmp_path / "small", family="phi3small", dtype="F32", heads=4, kv_heads=2)
    stored, source = load_file(folder / "model.safetensors"), open_checkpoint(folder).open_tensors()
    fused = stored[f"{LAYER}self_attn.query_key_value.{kind}"]
    size = 16
    heads = [fused[start : start + size] for start in range(0, len(fused), size)]
    # Key head 0 has queries 0 and 1, then its key and its value; key head 1 the same.
    expected = np.concatenate([heads[place] for place in (0, 1, 4, 5, 2, 6, 3, 7)])
    np.testing.assert_array_equal(source.tensor(f"{LAYER}self_attn.qkv_proj.{kind}"), expected)
    mixed = stored[f"{LAYER}mlp.up_proj.{kind}"]
    gate_up = source.tensor(f"{LAYER}mlp.gate_up_proj.{kind}")
    np.testing.assert_array_equal(gate_up, np.concatenate([mixed[0::2], mixed[1::2]]))
    np.testing.assert_array_equal(source.tensor(f"model.norm.{kind}"), stored[f"model.final_layernorm.{kind}"])


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("family", ["phi3", "llama", "phi3small"])
def test_every_stored_element_is_read_once(tmp_path: Path, family: str, dtype: str) -> None:
    folder = write_tiny(tmp_path / "checkpoint", family=family, dtype=dtype)
    checkpoint = open_checkpoint(folder)
    shapes = checkpoint.architecture.tensor_shapes()
    source = checkpoint.open_tensors()
    canonical = np.concatenate([source.tensor(name).reshape(-1) for name in shapes])
    stored = [MappedTensors(checkpoint.stored_tensors).stored(name) for name in stored_shapes(checkpoint.architecture)]
    if dtype == "BF16":
        stored = [(part.astype(np.uint32) << 16).view(np.float32) for part in stored]
    flat = np.concatenate([part.astype(np.float32).reshape(-1) for part in stored])
    np.testing.assert_array_equal(np.sort(canonical), np.sort(flat))
