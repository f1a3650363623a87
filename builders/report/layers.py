"""Which layers' weights are others than production's, by the same recipe: whether one is, a few are, or all."""

from __future__ import annotations

from collections.abc import Sequence

from builders.report.content import CellContent
from builders.report.recipes import recipe_on
from builders.report.same_files import same_weights
from registry.diff.layers import EMBEDDING, HEAD, LAST_NORM, LayerChanges


def has_same_weights(cell: CellContent) -> bool:
    """Return whether all weights are production's: their files, or their tensors in files with other things in them."""
    if cell.baseline is None:
        return False
    if same_weights(cell.baseline.manifest, cell.candidate.manifest):
        return True
    found = cell.layers
    return found is not None and found.is_same


def layers_in_words(cell: CellContent) -> str:
    """Return which layers' weights are others, as a sentence; empty where that is not known or says nothing.

    With another recipe all are others, and so they are where weights are calibrated, by the smallest change.
    """
    found = cell.layers
    if found is None or cell.baseline is None or recipe_on(cell.baseline) != recipe_on(cell.candidate):
        return ""
    if has_same_weights(cell):
        return "Every tensor of the weights is the same, byte for byte."
    if not found.same and cell.candidate.manifest.recipe.calibration is not None:
        return ""
    rest = _rest(found)
    if not found.same:
        return f"The weights of every layer are others; {rest}."
    if not found.changed:
        return f"The weights of every layer are the same; {rest}."
    return f"The weights of {_numbers(found.changed)} are others, those of {_numbers(found.same)} the same; {rest}."


def _rest(found: LayerChanges) -> str:
    """Return which of the weights that are no layer's are others."""
    alone = {HEAD} if found.head_of_one else set()
    same = [part for part in (EMBEDDING, HEAD, LAST_NORM) if part not in {*found.rest, *alone}]
    parts = (
        [f"{_listed(found.rest)} {'is another one' if len(found.rest) == 1 else 'are others'}"] if found.rest else []
    )
    parts += ["only one of the two has a head apart from the embedding"] if alone else []
    parts += [f"{_listed(same)} {'is' if len(same) == 1 else 'are'} the same"] if same else []
    return ", ".join(parts)


def _listed(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _numbers(layers: Sequence[int]) -> str:
    """Return numbers as ranges, such as `layers 0 to 3, 7`."""
    ranges: list[list[int]] = []
    for number in layers:
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1].append(number)
        else:
            ranges.append([number])
    shown = ", ".join(f"{one[0]} to {one[-1]}" if len(one) > 1 else str(one[0]) for one in ranges)
    return f"layer{'' if len(layers) == 1 else 's'} {shown}"
