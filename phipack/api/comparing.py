"""What changed from one bundle to another. Folders need the base install; `Registry.diff` takes references."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from phipack.api.arguments import AnyPath, as_path
from registry.diff.compare import compare, folder_side, pairs
from targets.progress import Progress, Step, silent

if TYPE_CHECKING:
    from registry.diff.compare import Difference, Side


def diff_bundles(
    before: AnyPath, after: AnyPath, *, read_tensors: bool = True, on_progress: Progress = silent
) -> Difference:
    """Compare two bundles' folders.

    Args:
        before: a bundle's folder.
        after: another one's.
        read_tensors: read weight files that differ, to report which tensors do.
        on_progress: called once.

    Raises:
        BundleError: one of them is not a bundle.
    """
    sides = ([folder_side(as_path(folder))] for folder in (before, after))
    return compare_sides(*sides, read_tensors=read_tensors, on_progress=on_progress)[0]


def compare_sides(
    before: Sequence[Side], after: Sequence[Side], *, read_tensors: bool, on_progress: Progress
) -> tuple[Difference, ...]:
    """Pair cell with cell and compare each. Raises `BundleError` for a folder against several cells."""
    matched = pairs(before, after)
    found = []
    for done, (old, new) in enumerate(matched):
        side = new or old
        on_progress(Step("compare", done, len(matched), "cells", side.name if side else ""))
        found.append(compare(old, new, read_tensors=read_tensors))
    return tuple(found)
