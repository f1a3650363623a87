"""The plan of GGUF types. tests/builders/gguf/test_convert.py compares it with llama.cpp's own choice."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import gguf
import pytest

from targets.architecture import Architecture
from targets.config_json import read_architecture
from targets.errors import RecipeError, UnsupportedModelError
from targets.layouts import canonical_names
from targets.recipes import RECIPES, recipe_named
from targets.storage.gguf import ALIGNMENT, CANDIDATES, TYPES, candidates, fallback_notes, plan

MINI: dict[str, Any] = {
    "architectures": ["Phi3ForCausalLM"],
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32064,
    "max_position_embeddings": 4096,
}
MEDIUM = MINI | {
    "hidden_size": 5120,
    "intermediate_size": 17920,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "num_key_value_heads": 10,
}


def architecture(config: dict[str, Any], **changes: Any) -> Architecture:
    return read_architecture(config | changes)


def test_block_sizes_match_the_gguf_library() -> None:
    for kind in TYPES.values():
        number = gguf.GGMLQuantizationType[kind.name]
        assert (number.value, gguf.GGML_QUANT_SIZES[number]) == (kind.number, (kind.length, kind.bytes))


@pytest.mark.parametrize(
    ("recipe", "gigabytes"),
    [
        ("gguf-f16", 7.64),
        ("gguf-q8_0", 4.06),
        ("gguf-q6_k", 3.14),
        ("gguf-q4_k_m", 2.39),
        ("gguf-q4_0", 2.18),
    ],
)
def test_mini_has_its_published_size(recipe: str, gigabytes: float) -> None:
    total = sum(weight.bytes for weight in plan(architecture(MINI), recipe_named(recipe)))
    assert total / 1e9 == pytest.approx(gigabytes, abs=0.01)


def test_types_of_mini_in_q4_k_m() -> None:
    types = {weight.name: weight.storage for weight in plan(architecture(MINI), recipe_named("gguf-q4_k_m"))}
    more = [layer for layer in range(32) if types[f"model.layers.{layer}.mlp.down_proj.weight"] == "Q6_K"]
    assert more == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
    assert more == [n for n in range(32) if types[f"model.layers.{n}.self_attn.qkv_proj.weight"] == "Q6_K"]
    assert Counter(types.values()) == {"F32": 65, "Q6_K": 33, "Q4_K": 97}
    assert (types["lm_head.weight"], types["model.embed_tokens.weight"]) == ("Q6_K", "Q4_K")


@pytest.mark.parametrize("config", [MINI, MEDIUM])
@pytest.mark.parametrize("recipe", [name for name, recipe in RECIPES.items() if recipe.format == "gguf"])
def test_every_tensor_is_planned_once_and_in_order(config: dict[str, Any], recipe: str) -> None:
    shape = architecture(config)
    weights = plan(shape, recipe_named(recipe))
    assert {weight.name: weight.shape for weight in weights} == shape.tensor_shapes()
    assert [weight.name for weight in weights] == list(shape.tensor_shapes())
    assert all(weight.bytes * 8 / math.prod(weight.shape) <= 32 for weight in weights)
    assert fallback_notes(shape, recipe_named(recipe)) == ()


def test_tied_embedding_is_stored_like_the_head() -> None:
    weights = plan(architecture(MINI, tie_word_embeddings=True), recipe_named("gguf-q4_0"))
    assert weights[0].storage == "Q6_K"
    assert all(weight.name != "lm_head.weight" for weight in weights)


def test_fallbacks_of_rows_of_576_are_counted() -> None:
    smol = architecture(
        MINI,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    notes = fallback_notes(smol, recipe_named("gguf-q4_k_m"))
    assert [note.removesuffix(", as llama.cpp's quantizer does") for note in notes] == [
        "76 of 121 matrices have rows that blocks of 256 don't divide: Q5_0 in place of Q4_K",
        "15 of 121 matrices have rows that blocks of 256 don't divide: Q8_0 in place of Q6_K",
    ]
    assert fallback_notes(smol, recipe_named("gguf-q8_0")) == ()


def test_recipe_of_another_format_is_refused() -> None:
    with pytest.raises(RecipeError, match="onnx-int4 is not a GGUF recipe"):
        plan(architecture(MINI), recipe_named("onnx-int4"))


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.format == "gguf"])
def test_heads_that_llama_cpp_does_not_load_are_refused_by_the_recipe(name: str) -> None:
    wide = architecture(MINI, head_dim=128)
    with pytest.raises(UnsupportedModelError, match=r"\(32 of 128 elements\) are not as wide as the hidden size") as no:
        plan(wide, recipe_named(name))
    assert no.value.fix == "use one of onnx-fp16, onnx-int8, onnx-int4, coreml-fp16, coreml-int4, coreml-palettized4"
    llama = MINI | {"architectures": ["LlamaForCausalLM"]}
    assert plan(architecture(llama, head_dim=128), recipe_named(name))  # whose graph reads the heads' own width


def test_chosen_types_replace_the_mixtures_in_all_parts_of_a_matrix() -> None:
    llama = architecture(MINI, architectures=["LlamaForCausalLM"], tie_word_embeddings=True)
    types = {
        "model.embed_tokens.weight": "Q6_K",
        "model.layers.3.self_attn.qkv_proj.weight": "Q5_0",
        "model.layers.4.mlp.gate_up_proj.weight": "IQ4_XS",
    }
    recipe = recipe_named("gguf-q4_0")
    before = {weight.name: weight.storage for weight in plan(llama, recipe)}
    chosen = replace(recipe, types=tuple(types.items()))
    after = {weight.name: weight.storage for weight in plan(llama, chosen)}
    assert {name: kind for name, kind in after.items() if kind != before[name]} == {
        "model.layers.3.self_attn.q_proj.weight": "Q5_0",
        "model.layers.3.self_attn.k_proj.weight": "Q5_0",
        "model.layers.3.self_attn.v_proj.weight": "Q5_0",
        "model.layers.4.mlp.gate_proj.weight": "IQ4_XS",
        "model.layers.4.mlp.up_proj.weight": "IQ4_XS",
    }
    assert after["model.embed_tokens.weight"] == "Q6_K"
    assert fallback_notes(llama, chosen) == ()


def test_a_type_whose_blocks_do_not_divide_a_row_is_no_candidate_and_is_refused() -> None:
    narrow = architecture(MINI, hidden_size=576, num_attention_heads=9, num_key_value_heads=3, intermediate_size=1536)
    name = "model.layers.0.mlp.{}_proj.weight"
    assert {one.storage for one in candidates(name.format("down"), narrow)} == set(CANDIDATES)
    assert [one.storage for one in candidates(name.format("gate_up"), narrow)] == [
        "Q4_0", "IQ4_NL", "Q5_0", "Q5_1", "Q8_0"
    ]  # fmt: skip
    with pytest.raises(RecipeError, match="can't be stored as 'Q4_K'"):
        plan(narrow, replace(recipe_named("gguf-q4_0"), types=((name.format("gate_up"), "Q4_K"),)))
    odd = architecture(MINI, hidden_size=40, num_attention_heads=2, num_key_value_heads=2, intermediate_size=40)
    assert [(one.storage, one.bytes) for one in candidates(name.format("down"), odd)] == [("F16", 40 * 40 * 2)]


def test_candidates_have_the_plans_bytes() -> None:
    llama = architecture(MINI, architectures=["LlamaForCausalLM"], num_key_value_heads=8)
    canonical = canonical_names(llama)
    for name in ("model.layers.0.self_attn.qkv_proj.weight", "model.layers.0.mlp.gate_up_proj.weight"):
        for one in candidates(name, llama):
            weights = plan(llama, replace(recipe_named("gguf-q4_0"), types=((name, one.storage),)))
            own = [weight.bytes for weight in weights if canonical[weight.name] == name]
            assert len(own) > 1
            assert (sum(own), own) == (one.bytes, [size for size in own if size % ALIGNMENT == 0])
            assert one.file_bytes == one.bytes


def test_data_begins_where_the_gguf_library_puts_it() -> None:
    assert ALIGNMENT == gguf.GGUF_DEFAULT_ALIGNMENT
