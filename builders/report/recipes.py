"""A side's recipe as text, with what it was built with."""

from __future__ import annotations

from builders.report.content import Recorded, Subject
from registry.bundle.manifest import Manifest
from targets.formatting import recipe_shown


def recipe_of(manifest: Manifest) -> str:
    """Return a bundle's recipe with what it was built with."""
    entry = manifest.recipe
    level = "none" if entry.calibration is None else entry.calibration.level
    return recipe_shown(entry.name, level, None if entry.budget is None else entry.budget.asked, entry.kv_cache)


def recipe_on(side: Subject | Recorded) -> str:
    """Return the recipe of a side, where its manifest can't be read as the registry has it."""
    if isinstance(side, Recorded):
        row = side.version
        return recipe_shown(row.recipe, row.calibration, row.budget, row.kv_cache)
    return recipe_of(side.manifest)
