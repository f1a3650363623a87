"""The storage plan of ONNX recipes: the type of each tensor, and the sizes of the released models."""

from __future__ import annotations

import pytest

from targets.config_json import read_architecture
from targets.errors import RecipeError, UnsupportedModelError
from targets.recipes import recipe_named
from targets.storage.onnx import (
    check,
    data_bytes,
    hidden_arrays,
    layout_count,
    plan,
    rotary_arrays,
    sparse_arrays,
)
from tests.support.checkpoints import Tiny

INT8, INT4, FP16 = (recipe_named(f"onnx-{kind}") for kind in ("int8", "int4", "fp16"))
MINI = {
    "architectures": ["Phi3ForCausalLM"],
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32064,
    "max_position_embeddings": 4096,
    "sliding_window": 2047,
}


def test_full_size_mini_int4_is_smaller_than_its_limit() -> None:
    mini = read_architecture(MINI)
    assert mini.parameter_count == 3_821_079_552
    assert sum(weight.bytes for weight in plan(mini, INT4)) < data_bytes(mini, INT4, 4096) <= 2_350_000_000


def test_fp16_has_2_bytes_per_matrix_element_and_float32_norms() -> None:
    tiny = read_architecture(Tiny().config())
    for weight in plan(tiny, FP16):
        elements = weight.shape[0] * (weight.shape[1] if len(weight.shape) == 2 else 1)
        assert weight.bytes == elements * (2 if len(weight.shape) == 2 else 4)


def test_value_rows_have_8_bits_if_heads_share_them_otherwise_in_outer_layers() -> None:
    grouped = [weight.storage for weight in plan(read_architecture(Tiny().config()), INT4)]
    assert sum(storage == "96 rows uint4 block 32, 32 rows int8 block 64" for storage in grouped) == 2
    mini = [weight for weight in plan(read_architecture(MINI), INT4) if "rows" in weight.storage]
    assert [int(weight.name.split(".")[2]) for weight in mini] == [0, 1, 2, 3, 28, 29, 30, 31]


def test_int8_stores_every_matrix_in_its_widest_blocks() -> None:
    kinds = {weight.name.split(".")[-2]: weight.storage for weight in plan(read_architecture(MINI), INT8)}
    assert set(kinds.values()) == {"float32", "int8 block 128"}
    odd = {weight.name.split(".")[-2]: weight.storage for weight in plan(read_architecture(Tiny().config()), INT8)}
    assert (odd["o_proj"], odd["down_proj"], odd["lm_head"]) == ("int8 block 64", "int8 block 128", "int8 block 64")


def test_tied_embeddings_are_planned_once() -> None:
    names = [weight.name for weight in plan(read_architecture(Tiny(tied=True).config()), INT4)]
    assert "lm_head.weight" not in names
    assert len(names) == len(set(names))


def test_rotary_tables_grow_with_the_context_and_have_extra_rows_past_longropes_edge() -> None:
    tiny = read_architecture(Tiny(original_context=128).config())
    assert tiny.longrope_edge(128) is None
    assert tiny.longrope_edge(129) == 128
    # 8 frequencies of 4 bytes, cosine and sine: 64 bytes a row; all sizes are whole pages here.
    assert data_bytes(tiny, INT4, 512) - data_bytes(tiny, INT4, 128) == 512 * 64


def test_rotary_tables_are_as_wide_as_the_rotated_part_of_a_head() -> None:
    whole, half = (read_architecture(Tiny(hidden=128, rotated=share).config()) for share in (1.0, 0.5))
    assert [array.shape for array in rotary_arrays(half, INT4, 100)] == [(100, 8)] * 2
    # 8 frequencies of 4 bytes less, in cosines and sines: 64 bytes a row; all sizes are whole pages here.
    assert data_bytes(whole, INT4, 512) - data_bytes(half, INT4, 512) == 512 * 64


def test_a_rotated_part_that_the_operator_does_not_support_is_refused() -> None:
    twelve = read_architecture(Tiny(rotated=0.75).config())
    with pytest.raises(UnsupportedModelError, match="heads of 16 elements, 12 of them rotated") as refused:
        check(twelve, INT4)
    assert refused.value.fix == "build it with a Core ML or GGUF recipe"


def test_shapes_that_operators_do_not_support_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="heads of 24"):
        check(read_architecture(Tiny(hidden=96).config()), FP16)
    with pytest.raises(UnsupportedModelError, match="72 elements"):
        plan(read_architecture(Tiny(intermediate=72).config()), INT4)
    with pytest.raises(RecipeError, match="not an ONNX recipe"):
        plan(read_architecture(Tiny().config()), recipe_named("gguf-f16"))


def test_phi_3_small_has_float32_biases_and_arrays_for_sparsity_and_hidden_ids() -> None:
    small = read_architecture(Tiny(family="phi3small").config())
    biases = [weight for weight in plan(small, INT4) if weight.name.endswith(".bias")]
    assert len(biases) == 2 * 6 + 1
    assert all(weight.bytes == 4 * weight.shape[0] for weight in biases)
    # 4 heads, every third block: 3 does not divide 4, so each head has a pattern of its own. 4 blocks of 16 tokens.
    assert [array.shape for array in sparse_arrays(small, 64)] == [(4, 5), (4, 9)]
    assert [array.bytes for array in hidden_arrays(small)] == [4 * 320]
    phi3 = read_architecture(Tiny().config())
    assert sparse_arrays(phi3, 512) == hidden_arrays(phi3) == ()


def test_sparsity_without_effect_has_no_arrays() -> None:
    small = read_architecture(Tiny(family="phi3small").config())
    assert small.effective_sparsity(32) is None
    assert sparse_arrays(small, 32) == ()
    assert small.effective_sparsity(33) == small.block_sparse


def test_released_small_has_eight_patterns() -> None:
    config = Tiny(family="phi3small", hidden=512, heads=32, kv_heads=8).config() | {"blocksparse_vert_stride": 8}
    small = read_architecture(config)
    assert small.block_sparse is not None
    assert layout_count(small, small.block_sparse) == 8


def test_sparse_block_size_that_the_operator_does_not_support_is_refused() -> None:
    config = Tiny(family="phi3small").config() | {"blocksparse_block_size": 24}
    with pytest.raises(UnsupportedModelError, match="blocks of 24 tokens; SparseAttention supports 16, 32, 64, 128"):
        check(read_architecture(config), FP16)
