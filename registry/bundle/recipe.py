"""A manifest's recipe as plans and predictions take it."""

from __future__ import annotations

from dataclasses import replace

from registry.bundle.manifest import Manifest
from targets.recipes import Recipe, recipe_named


def recipe_of(manifest: Manifest) -> Recipe:
    """Return the recipe of a bundle, with its KV cache, and the types that were chosen for its budget, if it has one.

    Raises:
        RecipeError: this version of phipack does not know the recipe.
    """
    entry = manifest.recipe
    chosen = () if entry.budget is None else entry.budget.matrices
    types = tuple((matrix.name, matrix.storage) for matrix in chosen)
    return replace(recipe_named(entry.name), types=types, kv_cache=entry.kv_cache)
