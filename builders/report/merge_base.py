"""What an adapter was merged into, next to production's checkpoint. By digests: nothing else says which base it was."""

from __future__ import annotations

from builders.report.change import Change
from builders.report.content import CellContent, side_name
from registry.bundle.manifest import Manifest

MERGED = "an adapter is merged"  # how the note begins in builders/checkpoint/adapter/merged.py
_SHOWN_DIGITS = 12


def base_in_words(cell: CellContent) -> str:
    """Return whether the base of the candidate's merge is production's checkpoint; empty where nothing is merged."""
    if cell.baseline is None or (parts := cell.candidate.manifest.merged_from) is None:
        return ""
    name, old = side_name(cell.baseline), cell.baseline.manifest
    if parts.base == old.checkpoint:
        return f"the base is the checkpoint of {name}"
    if old.merged_from is not None and parts.base == old.merged_from.base:
        which = "the same" if parts.adapter == old.merged_from.adapter else "another"
        return f"the base is that of {name}, into which {which} adapter is merged"
    return f"the base is not the checkpoint of {name}, but {_digits(parts.base)}"


def merge_change(cell: CellContent) -> Change | None:
    """Return what is merged on both sides; None where nothing is."""
    assert cell.baseline is not None
    old, new = cell.baseline.manifest, cell.candidate.manifest
    if old.merged_from is None and new.merged_from is None:
        return None
    meaning = base_in_words(cell)
    if not meaning and old.merged_from is not None and new.checkpoint == old.merged_from.base:
        meaning = f"the checkpoint is the base of {side_name(cell.baseline)}, without its adapter"
    return Change("adapter", _adapter(old), _adapter(new), meaning=meaning)


def _adapter(manifest: Manifest) -> str:
    parts = manifest.merged_from
    return "none" if parts is None else f"{_digits(parts.adapter)}, merged into {_digits(parts.base)}"


def _digits(digest: str) -> str:
    return digest.removeprefix("sha256:")[:_SHOWN_DIGITS]
