"""The form of a bundle's budget in `inspect`: how it was spent."""

from __future__ import annotations

import math
from collections import Counter

from pydantic import Field

from phipack.json_form.form import Form
from registry.bundle.manifest import Manifest, MatrixEntry

MOST_SENSITIVE = 10


class BudgetForm(Form):
    """What was asked for, what it came to, and where it went. `manifest.recipe.budget` has every matrix."""

    asked: str = Field(description="such as `at most 2000000000 B` or `4.2 bits`")
    predicted_bytes: int = Field(description="of all files but manifest.json, as predicted when the types were chosen")
    actual_bytes: int = Field(description="of the files that the manifest lists; the same number")
    bits_per_weight: float = Field(description="of all weights, scales included")
    cost: float = Field(description="the divergence that all matrices cause together, in nats: an estimate")
    types: dict[str, int] = Field(description="how many matrices have each type")
    most_sensitive: list[MatrixEntry] = Field(
        description=f"the {MOST_SENSITIVE} matrices that cause most divergence in 4 bits, in nats; the greatest first"
    )


def budget_form(manifest: Manifest) -> BudgetForm | None:
    """Describe a bundle's budget; None where it has none."""
    budget = manifest.recipe.budget
    if budget is None:
        return None
    weights = sum(kind.bytes for kind in manifest.recipe.weights)
    ranked = sorted(budget.matrices, key=lambda matrix: -matrix.sensitivity)
    return BudgetForm(
        asked=budget.asked,
        predicted_bytes=budget.bytes,
        actual_bytes=sum(file.bytes for file in manifest.files),
        bits_per_weight=round(8 * weights / manifest.model.parameters, 4),
        cost=math.fsum(matrix.cost for matrix in budget.matrices),
        types=dict(Counter(matrix.storage for matrix in budget.matrices).most_common()),
        most_sensitive=ranked[:MOST_SENSITIVE],
    )
