"""Figures that are predicted for a target, as evidence: each with its unit and the basis of the prediction.

The speed is the lower end of its interval: a gate on it passes only where the device is likely to be that fast.
"""

from __future__ import annotations

from collections.abc import Sequence

from targets.architecture import Architecture
from targets.devices import Target
from targets.evidence import FIGURES, Figure
from targets.fit import memory_bytes
from targets.recipes import Recipe
from targets.roofline import CONTEXT_TOKENS, PredictedSpeed, decode_speed
from targets.speeds import Observation


def predicted_figures(
    architecture: Architecture,
    recipe: Recipe,
    target: Target,
    context_length: int,
    measured: Sequence[Observation] = (),
) -> dict[str, Figure]:
    """Predict speed and memory of a recipe on a target. `recipe.format` must be one of the target's.

    `measured`: observations of the efficiency in addition to the published ones.
    """
    speed = decode_speed(architecture, recipe, target, measured)
    read = min(CONTEXT_TOKENS, architecture.context_length)
    values = {
        "predicted_decode_tokens_per_second": (
            speed.low,
            f"{target.name}, bandwidth roofline at {read} tokens, {described(speed)}",
        ),
        "predicted_memory_bytes": (
            memory_bytes(architecture, recipe, context_length),
            f"{target.name}, full context of {context_length} tokens",
        ),
    }
    return {
        name: Figure(value=value, unit=FIGURES[name][0], kind="predicted", on=on)
        for name, (value, on) in values.items()
    }


def described(speed: PredictedSpeed) -> str:
    """Return the interval, what it was learned from, and the leave-one-out error, in words."""
    efficiency = speed.efficiency
    return (
        f"lower end of {speed.low:.3g} to {speed.high:.3g} (80 %, middle {speed.value:.3g}), {efficiency.basis}, "
        f"leave-one-out error {efficiency.leave_one_out_error:.0%}"
    )
