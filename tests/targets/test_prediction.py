"""Predictions as evidence: their names, units and basis."""

from __future__ import annotations

from targets.devices import target_named
from targets.evidence import FIGURES
from targets.fit import memory_bytes, require_fit
from targets.gates import judge
from targets.models import known_model
from targets.prediction import predicted_figures
from targets.recipes import RECIPES
from targets.roofline import decode_speed

MINI = known_model("phi-3-mini-4k-instruct")


def test_speed_and_memory_are_predicted_as_evidence() -> None:
    target, recipe = target_named("iphone-15"), RECIPES["coreml-int4"]
    figures = predicted_figures(MINI, recipe, target, 1024)
    assert {name: figure.unit for name, figure in figures.items()} == {
        name: unit for name, (unit, _) in FIGURES.items() if name.startswith("predicted_")
    }
    assert all(figure.kind == "predicted" for figure in figures.values())
    speed, memory = figures["predicted_decode_tokens_per_second"], figures["predicted_memory_bytes"]
    assert speed.value == decode_speed(MINI, recipe, target).low  # gates use the lower end
    assert speed.on == (
        "iphone-15, bandwidth roofline at 512 tokens, lower end of 7.41 to 12.4 (80 %, middle 9.58), "
        "learned from 1 figure of this chip and runtime, leave-one-out error 30%"
    )
    assert memory.value == memory_bytes(MINI, recipe, 1024)
    assert memory.on == "iphone-15, full context of 1024 tokens"


def test_prediction_says_what_it_was_learned_from() -> None:
    figures = predicted_figures(MINI, RECIPES["gguf-q4_0"], target_named("iphone-15"), 1024)
    assert "learned from 3 figures of this runtime on other chips" in figures["predicted_decode_tokens_per_second"].on


def test_mini_in_four_bits_passes_the_gates_of_iphone_14_pro_and_15() -> None:
    for name in ("iphone-14-pro", "iphone-15"):
        target = target_named(name)
        for recipe in ("coreml-int4", "gguf-q4_0", "gguf-q4_k_m"):
            context = require_fit(MINI, RECIPES[recipe], target)
            figures = predicted_figures(MINI, RECIPES[recipe], target, context)
            results = judge({key: figure.value for key, figure in figures.items()}, target.gates, asked_by="target")
            assert [result.passed for result in results] == [True, True], (name, recipe, results)
