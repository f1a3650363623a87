"""The choice of types under a budget of bytes, and the sensitivities that it is made by."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.checkpoint import open_checkpoint
from builders.quantization.budget import RELATIVE_COST, Option, choose, gguf_options
from builders.quantization.sensitivity import Floats, sensitivities
from builders.reference import FloatReference
from builders.reference.statistics import multiplied
from builders.validation.compare import Comparison
from targets.errors import RecipeError
from tests.support.checkpoints import Tiny, write_tiny

OPTION = st.builds(Option, st.just("T"), st.integers(1, 1000), st.floats(0, 1))
OPTIONS = st.dictionaries(st.text("abc", min_size=1), st.lists(OPTION, min_size=1, max_size=4), min_size=1, max_size=5)


def bounds(options: dict[str, list[Option]]) -> tuple[int, int]:
    smallest = sum(min(one.bytes for one in each) for each in options.values())
    best = sum(min(each, key=lambda one: (one.cost, one.bytes)).bytes for each in options.values())
    return smallest, best


@settings(max_examples=200, deadline=None)
@given(OPTIONS, st.floats(0, 1))
def test_a_choice_fits_and_nothing_that_still_fits_is_better(options: dict[str, list[Option]], place: float) -> None:
    smallest, best = bounds(options)
    budget = smallest + int(place * (best - smallest))
    chosen = choose(options, budget)
    total = sum(one.bytes for one in chosen.values())
    assert total <= budget
    assert all(chosen[name] in each for name, each in options.items())
    for name, each in options.items():
        for one in each:
            assert total - chosen[name].bytes + one.bytes > budget or one.cost >= chosen[name].cost
    assert choose(options, budget) == chosen


@settings(max_examples=100, deadline=None)
@given(OPTIONS)
def test_the_whole_budget_buys_the_best_of_each(options: dict[str, list[Option]]) -> None:
    chosen = choose(options, bounds(options)[1])
    least = sum(min(one.cost for one in each) for each in options.values())
    assert sum(one.cost for one in chosen.values()) == pytest.approx(least)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_near_the_best_of_all_choices(seed: int) -> None:
    generator = np.random.default_rng(seed)
    options = {
        str(number): gguf_options((int(rows), 256), cost)
        for number, (rows, cost) in enumerate(
            zip(generator.integers(8, 64, 5), generator.exponential(size=5), strict=True)
        )
    }
    smallest, best = bounds(options)
    budget = (smallest + best) // 2
    whole = [every for every in itertools.product(*options.values()) if sum(one.bytes for one in every) <= budget]
    least = min(sum(one.cost for one in every) for every in whole)
    assert sum(one.cost for one in choose(options, budget).values()) <= 1.5 * least


def test_a_budget_that_no_choice_meets_says_both_ends() -> None:
    options = {"a": gguf_options((10, 64), 1.0)}
    smallest, largest = 10 * 2 * 18, 10 * 2 * 34
    for budget in (smallest - 1, largest + 1):
        with pytest.raises(
            RecipeError, match=f"as possible they have {smallest}, and as closely as possible {largest}"
        ):
            choose(options, budget)


def test_types_whose_blocks_do_not_divide_a_row_are_left_out() -> None:
    assert {one.storage for one in gguf_options((4, 256), 1.0)} == set(RELATIVE_COST)
    assert {one.storage for one in gguf_options((4, 576), 1.0)} == {"Q4_0", "IQ4_NL", "Q5_0", "Q5_1", "Q8_0"}


@pytest.mark.parametrize("tiny", [Tiny(layers=3), Tiny(family="llama", tied=True)], ids=["phi3", "llama, tied"])
def test_sensitivities_are_the_divergences_of_models_with_one_rounded_matrix(tmp_path: Path, tiny: Tiny) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "checkpoint", tiny))
    source, tokens = checkpoint.open_tensors(), np.random.default_rng(0).integers(0, 300, 40)

    def rounded(name: str, matrix: Floats) -> Floats:
        return matrix + np.random.default_rng(len(name)).normal(size=matrix.shape).astype(np.float32) * 0.02

    found = sensitivities(checkpoint.architecture, source, tokens, rounded)
    assert set(found) == set(multiplied(checkpoint.architecture))
    reference = FloatReference(checkpoint)
    exact = reference.logits(reference.hidden(tokens[None])[0])
    for name in [*found][:: 3 if tiny.tied else 2]:
        if name == checkpoint.architecture.head_tensor:
            continue

        class Changed:
            def tensor(self, asked: str, name: str = name) -> Floats:
                return rounded(asked, source.tensor(asked)) if asked == name else source.tensor(asked)

            stored_tensor, rows = source.stored_tensor, source.rows

        other = FloatReference(checkpoint)
        other.__dict__["_source"] = Changed()
        comparison = Comparison()
        comparison.add(exact, other.logits(other.hidden(tokens[None])[0]), tokens)
        assert found[name] == pytest.approx(comparison.figures()["kl_mean"], rel=1e-3)
        assert found[name] > 1e-5
