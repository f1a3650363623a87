"""What a cell is next to the baseline's, in one phrase, from digests."""

from __future__ import annotations

from builders.report.changes import app_changes
from builders.report.comparing import NOTHING
from builders.report.content import CellContent, side_name
from builders.report.layers import has_same_weights
from builders.report.recipes import recipe_of
from builders.report.same_files import files_that_differ
from registry.bundle.manifest import Manifest

_MOST_NAMED = 3
_OF_THE_MANIFEST = ("download", "files")  # its own bytes count


def at_a_glance(cell: CellContent, against: str = "") -> str:
    """Return the phrase. `against`: what the release is compared with; empty for nothing."""
    if cell.baseline is None:
        return _without_baseline(cell, against)
    old, new = cell.baseline.manifest, cell.candidate.manifest
    other = files_that_differ(old, new)
    if recipe_of(old) != recipe_of(new):
        files = "" if other else "the same files, "
        return f"{files}another recipe: {recipe_of(old)} → {recipe_of(new)}"
    if not other:
        return _same_files(cell, side_name(cell.baseline))
    if has_same_weights(cell):
        same = ", which writes the same prompts" if cell.writes_same_prompts else ""
        same += ", in its form alone" if cell.same_tokenizer and other == ["tokenizer.json"] else ""
        return f"weights the same, {_differ(other, new)}{same}"
    if old.checkpoint != new.checkpoint:
        return "another checkpoint, the same recipe"
    inputs = "recipe, checkpoint and tools" if old.tools == new.tools else "recipe and checkpoint, other tools"
    reasons = [
        *(["another context window"] if old.model.context_length != new.model.context_length else []),
        *(["another calibration text"] if old.recipe.calibration != new.recipe.calibration else []),
    ]
    because = f"{', '.join(reasons)}:" if reasons else "yet"
    return f"the same {inputs}, {because} {_named(other)} {_verb(other)}"


def _same_files(cell: CellContent, name: str) -> str:
    """Return that every file is the baseline's, and what is another one all the same, as the manifest has it."""
    changed = [change.what for change in app_changes(cell) if change.changed and change.what not in _OF_THE_MANIFEST]
    if not changed:
        return f"identical to {name}'s, byte for byte"
    named = ", ".join(what.removesuffix(", tokens") for what in changed)
    return f"every file is {name}'s, byte for byte; what changes: {named}"


def _without_baseline(cell: CellContent, against: str) -> str:
    if cell.recorded is not None:
        return "compared by its evidence alone"
    return "can't be compared" if cell.problem else f"new cell: {against} has none" if against else NOTHING


def _differ(files: list[str], manifest: Manifest) -> str:
    template = manifest.generation.chat_template
    rest = [path for path in files if path != template]
    if template not in files:
        return f"{_named(rest)} {_verb(rest)}"
    return f"the template differs ({_named(files)})"


def _named(files: list[str]) -> str:
    more = f" and {len(files) - _MOST_NAMED} more" if len(files) > _MOST_NAMED else ""
    return ", ".join(files[:_MOST_NAMED]) + more


def _verb(files: list[str]) -> str:
    return "differs" if len(files) == 1 else "differ"
