"""What a budget comes to on a target, and between which sizes it must lie. Pure arithmetic over the model's shape.

The types themselves are chosen later, by sensitivities that are measured on the checkpoint
(`builders/quantization/budget.py`). What is certain before is refused here: a budget below the smallest choice of types
or above the largest, and one that does not fit the target.
"""

from __future__ import annotations

import math
from dataclasses import replace

from targets.architecture import Architecture
from targets.budget import Budget
from targets.devices import Target
from targets.errors import FitError, RecipeError
from targets.fit import least_context, require_fit, room_for_weights, weight_bytes
from targets.recipes import Recipe
from targets.storage.candidates import candidates_of


def stored_on(
    architecture: Architecture,
    recipe: Recipe,
    target: Target,
    asked_context: int | None = None,
    *,
    memory: float = math.inf,
) -> tuple[Recipe, int]:
    """Return a recipe as it is built for a target, `fit` as a number of bytes, and the context in tokens.

    `fit` is the largest size with which the app's predicted memory is within the target's; the context is the asked
    one, else the one that a recipe without a budget would have there, else, where that recipe does not fit, the one
    that the smallest choice of types would have. All of the bundle's files count, so its weights have a little less.

    Args:
        architecture: the model's.
        recipe: with its budget, if it has one.
        target: the device.
        asked_context: in tokens; by default the longest that fits, at most 4,096.
        memory: a bound on the app's predicted memory in bytes, in addition to the target's.

    Raises:
        FitError: the budget does not fit the target, not even the smallest choice does, or the context doesn't.
        RecipeError: the budget is below the smallest choice of types, or above the largest.
        UnsupportedModelError: the format can't store the model.
    """
    if recipe.budget is None:
        return recipe, require_fit(architecture, recipe, target, asked_context)
    smallest, largest = choice_range(architecture, recipe)
    least, most = weight_bytes(architecture, smallest), weight_bytes(architecture, largest)
    if recipe.budget.kind != "fit":
        # With the other files, which are not known here, a budget in bytes may be a little larger.
        above = math.inf if recipe.budget.kind == "bytes" else most
        require_possible(architecture, recipe, least, most, above)
        return recipe, require_fit(architecture, recipe, target, asked_context)
    context = _context(architecture, recipe, smallest, target, asked_context)
    allowed = int(min(target.app_memory_bytes, memory))
    room = min(most, room_for_weights(architecture, recipe, allowed, max(context, least_context(architecture))))
    if room < least:
        raise FitError(
            f"{recipe.name} on {target.name}, with a context of {context} tokens: {_bytes(max(0, room))} are left for "
            f"weights, and stored as small as possible they have {_bytes(least)}",
            fix="ask for a shorter context, or use a smaller model or a target with more memory",
        )
    fitted = replace(recipe, budget=Budget("bytes", room))
    return fitted, require_fit(architecture, fitted, target, context)


def choice_range(architecture: Architecture, recipe: Recipe) -> tuple[Recipe, Recipe]:
    """Return the recipe with the smallest and with the largest types that may be chosen for its budget."""
    possible = candidates_of(architecture, recipe)
    by_size = {name: sorted(each, key=lambda one: one.bytes) for name, each in possible.items()}
    smallest, largest = (tuple((name, each[place].storage) for name, each in by_size.items()) for place in (0, -1))
    return replace(recipe, types=smallest), replace(recipe, types=largest)


def require_possible(
    architecture: Architecture, recipe: Recipe, least: int, most: int, above: float | None = None
) -> None:
    """Check that a budget lies between the sizes of the smallest and the largest choice of types.

    Args:
        architecture: the model's.
        recipe: with a budget in bytes or bits.
        least: bytes of the smallest choice, of what the budget counts: all files of a bundle, or its weights for bits.
        most: bytes of the largest choice.
        above: the bytes above which it is refused, where that is not `most`.

    Raises:
        RecipeError: it does not. Both sizes are named.
    """
    budget = recipe.budget
    assert budget is not None
    asked = budget.allowed_bytes(architecture.parameter_count)
    if least <= asked <= (most if above is None else above):
        return
    ends = [_reachable(budget, size, architecture.parameter_count, up) for size, up in ((least, True), (most, False))]
    shown = [f"{end:,} B" if budget.kind == "bytes" else f"{end:g} bits" for end in ends]
    unit = "B" if budget.kind == "bytes" else " bits"
    among = f" among {', '.join(recipe.candidates)}, which are fast on the target," if recipe.candidates else ""
    raise RecipeError(
        f"{recipe.name} with a budget of {budget.label}: the smallest choice of types{among} takes {shown[0]}, the "
        f"largest {shown[1]}",
        fix=f"ask for {ends[0]}{unit} to {ends[1]}{unit}" + ("; or use a smaller model" if asked < least else ""),
    )


def _context(
    architecture: Architecture, recipe: Recipe, smallest: Recipe, target: Target, asked_context: int | None
) -> int:
    """Return the context of a bundle that is as large as fits."""
    if asked_context is not None:
        return require_fit(architecture, smallest, target, asked_context)
    try:
        return require_fit(architecture, replace(recipe, budget=None), target)
    except FitError:
        return require_fit(architecture, smallest, target)


def _reachable(budget: Budget, size: int, parameters: int, up: bool) -> float:
    """Return a size in the budget's unit, bits rounded so that asking for them is right."""
    if budget.kind == "bytes":
        return size
    bits = 1000 * 8 * size / parameters
    return (math.ceil(bits) if up else math.floor(bits)) / 1000


def _bytes(size: float) -> str:
    return f"{int(size):,} B"
