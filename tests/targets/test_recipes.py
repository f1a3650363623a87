"""Recipes, by name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from targets.budget import Budget
from targets.errors import RecipeError
from targets.recipes import (
    FOUR_BIT_CALIBRATION,
    RECIPES,
    check_budget,
    check_calibration,
    default_calibration,
    recipe_named,
)
from targets.storage.plans import PLANS, plan_of
from tests.targets.architectures import SMALL


def test_all_documented_recipes_exist() -> None:
    assert set(RECIPES) == {
        *("gguf-f16", "gguf-q8_0", "gguf-q6_k", "gguf-q5_k_m", "gguf-q4_k_m"),
        *("gguf-iq4_nl", "gguf-q4_0", "gguf-q3_k_m"),
        *("onnx-fp16", "onnx-int8", "onnx-int4", "coreml-fp16", "coreml-int4", "coreml-palettized4"),
    }


def test_recipe_names_start_with_their_format_and_every_format_has_a_plan() -> None:
    for name, recipe in RECIPES.items():
        assert recipe_named(name) is recipe
        assert name.startswith(recipe.format + "-")
        assert recipe.format in PLANS


def test_fewer_bits_take_fewer_bytes() -> None:
    for format_ in PLANS:
        recipes = sorted((r for r in RECIPES.values() if r.format == format_), key=lambda recipe: recipe.bits)
        sizes = [sum(weight.bytes for weight in plan_of(SMALL, recipe)) for recipe in recipes]
        narrow, wide = recipes[0].bits, recipes[-1].bits
        assert narrow < wide
        assert max(size for size, recipe in zip(sizes, recipes, strict=True) if recipe.bits == narrow) < sizes[-1]


def test_unknown_recipe_suggests_the_most_similar_name() -> None:
    with pytest.raises(RecipeError, match="unknown recipe 'gguf-q4_k'") as caught:
        recipe_named("gguf-q4_k")
    assert caught.value.fix == "did you mean 'gguf-q4_k_m'?"
    with pytest.raises(RecipeError) as caught:
        recipe_named("tflite")
    assert caught.value.fix.startswith("known: coreml-fp16, ")


def test_sixteen_bits_have_no_use_for_a_calibration() -> None:
    for recipe in RECIPES.values():
        assert default_calibration(recipe) == (FOUR_BIT_CALIBRATION if recipe.bits < 8 else "none")
        check_calibration(recipe, "none")
        if recipe.bits < 16:
            check_calibration(recipe, "full")
            continue
        with pytest.raises(RecipeError, match=f"{recipe.name} stores 16-bit weights, which light calibration"):
            check_calibration(recipe, "light")


def test_a_budget_is_calibrated() -> None:
    budget = Budget.of_bits(4.2)
    for recipe in RECIPES.values():
        check_budget(recipe, "none")
        asked = replace(recipe, budget=budget)
        if recipe.bits == 16:
            with pytest.raises(RecipeError, match=rf"a budget \(4.2 bits\) for {recipe.name}"):
                check_budget(asked, "light")
            continue
        if recipe.name == "coreml-palettized4":
            with pytest.raises(RecipeError, match="among blocks, and it has tables") as refused:
                check_budget(asked, "light")
            assert refused.value.fix.startswith("choose coreml-int4")
            continue
        assert default_calibration(asked) == FOUR_BIT_CALIBRATION
        check_budget(asked, "full")
        with pytest.raises(RecipeError, match=r'a budget \(4.2 bits\) with calibration "none"'):
            check_budget(asked, "none")
