"""How figures are written for people: the functions of `targets/formatting.py`, as commands import them."""

from __future__ import annotations

from targets.formatting import (
    bound,
    budget_shown,
    count,
    duration,
    figure,
    rate,
    recipe_shown,
    share,
    signed_figure,
    signed_size,
    size,
)

__all__ = [
    "bound",
    "budget_shown",
    "count",
    "duration",
    "figure",
    "rate",
    "recipe_shown",
    "share",
    "signed_figure",
    "signed_size",
    "size",
]
