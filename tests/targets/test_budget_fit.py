"""What a budget comes to on a target, and between which sizes it must lie."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets.architecture import Architecture
from targets.budget import Budget
from targets.budget_fit import choice_range, stored_on
from targets.devices import Quantity, Target, target_named
from targets.errors import FitError, RecipeError
from targets.fit import memory_bytes, require_fit, room_for_weights, weight_bytes
from targets.kernels import fast_types
from targets.models import known_model
from targets.recipes import RECIPES, Recipe, recipe_named
from targets.storage.gguf import TYPES
from tests.targets.architectures import architectures


def phone(app_memory_bytes: float, *, name: str = "iphone-15") -> Target:
    memory = Quantity(value=app_memory_bytes, source="a test", confirmed=True)
    return target_named(name).model_copy(update={"app_memory": memory})


MINI = known_model("phi-3-mini-4k-instruct")
BUDGETED = [recipe for recipe in RECIPES.values() if recipe.bits < 16]
FAST = fast_types("gguf", phone(4e9, name="galaxy-s24"))
IN_ANY_TYPE = Budget("fit")


def asked(recipe: str, budget: Budget, *candidates: str) -> Recipe:
    return replace(recipe_named(recipe), budget=budget, candidates=candidates)


def test_the_ends_of_mini_are_those_of_its_smallest_and_largest_type() -> None:
    """By hand: Q3_K has 110 bytes for 256 weights, Q8_0 34 for 32; vectors have 4 bytes for each."""
    vectors = (2 * MINI.layer_count + 1) * MINI.hidden_size
    matrices = MINI.parameter_count - vectors
    smallest, largest = choice_range(MINI, asked("gguf-q4_k_m", Budget("fit")))
    assert weight_bytes(MINI, smallest) == 4 * vectors + matrices * 110 // 256
    assert weight_bytes(MINI, largest) == 4 * vectors + matrices * 34 // 32
    fast, _ = choice_range(MINI, asked("gguf-q4_k_m", Budget("fit"), *FAST))
    assert weight_bytes(MINI, fast) == 4 * vectors + matrices * 18 // 32


def test_without_a_budget_a_recipe_is_as_it_was() -> None:
    target = phone(3e9)
    for recipe in (recipe_named("gguf-q4_k_m"), recipe_named("coreml-int4")):
        assert stored_on(MINI, recipe, target) == (recipe, require_fit(MINI, recipe, target))


@pytest.mark.parametrize("budget", [Budget.of_size("2.0GB"), Budget.of_bits(4.5)])
def test_a_size_is_kept_and_its_context_is_what_it_leaves(budget: Budget) -> None:
    target = phone(3e9)
    recipe, context = stored_on(MINI, asked("gguf-q4_k_m", budget), target)
    assert recipe.budget == budget
    weights = 2_000_000_000 if budget.kind == "bytes" else int(MINI.parameter_count * 4.5 / 8)
    assert weight_bytes(MINI, recipe) == weights
    assert memory_bytes(MINI, recipe, context) <= target.app_memory_bytes
    with pytest.raises(FitError, match="is more than the"):
        stored_on(MINI, recipe, target, 4096)


@pytest.mark.parametrize("recipe", ["gguf-q4_k_m", "onnx-int4", "coreml-int4"])
@pytest.mark.parametrize("app_memory", [3.4e9, 3.7e9, 4.1e9])
def test_fit_fills_the_memory(recipe: str, app_memory: float) -> None:
    """Not a byte more of weights would fit, unless all have the largest type."""
    target = phone(app_memory)
    fitted, context = stored_on(MINI, asked(recipe, IN_ANY_TYPE), target, 1024)
    assert context == 1024
    assert fitted.budget is not None
    assert fitted.budget.kind == "bytes"
    assert memory_bytes(MINI, fitted, 1024) <= app_memory
    more = replace(fitted, budget=Budget("bytes", fitted.budget.amount + 2))
    assert memory_bytes(MINI, more, 1024) > app_memory


def test_fit_takes_the_largest_types_where_all_fit() -> None:
    recipe = asked("gguf-q4_k_m", IN_ANY_TYPE)
    fitted, context = stored_on(MINI, recipe, phone(20e9))
    assert fitted.budget == Budget("bytes", weight_bytes(MINI, choice_range(MINI, recipe)[1]))
    assert context == 4096


def test_fit_has_the_context_of_the_recipe_without_a_budget() -> None:
    target = phone(3.4e9)
    plain = require_fit(MINI, recipe_named("gguf-q4_k_m"), target)
    fitted, context = stored_on(MINI, asked("gguf-q4_k_m", IN_ANY_TYPE), target)
    assert context == plain
    assert fitted.budget is not None
    assert fitted.budget.amount >= weight_bytes(MINI, recipe_named("gguf-q4_k_m"))


def test_fit_saves_a_recipe_that_does_not_fit_itself() -> None:
    target = phone(2.6e9)
    with pytest.raises(FitError):
        require_fit(MINI, recipe_named("gguf-q8_0"), target)
    fitted, context = stored_on(MINI, asked("gguf-q8_0", IN_ANY_TYPE), target)
    assert memory_bytes(MINI, fitted, context) <= 2.6e9


def test_fit_stays_below_another_bound_on_memory() -> None:
    recipe, target = asked("gguf-q4_k_m", IN_ANY_TYPE), phone(4e9)
    fitted, _ = stored_on(MINI, recipe, target, 512, memory=3e9)
    assert 3e9 - 2 < memory_bytes(MINI, fitted, 512) <= 3e9
    assert stored_on(MINI, recipe, target, 512, memory=9e9) == stored_on(MINI, recipe, target, 512)


def test_what_does_not_fit_says_what_would() -> None:
    with pytest.raises(FitError, match=r"gguf-q4_k_m does not fit iphone-15: weights and runtime need") as caught:
        stored_on(MINI, asked("gguf-q4_k_m", Budget.of_size("3.9GB")), phone(4e9))
    assert caught.value.fix.startswith('ask for a smaller size, or for "fit", the largest that fits there; or use')
    with pytest.raises(FitError, match=r"of 4096 tokens: [\d,]+ B are left for weights, .* 1,64") as caught:
        stored_on(MINI, asked("gguf-q4_k_m", IN_ANY_TYPE), phone(4e9), 4096, memory=3e9)
    assert caught.value.fix.startswith("ask for a shorter context")
    with pytest.raises(FitError, match="does not fit"):
        stored_on(MINI, asked("gguf-q4_k_m", IN_ANY_TYPE), phone(1e9))


@pytest.mark.parametrize("budget", [Budget.of_size("1GB"), Budget.of_bits(3.4), Budget.of_bits(8.6)])
def test_what_no_choice_of_types_has_is_refused_and_both_ends_are_named(budget: Budget) -> None:
    recipe, target = asked("gguf-q4_k_m", budget), phone(8e9)
    with pytest.raises(RecipeError, match=re.escape(f"with a budget of {budget.label}: the smallest choice")) as caught:
        stored_on(MINI, recipe, target)
    ends = re.findall(r"([\d.]+)(?:B| bits)", caught.value.fix)
    assert len(ends) == 2
    for end in ends:  # what is named is possible
        named = Budget.of_size(f"{end}B") if budget.kind == "bytes" else Budget.of_bits(float(end))
        assert stored_on(MINI, replace(recipe, budget=named), target)[0].budget == named


def test_types_that_are_left_out_are_said() -> None:
    with pytest.raises(RecipeError, match=r"among Q4_0, IQ4_NL, Q4_K, Q5_K, Q6_K, Q8_0, which are fast on the target"):
        stored_on(MINI, asked("gguf-q4_k_m", Budget.of_bits(4.2), *FAST), phone(8e9))


@given(architectures(), st.sampled_from(BUDGETED), st.floats(0, 1), st.integers(64, 2048))
def test_room_for_weights_is_what_fits(architecture: Architecture, recipe: Recipe, share: float, context: int) -> None:
    smallest, largest = choice_range(architecture, replace(recipe, budget=IN_ANY_TYPE))
    least, most = weight_bytes(architecture, smallest), weight_bytes(architecture, largest)
    assert least <= most
    memory = memory_bytes(architecture, smallest, context) + math.floor(share * 2 * (most - least))
    room = room_for_weights(architecture, recipe, memory, context)
    for weights, fits in ((room, True), (room + 2, False)):
        of_room = replace(recipe, budget=Budget("bytes", weights))
        assert (memory_bytes(architecture, of_room, context) <= memory) == fits


def test_candidates_are_types_of_the_format() -> None:
    assert set(FAST) < set(TYPES)
