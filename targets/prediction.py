"""Figures that are predicted for a target, as evidence: each with its unit and the basis of the prediction."""

from __future__ import annotations

from targets.architecture import Architecture
from targets.devices import Target
from targets.evidence import FIGURES, Figure
from targets.fit import memory_bytes
from targets.recipes import Recipe
from targets.roofline import CONTEXT_TOKENS, decode_tokens_per_second, error_share


def predicted_figures(
    architecture: Architecture, recipe: Recipe, target: Target, context_length: int
) -> dict[str, Figure]:
    """Predict speed and memory of a recipe on a target. `recipe.format` must be one of the target's."""
    efficiency = target.decode_efficiency[recipe.format]
    basis = "published" if efficiency.confirmed else "inferred"
    read = min(CONTEXT_TOKENS, architecture.context_length)
    speed = f"{target.name}, bandwidth roofline at {read} tokens, {basis} efficiency, ± {error_share(efficiency):.0%}"
    values = {
        "predicted_decode_tokens_per_second": (decode_tokens_per_second(architecture, recipe, target), speed),
        "predicted_memory_bytes": (
            memory_bytes(architecture, recipe, context_length),
            f"{target.name}, full context of {context_length} tokens",
        ),
    }
    return {
        name: Figure(value=value, unit=FIGURES[name][0], kind="predicted", on=on)
        for name, (value, on) in values.items()
    }
