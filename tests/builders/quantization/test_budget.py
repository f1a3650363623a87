"""The choice of types under a budget of bytes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.quantization.budget import RELATIVE_COST, Option, best, choose, cost_of, smallest
from targets.config_json import read_architecture
from targets.errors import RecipeError
from targets.recipes import recipe_named
from targets.storage import gguf, onnx
from targets.storage.candidates import candidates_of
from tests.support.cases import examples
from tests.support.checkpoints import Tiny

OPTION = st.builds(Option, st.just("T"), st.integers(1, 1000), st.floats(0, 1))
OPTIONS = st.dictionaries(st.text("abc", min_size=1), st.lists(OPTION, min_size=1, max_size=4), min_size=1, max_size=5)


def bounds(options: dict[str, list[Option]]) -> tuple[int, int]:
    ends = (sum(one.bytes for one in each(options).values()) for each in (smallest, best))
    return next(ends), next(ends)


def options_of(count: int, seed: int) -> dict[str, list[Option]]:
    """Return options of so many matrices of a checkpoint, with sensitivities of an exponential distribution."""
    architecture = read_architecture(Tiny(hidden=256).config())
    costs = np.random.default_rng(seed).exponential(size=100)
    candidates = candidates_of(architecture, recipe_named("gguf-q4_0"))
    return {
        name: [Option(one.storage, one.bytes, cost_of(one, cost)) for one in each]
        for (name, each), cost in zip([*candidates.items()][:count], costs, strict=False)
    }


@settings(max_examples=examples(100), deadline=None)
@given(OPTIONS, st.floats(0, 1))
def test_a_choice_fits_and_nothing_that_still_fits_is_better(options: dict[str, list[Option]], place: float) -> None:
    least, most = bounds(options)
    budget = least + int(place * (most - least))
    chosen = choose(options, budget)
    total = sum(one.bytes for one in chosen.values())
    assert total <= budget
    assert all(chosen[name] in each for name, each in options.items())
    for name, each in options.items():
        for one in each:
            assert total - chosen[name].bytes + one.bytes > budget or one.cost >= chosen[name].cost
    assert choose(options, budget) == chosen


@settings(max_examples=examples(100), deadline=None)
@given(OPTIONS)
def test_the_whole_budget_buys_the_best_of_each(options: dict[str, list[Option]]) -> None:
    chosen = choose(options, bounds(options)[1])
    least = sum(min(one.cost for one in each) for each in options.values())
    assert sum(one.cost for one in chosen.values()) == pytest.approx(least)


@pytest.mark.parametrize("seed", range(5))
def test_no_choice_of_one_change_fewer_bytes_is_better(seed: int) -> None:
    """The bound of the greedy choice: up to the first change that does not fit, it is the best for its own bytes."""
    numbers = np.random.default_rng(seed)
    options = {
        str(matrix): [Option("T", int(numbers.integers(1, 30)), numbers.exponential()) for _ in range(4)]
        for matrix in range(40)
    }
    change = max(max(one.bytes for one in each) - min(one.bytes for one in each) for each in options.values())
    least, most = bounds(options)
    lowest = np.zeros(most + 1)  # the lowest cost of all choices of at most so many bytes, matrix by matrix
    for each in options.values():
        with_it = [np.concatenate([np.full(one.bytes, np.inf), lowest])[: most + 1] + one.cost for one in each]
        lowest = np.minimum.reduce(with_it)
    assert lowest[most] == pytest.approx(sum(min(one.cost for one in each) for each in options.values()))
    for budget in range(least, most + 1, 7):
        cost = sum(one.cost for one in choose(options, budget).values())
        assert lowest[budget] - 1e-9 <= cost <= lowest[max(budget - change, 0)] + 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_it_is_near_the_best_of_all_choices(seed: int) -> None:
    options = options_of(4, seed)
    budget = sum(bounds(options)) // 2
    whole = [every for every in itertools.product(*options.values()) if sum(one.bytes for one in every) <= budget]
    least = min(sum(one.cost for one in every) for every in whole)
    assert sum(one.cost for one in choose(options, budget).values()) <= 1.5 * least


@pytest.mark.parametrize("change", [-1, 1])
def test_a_budget_that_no_choice_meets_says_both_ends(change: int) -> None:
    options = options_of(3, 0)
    least, most = bounds(options)
    with pytest.raises(RecipeError, match=f"as possible they have {least:,}, and as closely as possible {most:,}"):
        choose(options, least - 1 if change < 0 else most + 1)


def test_every_candidate_has_a_cost_and_more_bytes_cost_less() -> None:
    for names in (gguf.CANDIDATES, [blocks.label for blocks in onnx.CANDIDATES]):
        assert set(names) <= set(RELATIVE_COST)
    architecture = read_architecture(Tiny(hidden=256).config())
    for recipe in ("gguf-q4_0", "onnx-int4"):
        for each in candidates_of(architecture, recipe_named(recipe)).values():
            sizes = {one.bytes: min(cost_of(other, 1.0) for other in each if other.bytes == one.bytes) for one in each}
            costs = [sizes[size] for size in sorted(sizes)]
            assert costs == sorted(costs, reverse=True)
