"""Every family's stored tensors under the canonical names: which row comes from where."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from builders.checkpoint import open_checkpoint
from builders.checkpoint.lockstep import ReadCancelledError, in_lockstep
from builders.checkpoint.shards import MappedTensors, widen
from builders.checkpoint.sources import open_matrix
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


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, np.uint16),
        ({"dtype": "F32"}, np.float32),
        ({"dtype": "F16"}, np.float32),
        ({"family": "llama"}, np.float32),
        ({"family": "phi3small"}, np.float32),
    ],
)
def test_a_matrix_that_is_opened_has_the_rows_of_one_that_is_read(
    tmp_path: Path, changes: dict[str, str], kind: type
) -> None:
    source = open_checkpoint(write_tiny(tmp_path / "checkpoint", **changes)).open_tensors()
    name = LAYER + "mlp.gate_up_proj.weight"
    values = source.tensor(name)
    with open_matrix(source, name) as matrix:
        assert matrix.shape == values.shape
        part = matrix[3:-5]
        assert part.dtype == kind
        wide = np.empty(part.shape, np.float32)
        widen(part, "BF16" if part.dtype == np.uint16 else "F32", wide)
    np.testing.assert_array_equal(wide, values[3:-5])


def test_only_words_in_their_place_are_read_from_the_file_itself(tmp_path: Path) -> None:
    """A tensor before it has an odd number of bfloat16 elements; or the file is read past the page cache."""
    checkpoint = open_checkpoint(write_tiny(tmp_path / "checkpoint"))
    name = LAYER + "mlp.down_proj.weight"
    stored = checkpoint.stored_tensors[name]
    assert MappedTensors(checkpoint.stored_tensors).has_words(name)
    assert not MappedTensors(checkpoint.stored_tensors, past_cache=True).has_words(name)
    moved = replace(stored, start=stored.start + 2, stop=stored.stop + 2)
    assert not MappedTensors({name: moved}).has_words(name)


def test_one_build_in_lockstep_reads_a_matrix_from_its_file_and_several_share_it(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "checkpoint"))
    name = LAYER + "mlp.down_proj.weight"
    (alone,) = in_lockstep(checkpoint, [checkpoint.open_tensors()])
    with open_matrix(alone, name) as matrix:
        assert matrix[:1].dtype == np.uint16
    first, second = in_lockstep(checkpoint, [checkpoint.open_tensors(), checkpoint.open_tensors()])
    with open_matrix(first, name) as one, open_matrix(second, name) as other:
        assert one is other
    alone.cancel_all()
    with pytest.raises(ReadCancelledError), open_matrix(alone, name):
        pass
