"""The bits that labels of storages state: a label has other numbers in it, too."""

from __future__ import annotations

import math

import pytest

from targets.config_json import read_architecture
from targets.errors import BundleError
from targets.kv_cache import CACHE_TYPES
from targets.recipes import RECIPES, Recipe, recipe_named
from targets.storage.bits import bits_of
from targets.storage.candidates import candidates_of
from targets.storage.plans import plan_of
from tests.support.checkpoints import Tiny

# Rows that every kind of block divides, and query heads that share keys: ONNX then stores value rows in 8 bits.
ARCHITECTURE = read_architecture(Tiny(hidden=512, intermediate=512, heads=8, kv_heads=4).config())


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=list(RECIPES))
def test_the_fewest_bits_of_a_recipes_matrices_are_its_own(recipe: Recipe) -> None:
    assert min(bits_of(weight.storage) for weight in plan_of(ARCHITECTURE, recipe)) == recipe.bits


@pytest.mark.parametrize("recipe", ["gguf-q4_0", "onnx-int4", "coreml-int4"])
def test_what_a_budget_may_choose_has_about_as_many_bytes_as_its_bits_say(recipe: str) -> None:
    """A float16 scale and a 4-bit zero point for 16 elements take 1.25 bits; 8-bit rows raise a matrix's mean."""
    shapes = ARCHITECTURE.tensor_shapes()
    for name, candidates in candidates_of(ARCHITECTURE, recipe_named(recipe)).items():
        for each in candidates:
            bits = 8 * each.bytes / math.prod(shapes[name])
            assert bits_of(each.storage) == min(map(bits_of, each.types))
            assert 0 < bits - bits_of(each.storage) <= (2 if len(each.types) > 1 else 1.25), each.storage


@pytest.mark.parametrize(
    ("label", "bits"),
    [
        *[("table of 16 for 8 rows", 4), ("3072 rows uint4 block 32, 1024 rows int8 block 128", 4), ("float16", 16)],
        *[("int8 block 128", 8), ("IQ4_NL", 4), ("Q3_K", 3), ("F16", 16), ("float32", 32), ("F32", 32)],
        *[("table of 8 block 32", 3), ("table of 16 block 64", 4)],
        *[("8 rows int8 block 32, 8 rows uint4 block 32", 4), ("uint4 block 128", 4)],
    ],
)
def test_only_the_number_of_bits_counts(label: str, bits: int) -> None:
    assert bits_of(label) == bits


def test_types_of_caches_have_bits() -> None:
    assert {name: bits_of(name) for types in CACHE_TYPES.values() for name in types} == {
        "f16": 16,
        "q8_0": 8,
        "q5_1": 5,
        "q5_0": 5,
        "q4_1": 4,
        "q4_0": 4,
        "int8": 8,
    }


@pytest.mark.parametrize("label", ["", "MXFP4", "table of 16", "12 rows"])
def test_another_label_is_refused(label: str) -> None:
    with pytest.raises(BundleError, match="does not know"):
        bits_of(label)
