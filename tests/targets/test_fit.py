"""What fits: the released models on real phones, the laws of the arithmetic, and the reasons if nothing fits."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets.architecture import Architecture
from targets.devices import Quantity, Target, load_targets, target_named
from targets.errors import FitError, UnsupportedModelError
from targets.fit import (
    CONTEXT_STEP,
    DEFAULT_CONTEXT,
    LEAST_CONTEXT,
    fit,
    fit_all,
    kv_cache_bytes,
    memory_bytes,
    require_fit,
    runtime_bytes,
    weight_bytes,
)
from targets.models import KNOWN_MODELS, known_model
from targets.recipes import RECIPES, Recipe, recipe_named
from targets.storage.plans import plan_of
from tests.targets.architectures import SMALL, architectures

MINI = known_model("phi-3-mini-4k-instruct")
MINI_LONG = known_model("phi-3-mini-128k-instruct")
FOUR_BITS = [recipe.name for recipe in RECIPES.values() if recipe.bits == 4]
UP_TO_SIX_BITS = [recipe.name for recipe in RECIPES.values() if recipe.bits <= 6]
recipes = st.sampled_from(list(RECIPES.values()))


def phone(app_memory_bytes: float, *, name: str = "iphone-15") -> Target:
    budget = Quantity(value=app_memory_bytes, source="a test", confirmed=True)
    return target_named(name).model_copy(update={"app_memory": budget})


@pytest.mark.parametrize("name", ["iphone-14-pro", "iphone-15"])
def test_mini_in_four_bits_fits_iphone_14_pro_and_15_with_a_useful_context(name: str) -> None:
    fits = {found.recipe: found for found in fit_all(MINI, target_named(name))}
    assert [recipe for recipe, found in fits.items() if found.fits] == UP_TO_SIX_BITS
    assert fits["coreml-int4"].longest_context == MINI.context_length
    assert all(fits[recipe].longest_context >= 1024 for recipe in FOUR_BITS)


def test_mini_does_not_fit_the_smallest_device() -> None:
    for found in fit_all(MINI, target_named("iphone-13-mini")):
        assert not found.fits
        assert found.longest_context == 0
        assert "an app has 2.15 GB" in found.reason


def test_mini_fits_every_other_device_in_some_4_bit_recipe() -> None:
    for target in load_targets().values():
        if target.name != "iphone-13-mini":
            assert any(found.fits for found in fit_all(MINI, target, map(recipe_named, FOUR_BITS))), target.name


def test_medium_does_not_fit_devices_with_8_gib() -> None:
    for target in load_targets().values():
        if target.ram.value <= 8 * 2**30:
            assert not any(found.fits for found in fit_all(known_model("phi-3-medium-4k-instruct"), target))


@pytest.mark.parametrize(
    ("recipe", "published_gigabytes"),
    [("gguf-f16", 7.64), ("gguf-q4_0", 2.18), ("gguf-q4_k_m", 2.39), ("coreml-fp16", 7.64), ("onnx-fp16", 7.64)],
)
def test_weights_of_mini_are_as_large_as_the_published_files(recipe: str, published_gigabytes: float) -> None:
    assert weight_bytes(MINI, RECIPES[recipe]) / 1e9 == pytest.approx(published_gigabytes, rel=0.003)


# Files on the Hub, which hold a vocabulary of 200,064 and of 100,352 tokens as well.
@pytest.mark.parametrize(
    ("model", "recipe", "published_gigabytes"),
    [
        ("phi-3.5-mini-instruct", "gguf-q4_k_m", 2.39),
        ("phi-4-mini-instruct", "gguf-f16", 7.68),
        ("phi-4-mini-instruct", "gguf-q8_0", 4.08),
        ("phi-4-mini-instruct", "gguf-q4_k_m", 2.49),
        ("phi-4", "gguf-f16", 29.32),
        ("phi-4", "gguf-q8_0", 15.58),
        ("phi-4", "gguf-q4_k_m", 9.05),
    ],
)
def test_weights_of_later_models_are_as_large_as_the_published_files(
    model: str, recipe: str, published_gigabytes: float
) -> None:
    assert weight_bytes(known_model(model), RECIPES[recipe]) / 1e9 == pytest.approx(published_gigabytes, rel=0.003)


def test_phi_4_mini_fits_wherever_mini_does_and_phi_4_in_the_smallest_recipes_alone() -> None:
    for target in load_targets().values():
        mini, phi_4_mini, phi_4 = (
            {found.recipe: found for found in fit_all(known_model(name), target)}
            for name in ("phi-3.5-mini-instruct", "phi-4-mini-instruct", "phi-4")
        )
        assert [name for name in mini if mini[name].fits] == [name for name in phi_4_mini if phi_4_mini[name].fits]
        assert all(phi_4_mini[name].longest_context >= mini[name].longest_context for name in mini)
        assert {name for name, found in phi_4.items() if found.fits} <= {"gguf-q3_k_m", "coreml-palettized4"}


def test_kv_cache_bytes_match_published_figures() -> None:
    assert kv_cache_bytes(MINI, RECIPES["gguf-q4_0"], 1) == 393_216
    assert kv_cache_bytes(KNOWN_MODELS["phi-3-medium-4k-instruct"], RECIPES["coreml-int4"], 1) == 204_800
    assert kv_cache_bytes(MINI, RECIPES["onnx-int4"], 1) == 2 * 393_216  # float32 there


@given(architectures(), recipes, st.integers(10**5, 2 * 10**9), st.integers(0, 10**9))
def test_more_memory_never_fits_less(architecture: Architecture, recipe: Recipe, budget: int, more: int) -> None:
    smaller, larger = (fit(architecture, recipe, phone(size)) for size in (budget, budget + more))
    assert larger.fits >= smaller.fits
    assert larger.longest_context >= smaller.longest_context


@given(architectures(), recipes, st.integers(0, 9000), st.integers(1, 9000))
def test_longer_context_never_needs_less_memory(
    architecture: Architecture, recipe: Recipe, tokens: int, more: int
) -> None:
    assert memory_bytes(architecture, recipe, tokens) < memory_bytes(architecture, recipe, tokens + more)


@given(architectures(), recipes, st.integers(0, 9000), st.integers(-1, 10**6))
def test_longest_context_fits_and_a_longer_one_does_not(
    architecture: Architecture, recipe: Recipe, tokens: int, more: int
) -> None:
    budget = memory_bytes(architecture, recipe, tokens) + more
    found = fit(architecture, recipe, phone(budget))
    least = min(LEAST_CONTEXT, architecture.context_length)
    assert found.fits == (memory_bytes(architecture, recipe, least) <= budget)
    if not found.fits:
        assert found.reason
        return
    longest = found.longest_context
    assert least <= longest <= architecture.context_length
    assert memory_bytes(architecture, recipe, longest) <= budget
    assert memory_bytes(architecture, recipe, longest) == (
        found.weight_bytes + found.kv_cache_bytes + found.runtime_bytes
    )
    if longest < architecture.context_length:
        assert longest % CONTEXT_STEP == 0
        above = min(longest + CONTEXT_STEP, architecture.context_length)
        assert memory_bytes(architecture, recipe, above) > budget


@given(architectures(), recipes)
def test_weight_bytes_are_the_sum_of_the_plan(architecture: Architecture, recipe: Recipe) -> None:
    plan = plan_of(architecture, recipe)
    assert weight_bytes(architecture, recipe) == sum(weight.bytes for weight in plan)
    assert {weight.name: weight.shape for weight in plan} == architecture.tensor_shapes()


def test_memory_limit_is_exact_to_the_byte() -> None:
    recipe = RECIPES["gguf-q8_0"]
    needed = memory_bytes(SMALL, recipe, LEAST_CONTEXT)
    assert fit(SMALL, recipe, phone(needed)).longest_context == LEAST_CONTEXT
    short = fit(SMALL, recipe, phone(needed - 1))
    assert (short.fits, short.longest_context) == (False, 0)
    assert short.reason == "a context of 512 tokens needs 0.09 GB, an app has 0.09 GB"
    assert short.kv_cache_bytes == kv_cache_bytes(SMALL, recipe, LEAST_CONTEXT)


def test_model_with_a_short_context_fits_with_that_context() -> None:
    architecture = replace(SMALL, context_length=100)
    recipe = RECIPES["gguf-q8_0"]
    assert fit(architecture, recipe, phone(memory_bytes(architecture, recipe, 100))).longest_context == 100


def test_missing_runtime_is_the_first_reason() -> None:
    found = fit(MINI, RECIPES["coreml-fp16"], target_named("pixel-9"))
    assert (found.fits, found.reason) == (False, "Pixel 9 has no runtime for coreml")


def test_model_that_a_format_cannot_store_does_not_fit() -> None:
    odd = replace(SMALL, head_dim=24, hidden_size=96)
    found = fit(odd, RECIPES["onnx-int4"], phone(10**9))
    assert (found.fits, found.longest_context, found.weight_bytes) == (False, 0, 0)
    assert "heads of 24 elements" in found.reason


def test_fit_reports_problem_and_fix_of_a_model_that_llama_cpp_cannot_run() -> None:
    small = known_model("phi-3-small-8k-instruct")
    with pytest.raises(UnsupportedModelError) as refused:
        plan_of(small, RECIPES["gguf-q4_0"])
    found = fit(small, RECIPES["gguf-q4_0"], phone(10**9))
    assert found.reason == f"{refused.value.problem}; {refused.value.fix}"
    assert "use one of onnx-fp16, onnx-int8, onnx-int4, coreml-fp16, coreml-int4, coreml-palettized4" in found.reason


def test_runtime_bytes_include_float16_weights_widened_by_onnxruntime() -> None:
    widened = runtime_bytes(MINI, RECIPES["onnx-fp16"], 512) - runtime_bytes(MINI, RECIPES["coreml-fp16"], 512)
    assert widened >= weight_bytes(MINI, RECIPES["onnx-fp16"])


def test_limitations_of_llama_cpp_are_reported() -> None:
    roomy = phone(2e10)
    windowed = fit(MINI, RECIPES["gguf-q4_0"], roomy)
    assert windowed.fits
    assert windowed.reason == "exact up to 2047 tokens: llama.cpp ignores the sliding window"
    assert fit(MINI, RECIPES["coreml-int4"], roomy).reason == ""
    assert "open it with 4096 tokens" in fit(MINI_LONG, RECIPES["gguf-q4_0"], roomy).reason
    assert fit(MINI_LONG, RECIPES["coreml-int4"], roomy).reason == ""


@pytest.mark.parametrize(("model", "edge"), [(MINI, 1984), (MINI_LONG, 4096)])
def test_limitations_are_reported_only_for_longer_contexts(model: Architecture, edge: int) -> None:
    recipe = RECIPES["gguf-q4_0"]
    for context, said in ((edge, False), (edge + CONTEXT_STEP, True)):
        found = fit(model, recipe, phone(memory_bytes(model, recipe, context)))
        assert found.longest_context == context
        assert bool(found.reason) == said


def test_weights_over_the_app_store_limit_are_reported() -> None:
    assert (
        fit(MINI, RECIPES["onnx-int4"], target_named("pixel-9")).reason
        == "over the app store's limit of 1.50 GB a piece"
    )
    assert fit(SMALL, RECIPES["onnx-int4"], target_named("pixel-9")).reason == ""
    nothing_known = phone(5e9).model_copy(update={"store_limit": None})
    assert fit(MINI, RECIPES["coreml-int4"], nothing_known).reason == ""


def test_required_context_is_the_longest_that_fits_up_to_the_default() -> None:
    roomy, tight = phone(2e10), phone(3.2e9)
    recipe = RECIPES["coreml-int4"]
    assert require_fit(MINI_LONG, recipe, roomy) == DEFAULT_CONTEXT
    assert require_fit(MINI_LONG, recipe, roomy, 20_000) == 20_000
    longest = fit(MINI, recipe, tight).longest_context
    assert LEAST_CONTEXT < longest < DEFAULT_CONTEXT
    assert require_fit(MINI, recipe, tight) == longest
    assert require_fit(MINI, recipe, tight, 100) == 100


def test_fit_error_names_recipes_that_fit() -> None:
    with pytest.raises(FitError) as caught:
        require_fit(MINI, RECIPES["gguf-f16"], target_named("iphone-15"))
    assert caught.value.problem.startswith("gguf-f16 does not fit iphone-15: weights and runtime need 7.78 GB")
    assert caught.value.fix == "use a recipe that fits: " + ", ".join(UP_TO_SIX_BITS)
    with pytest.raises(FitError) as caught:
        require_fit(MINI, RECIPES["gguf-q4_0"], target_named("iphone-13-mini"))
    assert caught.value.fix.endswith("no recipe of this model fits iPhone 13 mini")


def test_fit_error_names_the_longest_context() -> None:
    recipe = RECIPES["coreml-int4"]
    longest = fit(MINI, recipe, phone(3.2e9)).longest_context
    with pytest.raises(FitError, match=f"4096 tokens is more than the {longest} that fit there") as caught:
        require_fit(MINI, recipe, phone(3.2e9), 4096)
    assert caught.value.fix == f"set a context of at most {longest} tokens"
    with pytest.raises(FitError, match="5000 tokens is more than the 4096 that the model supports"):
        require_fit(MINI, recipe, phone(2e10), 5000)
