"""Cells of a release that is quick to do: a brief evaluation, gates that pass."""

from __future__ import annotations

from targets.calibration import Calibration
from targets.devices import target_named
from targets.evaluation import EvaluationSettings
from targets.gates import Gate
from targets.project import Cell
from targets.recipes import recipe_named

BRIEF = EvaluationSettings(tokens=128, window=64, greedy_prompts=2, greedy_prompt_tokens=8, greedy_new_tokens=4)
LOOSE = {"project": {"kl_mean": Gate(at_most=1.0), "artifact_bytes": Gate(at_most=1e9)}}


def cell(
    name: str,
    recipe: str = "gguf-q8_0",
    gates: dict[str, dict[str, Gate]] = LOOSE,
    calibration: Calibration = "none",
) -> Cell:
    return Cell(name, target_named("iphone-15"), recipe_named(recipe), 256, gates, calibration)


def no_build(*_: object, **__: object) -> None:
    """Stand in for a build where none may be."""
    raise AssertionError("a bundle is built")
