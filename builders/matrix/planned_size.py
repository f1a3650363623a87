"""How large the bundle of a cell will be, as far as that is known before its types are chosen."""

from __future__ import annotations

from dataclasses import replace

from builders.checkpoint import Checkpoint
from builders.choose_types import budget_ends
from builders.conversion import BuildRequest
from builders.matrix.records import CheckpointFacts
from builders.sizes import bundle_sizes
from targets.budget_fit import require_possible
from targets.fit import weight_bytes
from targets.recipes import Recipe


def planned_bytes(checkpoint: Checkpoint | CheckpointFacts, recipe: Recipe, context_length: int) -> int:
    """Return the bytes of a bundle's files, or of its weights alone where the checkpoint's files are not here.

    For a budget it is what this allows: the types that spend it are chosen by what a build measures.

    Args:
        checkpoint: the checkpoint, or its facts.
        recipe: with a budget in bytes or bits, if it has one.
        context_length: of the bundle, in tokens.

    Raises:
        CheckpointError: the tokenizer is damaged. UnsupportedModelError: the recipe can't build the checkpoint.
        RecipeError: the budget is below the smallest choice of types, or above the largest.
    """
    weights = weight_bytes(checkpoint.architecture, recipe)
    if not isinstance(checkpoint, Checkpoint):
        return weights
    request = BuildRequest.from_checkpoint(checkpoint, recipe, context_length)
    if recipe.budget is None:
        return sum(bundle_sizes(request).values())
    least, most = budget_ends(request)
    require_possible(checkpoint.architecture, recipe, least, most)
    if recipe.budget.kind == "bytes":
        return weights
    usual = replace(recipe, budget=None)  # in bits, the other files are not counted
    other = sum(bundle_sizes(replace(request, recipe=usual)).values()) - weight_bytes(checkpoint.architecture, usual)
    return weights + other
