"""Predicted speed: against published measurements, and by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets.architecture import Architecture
from targets.devices import load_targets, target_named
from targets.models import known_model
from targets.recipes import RECIPES, Recipe
from targets.roofline import (
    CONTEXT_TOKENS,
    INFERRED_ERROR_SHARE,
    PUBLISHED_ERROR_SHARE,
    bytes_per_token,
    decode_tokens_per_second,
    error_share,
    tokens_per_second,
)
from tests.targets.architectures import SMALL, architectures

MINI = known_model("phi-3-mini-4k-instruct")
recipes = st.sampled_from(list(RECIPES.values()))


@pytest.mark.parametrize(
    ("target", "recipe", "model", "published"),
    [
        ("iphone-14-pro", "coreml-int4", "phi-3-mini-4k-instruct", 12.0),  # arXiv 2404.14219
        ("iphone-15", "coreml-int4", "phi-3-mini-4k-instruct", 12.0),
        # Phi-3.5-mini has mini-128k's shapes. Qualcomm AI Hub, QNN, w4a16.
        ("galaxy-s24", "onnx-int4", "phi-3-mini-128k-instruct", 13.01),
        ("galaxy-s25", "onnx-int4", "phi-3-mini-128k-instruct", 14.73),
    ],
)
def test_published_speeds_are_within_the_stated_error(target: str, recipe: str, model: str, published: float) -> None:
    device = target_named(target)
    predicted = decode_tokens_per_second(known_model(model), RECIPES[recipe], device)
    assert predicted == pytest.approx(published, rel=error_share(device.decode_efficiency[RECIPES[recipe].format]))


@pytest.mark.parametrize(
    ("efficiency", "bandwidth", "bytes_read", "published"),
    [
        (0.65, 76.8e9, 2435 * 2**20, 19.7),  # Llama-3.2-3B SpinQuant, OnePlus 12, ExecuTorch README
        (0.65, 76.8e9, 8.03e9 * 4.5 / 8, 10.91),  # Llama-3-8B in 4 bits, Galaxy S24, the same
        (0.37, 400e9, 8.03e9 * 4.5 / 8, 33),  # Llama-3.1-8B int4, M1 Max, Apple ML Research
    ],
)
def test_formula_reproduces_other_published_speeds(
    efficiency: float, bandwidth: float, bytes_read: float, published: float
) -> None:
    assert tokens_per_second(efficiency, bandwidth, bytes_read) == pytest.approx(published, rel=PUBLISHED_ERROR_SHARE)


def test_bytes_per_token_are_all_matrices_and_one_embedding_row() -> None:
    recipe = RECIPES["coreml-fp16"]
    matrices = 2 * (64 * 128 + 64 * 64 + 64 * 256 + 128 * 64)  # layers * (qkv, o, gate and up, down)
    norms, head, row = 4 * 64 * 5, 320 * 64, 64
    cache = 2 * 2 * 32 * 100  # keys and values * layers * width * positions
    assert bytes_per_token(SMALL, recipe, 100) == 2 * (matrices + head + row + cache) + norms
    tied = replace(SMALL, tied_embeddings=True)
    assert bytes_per_token(tied, recipe, 100) == 2 * (matrices + head + cache) + norms


@given(architectures(), recipes, st.integers(0, 5000), st.integers(1, 5000))
def test_longer_cache_is_never_faster(architecture: Architecture, recipe: Recipe, tokens: int, more: int) -> None:
    assert bytes_per_token(architecture, recipe, tokens) < bytes_per_token(architecture, recipe, tokens + more)


def test_prediction_uses_at_most_the_context_of_the_model() -> None:
    target, recipe = target_named("iphone-15"), RECIPES["gguf-f16"]
    short = replace(SMALL, context_length=CONTEXT_TOKENS // 2)
    assert decode_tokens_per_second(short, recipe, target) > decode_tokens_per_second(SMALL, recipe, target)


def test_inferred_efficiency_has_a_larger_error() -> None:
    efficiency = target_named("iphone-15").decode_efficiency
    assert error_share(efficiency["coreml"]) == PUBLISHED_ERROR_SHARE
    assert error_share(efficiency["onnx"]) == INFERRED_ERROR_SHARE


def test_four_bits_are_faster_than_sixteen_on_every_device() -> None:
    for target in load_targets().values():
        for four, sixteen in (("gguf-q4_0", "gguf-f16"), ("onnx-int4", "onnx-fp16"), ("coreml-int4", "coreml-fp16")):
            if RECIPES[four].format in target.formats:
                fast, slow = (decode_tokens_per_second(MINI, RECIPES[recipe], target) for recipe in (four, sixteen))
                assert fast > 2 * slow
