"""Predicted speed: against published measurements, and by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets.architecture import Architecture
from targets.devices import Quantity, load_targets, target_named
from targets.models import known_model
from targets.recipes import RECIPES, Recipe
from targets.roofline import (
    CONTEXT_TOKENS,
    bytes_per_token,
    decode_speed,
    tokens_per_second,
)
from targets.speeds import Observation
from tests.targets.architectures import SMALL, architectures

MINI = known_model("phi-3-mini-4k-instruct")
recipes = st.sampled_from(list(RECIPES.values()))


@pytest.mark.parametrize(
    ("target", "recipe", "model", "published"),
    [
        ("iphone-14-pro", "coreml-int4", "phi-3-mini-4k-instruct", 12.0),  # arXiv 2404.14219
        ("iphone-15", "coreml-int4", "phi-3-mini-4k-instruct", 12.0),
        # Not learned from: by QNN, which is another runtime. Phi-3.5-mini has mini-128k's shapes.
        ("galaxy-s24", "onnx-int4", "phi-3-mini-128k-instruct", 13.01),
        ("galaxy-s25", "onnx-int4", "phi-3-mini-128k-instruct", 14.73),
    ],
)
def test_published_speeds_are_within_the_interval(target: str, recipe: str, model: str, published: float) -> None:
    predicted = decode_speed(known_model(model), RECIPES[recipe], target_named(target))
    assert predicted.low < published < predicted.high


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
    assert tokens_per_second(efficiency, bandwidth, bytes_read) == pytest.approx(published, rel=0.25)


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
    assert decode_speed(short, recipe, target).value > decode_speed(SMALL, recipe, target).value


def test_an_estimate_in_a_target_file_counts_where_nothing_was_measured() -> None:
    """More where it is confirmed, and not at all where the chip and runtime have figures."""
    target, recipe = target_named("pixel-10"), RECIPES["gguf-q4_0"]

    def stated(value: float, *, confirmed: bool, soc: str = "Tensor G5") -> float:
        figure = Quantity(value=value, source="made up", confirmed=confirmed)
        changed = target.model_copy(update={"decode_efficiency": {"gguf": figure}, "soc": soc})
        return decode_speed(MINI, recipe, changed).efficiency.value

    assert stated(0.2, confirmed=True) < stated(0.2, confirmed=False) < stated(0.9, confirmed=False)
    assert stated(0.9, confirmed=False) < stated(0.9, confirmed=True)
    assert stated(0.2, confirmed=True, soc="Apple M5") == stated(0.9, confirmed=True, soc="Apple M5")


def test_a_measurement_moves_the_prediction() -> None:
    target, recipe = target_named("pixel-10"), RECIPES["gguf-q4_0"]
    before = decode_speed(MINI, recipe, target)
    measured = Observation("Tensor G5", "llama.cpp", 0.3, "a Pixel 10")
    after = decode_speed(MINI, recipe, target, [measured])
    assert after.value < before.value
    assert after.high / after.low < before.high / before.low


def test_four_bits_are_faster_than_sixteen_on_every_device() -> None:
    for target in load_targets().values():
        for four, sixteen in (("gguf-q4_0", "gguf-f16"), ("onnx-int4", "onnx-fp16"), ("coreml-int4", "coreml-fp16")):
            if RECIPES[four].format in target.formats:
                fast, slow = (decode_speed(MINI, RECIPES[recipe], target).value for recipe in (four, sixteen))
                assert fast > 2 * slow
