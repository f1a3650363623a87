"""Estimates of what a build needs follow from what it does."""

from __future__ import annotations

from builders.checkpoint import Checkpoint
from builders.matrix.rates import Rates, build_needs, walk_needs
from builders.quantization.calibration.walks import CalibrationWalk
from targets.kv_cache import with_kv_cache
from targets.recipes import recipe_named


def test_a_scaled_cache_takes_a_walk_over_special_tokens(tiny: Checkpoint) -> None:
    rates, shape = Rates({}), tiny.architecture
    recipe = recipe_named("onnx-int8")
    plain, scaled = (build_needs(rates, shape, one, 1000, "light") for one in (recipe, with_kv_cache(recipe, "int8")))
    walk = walk_needs(rates, shape, CalibrationWalk("light"))
    assert plain.seconds < scaled.seconds < plain.seconds + walk.seconds
    assert plain.memory_bytes < walk.memory_bytes == scaled.memory_bytes
    measured = Rates({("calibrate", "light"): 1.0})
    assert build_needs(measured, shape, with_kv_cache(recipe, "int8"), 1000, "light").seconds != scaled.seconds
    assert build_needs(measured, shape, recipe, 1000, "light").seconds == plain.seconds
    same_files = with_kv_cache(recipe_named("gguf-f16"), "q8_0")
    assert build_needs(rates, shape, same_files, 1000, "none") == build_needs(
        rates, shape, recipe_named("gguf-f16"), 1000, "none"
    )
