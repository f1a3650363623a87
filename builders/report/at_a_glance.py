"""What a cell is next to the baseline's, in one phrase, from digests."""

from __future__ import annotations

from builders.report.changes import recipe_of
from builders.report.comparing import NOTHING
from builders.report.content import CellContent, Subject
from registry.bundle.manifest import Manifest

_WEIGHTS = (".gguf", ".onnx.data", "weight.bin")  # ends of the names of files that hold weights
_NO_MODEL = (".json", ".jinja", ".txt", ".md", "tokenizer.model")  # and of those that hold neither weights nor graph
_MOST_NAMED = 3


def at_a_glance(cell: CellContent, against: str = "") -> str:
    """Return the phrase. `against`: what the release is compared with; empty for nothing."""
    if cell.baseline is None:
        return "can't be compared" if cell.problem else f"new cell: {against} has none" if against else NOTHING
    old, new = cell.baseline.manifest, cell.candidate.manifest
    other = files_that_differ(old, new)
    if recipe_of(old) != recipe_of(new):
        files = "" if other else "the same files, "
        return f"{files}another recipe: {recipe_of(old)} → {recipe_of(new)}"
    if not other:
        return f"identical to {_short(cell.baseline)}'s, byte for byte"
    if same_weights(old, new):
        same = ", which writes the same prompts" if cell.writes_same_prompts else ""
        return f"weights the same, {_differ(other, new)}{same}"
    if old.checkpoint != new.checkpoint:
        return "another checkpoint, the same recipe"
    inputs = "recipe, checkpoint and tools" if old.tools == new.tools else "recipe and checkpoint, other tools"
    return f"the same {inputs}, yet {_named(other)} {_verb(other)}"


def files_that_differ(old: Manifest, new: Manifest) -> list[str]:
    """Return the files that only one of the two has, or that are not the same in both."""
    before, after = ({entry.path: entry.sha256 for entry in side.files} for side in (old, new))
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


def same_weights(old: Manifest, new: Manifest) -> bool:
    """Return whether every file of weights is the same in both. In GGUF it has the configuration, too."""
    return not any(path.endswith(_WEIGHTS) for path in files_that_differ(old, new))


def same_model(old: Manifest, new: Manifest) -> bool:
    """Return whether weights and graph are the same in both: what differs is the tokenizer, the template or a text."""
    return all(path.endswith(_NO_MODEL) for path in files_that_differ(old, new))


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


def _short(subject: Subject) -> str:
    return subject.name if subject.version is None else str(subject.version.release)
