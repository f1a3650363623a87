"""The behaviour suite catches every planted defect, and raises no alarm over a sound bundle.

`make test` plants a sample, one of each kind; `CASES=all` every one, over every shape and recipe.
`python -m tests.support.mutants` prints the table of docs/validation.md.
"""

from __future__ import annotations

import pytest

from builders.runtime.text_engines import open_text_engines
from builders.validation.answers import QUICK, answer_built_in
from builders.validation.behaviour.suite import check_behaviour
from targets.recipes import RECIPES
from tests.support.cases import cases
from tests.support.mutants import FP16, SHAPES, Mutant, Nursery, subject_of
from tests.support.planted import MUTANTS

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
_SAMPLE = 5  # of so many mutants one is planted in `make test`, so that each kind and each format is
_SAMPLED_SOUND = {("window", "gguf-f16"), ("window", "onnx-fp16"), ("longrope", "coreml-fp16"), ("llama", "gguf-q4_0")}


def test_there_are_many_and_each_has_its_name() -> None:
    assert len(MUTANTS) >= 100
    assert len({mutant.name for mutant in MUTANTS}) >= 40
    assert len({mutant.id for mutant in MUTANTS}) == len(MUTANTS)
    assert {(mutant.format, mutant.group) for mutant in MUTANTS} == {
        (kind, group) for kind in FP16 for group in ("edges", "ids", "template")
    }


@pytest.mark.parametrize(
    "mutant",
    cases({one.id: one for one in MUTANTS}, {one.id for n, one in enumerate(MUTANTS) if n % _SAMPLE}),
)
def test_a_planted_defect_is_caught(mutant: Mutant, nursery: Nursery) -> None:
    failed = [check for check in mutant.check(nursery).checks if not check.passed]
    assert failed
    assert all(check.detail for check in failed)


# llama.cpp has no graph for Phi-3-small.
_EVERY = [
    (shape, name)
    for shape in SHAPES
    for name, recipe in RECIPES.items()
    if recipe.format != "gguf" or SHAPES[shape].get("family") != "phi3small"
]


@pytest.mark.parametrize(
    ("shape", "recipe"),
    cases(
        {f"{shape}, {recipe}": (shape, recipe) for shape, recipe in _EVERY},
        {f"{shape}, {recipe}" for shape, recipe in _EVERY if (shape, recipe) not in _SAMPLED_SOUND},
    ),
)
def test_a_sound_bundle_raises_no_alarm(shape: str, recipe: str, nursery: Nursery) -> None:
    bundle = nursery.bundle(shape, recipe)
    with subject_of(bundle, nursery.sound(shape)) as subject:
        found = check_behaviour(subject, answer_built_in(subject, QUICK))
    assert [check for check in found.checks if not check.passed] == []
    assert found.figures["behaviour_checks"] == len(found.checks) > 10
    with open_text_engines(bundle) as engines:
        assert {engine.name for engine in engines} <= {one.name.partition(":")[0] for one in found.checks}
