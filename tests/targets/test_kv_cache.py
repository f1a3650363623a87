"""Types of the KV cache: their bytes against the gguf package's table, and what they change in predictions."""

from __future__ import annotations

from dataclasses import replace

import gguf
import pytest

from targets.budget import Budget
from targets.devices import target_named
from targets.errors import RecipeError
from targets.fit import fit, memory_bytes
from targets.kv_cache import CACHE_TYPES, check_kv_cache, kv_cache_bytes, with_kv_cache
from targets.models import KNOWN_MODELS
from targets.recipes import RECIPES, check_budget, check_calibration, default_calibration
from targets.roofline import bytes_per_token, decode_speed
from targets.runtimes.table import requires

MINI = KNOWN_MODELS["phi-3-mini-4k-instruct"]
PLAIN = RECIPES["gguf-q4_0"]
QUANTIZED = with_kv_cache(PLAIN, "q8_0")
PHONE = target_named("iphone-15")


@pytest.mark.parametrize("name", CACHE_TYPES["gguf"])
def test_blocks_are_those_of_ggml(name: str) -> None:
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name.upper()]]
    assert (CACHE_TYPES["gguf"][name].block_size, CACHE_TYPES["gguf"][name].block_bytes) == (block, size)
    # 32 layers of 32 heads of 96 keys and as many values
    assert kv_cache_bytes(MINI, with_kv_cache(PLAIN, name), 4096) == 4096 * 2 * 32 * 32 * 96 // block * size


def test_the_default_is_the_recipe_as_it_is() -> None:
    assert with_kv_cache(PLAIN, "f16") == PLAIN
    assert kv_cache_bytes(MINI, PLAIN, 4096) == 1_610_612_736
    assert kv_cache_bytes(MINI, replace(PLAIN, kv_cache="f16"), 4096) == 1_610_612_736


def test_a_smaller_cache_leaves_memory_for_a_longer_context_and_is_read_faster() -> None:
    saved = kv_cache_bytes(MINI, PLAIN, 512) - kv_cache_bytes(MINI, QUANTIZED, 512)
    assert saved == 512 * 393_216 * 30 // 64
    assert memory_bytes(MINI, PLAIN, 512) - memory_bytes(MINI, QUANTIZED, 512) == saved
    assert bytes_per_token(MINI, PLAIN, 512) - bytes_per_token(MINI, QUANTIZED, 512) == saved
    long = KNOWN_MODELS["phi-3-mini-128k-instruct"]
    assert fit(long, QUANTIZED, PHONE).longest_context > fit(long, PLAIN, PHONE).longest_context
    assert decode_speed(MINI, QUANTIZED, PHONE).value > decode_speed(MINI, PLAIN, PHONE).value


def test_formats_without_a_table_refuse_a_type() -> None:
    with pytest.raises(RecipeError, match=r"coreml-int4 with a KV cache in q8_0: .* GGUF and ONNX recipes") as caught:
        with_kv_cache(RECIPES["coreml-int4"], "q8_0")
    assert caught.value.fix == "remove the type of the KV cache for coreml-int4, or choose a GGUF or ONNX recipe"


@pytest.mark.parametrize(("name", "own", "share"), [("onnx-fp16", "f16", 2), ("onnx-int8", "f32", 4)])
def test_onnx_stores_int8_or_the_recipe_s_own_floats(name: str, own: str, share: int) -> None:
    recipe = RECIPES[name]
    assert with_kv_cache(recipe, own) == recipe
    assert kv_cache_bytes(MINI, recipe, 512) == share * kv_cache_bytes(MINI, with_kv_cache(recipe, "int8"), 512)
    with pytest.raises(RecipeError, match=f"{name}: unknown type of KV cache 'q8_0'") as caught:
        with_kv_cache(recipe, "q8_0")
    assert caught.value.fix == f"known: {own}, int8"


def test_an_int8_cache_is_calibrated_and_no_reason_for_types_in_16_bits() -> None:
    for recipe in (with_kv_cache(RECIPES[name], "int8") for name in ("onnx-fp16", "onnx-int8", "onnx-int4")):
        assert default_calibration(recipe) == "light"
        check_calibration(recipe, "full")
        with pytest.raises(RecipeError, match='with a KV cache in int8 and calibration "none"'):
            check_calibration(recipe, "none")
    with pytest.raises(RecipeError, match="which stores all weights in 16 bits"):
        check_budget(replace(with_kv_cache(RECIPES["onnx-fp16"], "int8"), budget=Budget.of_bits(4.2)), "light")


def test_fit_says_why_a_model_has_no_such_cache() -> None:
    found = fit(KNOWN_MODELS["phi-3-small-8k-instruct"], with_kv_cache(RECIPES["onnx-int4"], "int8"), PHONE)
    assert not found.fits
    assert "this model needs SparseAttention" in found.reason


def test_an_unknown_type_is_refused_with_a_similar_one() -> None:
    with pytest.raises(RecipeError, match="gguf-q4_0: unknown type of KV cache 'q8'") as caught:
        with_kv_cache(PLAIN, "q8")
    assert "q8_0" in caught.value.fix


def test_heads_that_no_blocks_divide_are_refused() -> None:
    narrow = replace(MINI, head_dim=80)
    for compute in (lambda: check_kv_cache(narrow, QUANTIZED), lambda: kv_cache_bytes(narrow, QUANTIZED, 1)):
        with pytest.raises(RecipeError, match=r"heads of 80 values are no multiple of its blocks of 32") as caught:
            compute()
        assert caught.value.fix.startswith("use the default, f16")
    check_kv_cache(narrow, PLAIN)


@pytest.mark.parametrize("name", [name for name in CACHE_TYPES["gguf"] if name != "f16"])
def test_every_quantized_type_has_a_first_version_of_llama_cpp(name: str) -> None:
    needed = requires(["gguf/version/3", f"gguf/kv_cache/{name}"])
    assert [str(one) for one in needed.runtimes] == ["llama.cpp b2936 or later"]
