"""How long a conversation may be, and what of it the model sees: context window, sliding window, rope.

A manifest has the bundle's context window. The checkpoint's own longest context, its sliding window and its rope are in
the evidence; older evidence does not have them.
"""

from __future__ import annotations

from collections.abc import Iterator

from builders.report.change import Change
from builders.report.content import CellContent, Recorded, Subject
from targets.evidence_details import ROPE_FACTORS, Reach


def context_window(cell: CellContent) -> Change:
    """Return the bundle's context window on both sides. An app that fills a longer one must follow."""
    old, new = (side.manifest.model.context_length for side in _sides(cell))
    meaning = "prompt and answer together have less room" if new < old else "prompt and answer together have more room"
    return Change("context window, tokens", f"{old:,}", f"{new:,}", breaks=new < old, meaning=meaning)


def reach_changes(cell: CellContent) -> Iterator[Change]:
    """Yield the checkpoint's longest context, sliding window and rope, where evidence of both sides has them."""
    old, new = _reach(cell.before or cell.candidate), _reach(cell.candidate)
    if old is None or new is None:
        return
    if old.context_length != new.context_length or new.context_length != cell.candidate.manifest.model.context_length:
        yield Change("checkpoint's longest context, tokens", f"{old.context_length:,}", f"{new.context_length:,}")
    yield Change("sliding window, tokens", _window(old), _window(new), meaning=_meaning(old, new))
    yield Change("rope", *_ropes(old, new), meaning="positions are encoded in another way")


def _ropes(old: Reach, new: Reach) -> tuple[str, str]:
    """Return both ropes, without the digest of longrope's factors where one side's evidence is older and has none."""
    if (ROPE_FACTORS in old.rope) == (ROPE_FACTORS in new.rope):
        return old.rope, new.rope
    before, after = (one.rope.partition(ROPE_FACTORS)[0] for one in (old, new))
    unknown = " (factors not recorded on both sides)" if before == after else ""
    return before + unknown, after + unknown


def is_reach_known(cell: CellContent) -> bool:
    """Return whether evidence of both sides has window and rope."""
    return None not in (_reach(cell.before or cell.candidate), _reach(cell.candidate))


def reach_unknown(cell: CellContent) -> str:
    """Return whose sliding window and rope are not recorded, as a sentence; empty where all are."""
    sides = [cell.candidate] if cell.baseline is None else [cell.baseline, cell.candidate]
    names = [side.name for side in sides if _reach(side) is None]
    if not names:
        return ""
    said = f"The sliding window and the rope of {' and '.join(names)} are not recorded in the evidence."
    known = [f"{side.name} has {_in_words(found)}" for side in sides if (found := _reach(side)) is not None]
    return " ".join((said, *(f"{one}." for one in known)))


def _in_words(reach: Reach) -> str:
    window = "no sliding window" if reach.sliding_window is None else f"a sliding window of {_window(reach)} tokens"
    return f"{window}, and rope: {reach.rope}"


def _meaning(old: Reach, new: Reach) -> str:
    if new.sliding_window is None:
        return "the checkpoint sees every token before"
    if old.sliding_window is None or new.sliding_window < old.sliding_window:
        return f"the checkpoint no longer sees what is {new.sliding_window:,} tokens back or more"
    return "the checkpoint sees more of what came before"


def _window(reach: Reach) -> str:
    return "none" if reach.sliding_window is None else f"{reach.sliding_window:,}"


def _sides(cell: CellContent) -> tuple[Subject, Subject]:
    return (cell.candidate if cell.baseline is None else cell.baseline), cell.candidate


def _reach(side: Subject | Recorded) -> Reach | None:
    return None if side.details is None else side.details.reach


def reach_in_words(cell: CellContent) -> str:
    """Return what of window and rope is another one, such as `sliding window, tokens: none becomes 448`."""
    changed = [change for change in reach_changes(cell) if change.changed]
    return "; ".join(f"{change.what}: {change.before} becomes {change.after}" for change in changed)
