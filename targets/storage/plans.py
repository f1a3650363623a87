"""The storage plans of all formats, behind one function."""

from __future__ import annotations

from collections.abc import Callable

from targets.architecture import Architecture
from targets.recipes import Format, Recipe
from targets.storage import StoredWeight, coreml, gguf, onnx

PLANS: dict[Format, Callable[[Architecture, Recipe], tuple[StoredWeight, ...]]] = {
    "gguf": gguf.plan,
    "onnx": onnx.plan,
    "coreml": coreml.plan,
}


def plan_of(architecture: Architecture, recipe: Recipe) -> tuple[StoredWeight, ...]:
    """Return how a recipe stores each tensor. Raises `UnsupportedModelError` if it can't store the model."""
    return PLANS[recipe.format](architecture, recipe)
