"""How well texts, positions and kinds of token are predicted on both sides: perplexities, and how sure a difference is.

Two perplexities can be compared where the same tokens were read, which their digest says. Older evidence has none, and
the perplexities of its own text alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from builders.report.content import CellContent, Recorded, Subject
from targets.evidence_details import Divergence, PositionDivergence, Prediction, TextDivergence

By = Literal["texts", "positions", "classes"]
BREAKDOWNS: tuple[By, ...] = get_args(By)
OTHER_TOKENS = "other tokens"
TOO_FEW = "too few tokens"  # to tell whether a change is chance
_FEWEST_BLOCKS = 4  # fewer say nothing about how much a block varies
_TRIFLE = 0.0005  # less is shown as 0.0 %: float32 of two machines differs by a thousandth of that
_Z = 1.959963984540054  # quantile of a normal distribution that leaves 2.5 % above it


def position_label(first: int, last: int) -> str:
    """Return a range of positions as text."""
    return f"{first:,}\N{EN DASH}{last:,}"


def parts_of(subject: Subject | Recorded | None, by: By) -> dict[str, Divergence]:
    """Return what evidence is broken down into, by its label; empty where there is nothing."""
    details = None if subject is None else subject.details
    if details is None:
        return {}
    if by == "texts":
        return {one.text: one for one in details.texts}
    if by == "classes":
        return {one.kind: one for one in details.classes}
    return {position_label(one.first, one.last): one for one in details.positions}


def where(part: Divergence) -> str:
    """Return what is special about a range of positions, such as `past the sliding window`."""
    return part.where if isinstance(part, PositionDivergence) else ""


def perplexity(subject: Subject | Recorded, part: Divergence, *, of_reference: bool) -> float | None:
    """Return the bundle's perplexity on a part, or float32's; None where it is not recorded."""
    if part.prediction is not None:
        return part.prediction.reference_perplexity if of_reference else part.prediction.perplexity
    evidence = subject.evidence
    if evidence is None or not is_own_text(subject, part):
        return None
    found = evidence.figures.get("reference_perplexity" if of_reference else "perplexity")
    return None if found is None else found.value


def is_own_text(subject: Subject | Recorded, part: Divergence) -> bool:
    """Return whether a part is the evaluation's own text, whose perplexities are figures of the evidence."""
    found = None if subject.evidence is None else subject.evidence.figures.get("perplexity_ratio")
    return isinstance(part, TextDivergence) and found is not None and part.perplexity_ratio == found.value


def not_comparable(cell: CellContent, new: Divergence, old: Divergence | None) -> str:
    """Return why a part of both sides can't be compared, in a few words; empty where the same tokens were read."""
    if old is None or cell.before is None:
        return "only in this evidence"
    if new.prediction is not None and old.prediction is not None:
        return "" if new.prediction.digest == old.prediction.digest else OTHER_TOKENS
    own = is_own_text(cell.candidate, new) and is_own_text(cell.before, old)
    evidence, before = cell.candidate.evidence, cell.before.evidence
    if not own or evidence is None or before is None:
        return "not recorded"
    return "" if evidence.text == before.text else OTHER_TOKENS


@dataclass(frozen=True)
class Ratio:
    """One float32 perplexity over another, with its 95 % interval: anything where blocks are few.

    None where they are not recorded.
    """

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def is_same(self) -> bool:
        """Whether the two are the same but for how machines round."""
        return abs(self.value - 1) < _TRIFLE

    @property
    def word(self) -> str:
        """What is sure of it."""
        if self.is_same:
            return "same"
        if self.low is None or self.high is None:
            return ""
        if self.high == math.inf:
            return TOO_FEW
        return "worse" if self.low > 1 else "better" if self.high < 1 else "may be chance"


def ratio(cell: CellContent, new: Divergence, old: Divergence | None) -> Ratio | None:
    """Return the candidate's float32 perplexity over the baseline's; None where they can't be compared."""
    if old is None or cell.before is None or not_comparable(cell, new, old):
        return None
    if new.prediction is not None and old.prediction is not None:
        return _paired(old.prediction, new.prediction)
    after = perplexity(cell.candidate, new, of_reference=True)
    before = perplexity(cell.before, old, of_reference=True)
    if before is None or after is None or not 0 < before < math.inf or not 0 < after < math.inf:
        return None
    return Ratio(after / before)


def own_text_ratio(cell: CellContent) -> Ratio | None:
    """Return how float32's perplexities on the evaluation's own text compare; None where they can't be compared."""
    old = parts_of(cell.before, "texts")
    own = [(name, one) for name, one in parts_of(cell.candidate, "texts").items() if is_own_text(cell.candidate, one)]
    return ratio(cell, own[0][1], old.get(own[0][0])) if len(own) == 1 else None


def _paired(before: Prediction, after: Prediction) -> Ratio | None:
    """Compare block by block: what is hard for both checkpoints in a text is no difference.

    The mean difference is a ratio of sums over blocks, as in `builders/validation/standard_error.py`; Student's
    distribution counts that the blocks are few.
    """
    sizes = after.block_tokens
    differences = [new - old for new, old in zip(after.reference_surprise, before.reference_surprise, strict=False)]
    if before.block_tokens != sizes or not all(map(math.isfinite, differences)):
        return None
    mean = sum(differences) / sum(sizes)
    if len(sizes) < _FEWEST_BLOCKS:
        return Ratio(_exp(mean), 0.0, math.inf)
    excess = [one - size * mean for one, size in zip(differences, sizes, strict=True)]
    error = math.sqrt(len(sizes) / (len(sizes) - 1) * sum(one * one for one in excess)) / sum(sizes)
    reach = student(len(sizes) - 1) * error
    if not math.isfinite(mean) or not math.isfinite(reach):  # no numbers that phipack would have written
        return None
    return Ratio(_exp(mean), _exp(mean - reach), _exp(mean + reach))


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))  # as many nats a token are no text


def student(freedom: int) -> float:
    """Return the quantile of Student's distribution that leaves 2.5 % above it, within 0.03 from 3 degrees on.

    By the expansion around the normal quantile (Abramowitz and Stegun, 26.7.5).
    """
    terms: Sequence[float] = (
        (_Z**3 + _Z) / 4,
        (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / 96,
        (3 * _Z**7 + 19 * _Z**5 + 17 * _Z**3 - 15 * _Z) / 384,
    )
    return _Z + sum(term / freedom**power for power, term in enumerate(terms, start=1))
