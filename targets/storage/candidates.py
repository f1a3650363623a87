"""What a budget chooses among: the ways to store each matrix of a checkpoint in a recipe's format."""

from __future__ import annotations

from collections.abc import Callable

from targets.architecture import Architecture
from targets.errors import UnsupportedModelError
from targets.recipes import Format, Recipe
from targets.storage import Candidate, coreml, gguf, onnx

_OF: dict[Format, Callable[[str, Architecture], tuple[Candidate, ...]]] = {
    "gguf": gguf.candidates,
    "onnx": onnx.candidates,
    "coreml": coreml.candidates,
}


def candidates_of(architecture: Architecture, recipe: Recipe) -> dict[str, tuple[Candidate, ...]]:
    """Return the ways to store each matrix, by its canonical name, in the checkpoint's order.

    `Recipe.candidates` limits them. Where it leaves a matrix none, that matrix has all that the format can store.

    Raises:
        UnsupportedModelError: the format can't store a matrix in blocks.
    """
    found = {}
    for name, shape in architecture.tensor_shapes().items():
        if len(shape) == 2:
            possible = _OF[recipe.format](name, architecture)
            if not possible:
                raise UnsupportedModelError(
                    f"{recipe.name}: rows of {name!r} have {shape[1]} elements, which no kind of block divides",
                    fix="choose a recipe without a budget",
                )
            allowed = tuple(one for one in possible if set(one.types) <= set(recipe.candidates))
            found[name] = allowed or possible
    return found
