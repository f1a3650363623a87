"""Which difference of two figures may be chance, by what each of them was taken on. It is called neither way."""

from __future__ import annotations

import math
import re

from builders.report.content import CellContent, Recorded, Subject
from builders.report.endings import SHARES, sample_of
from builders.report.layers import has_same_weights
from builders.report.predictions import TOO_FEW, own_text_ratio
from targets.evaluation import EvaluationSettings

SIGMAS = 1.96  # of a normal distribution's 95 % interval
_WINDOWS = re.compile(r"(\d+) windows? of (\d+) tokens")
_NEVER_CHANCE = 1.1  # of float32's perplexity on one text: by as much it is looked at, however few the blocks are
_BUSY_PROCESSORS = 0.5  # kept busy by other programs while a speed was taken
_SPREAD = 0.10  # of the runs: as much as is called a difference


def is_chance(cell: CellContent, name: str, before: float, after: float) -> bool:
    """Return whether a difference is within the error of both sides; False where that is not known."""
    if name == "reference_perplexity":
        return _is_chance_of_checkpoints(cell)
    if name == "perplexity" and cell.has_other_reference:
        found = own_text_ratio(cell)
        if found is not None and found.low is not None and found.high is not None and before > 0:
            return found.low <= 1 <= found.high and found.low <= after / before <= found.high
    if name in ("perplexity", "perplexity_ratio"):
        error = _of_perplexities(cell)
        return error is not None and min(before, after) > 0 and abs(math.log(after / before)) <= SIGMAS * error
    number, middle = _samples(cell, name), (before + after) / 2
    if not number or not 0 <= middle <= 1:
        return False
    return abs(after - before) <= SIGMAS * math.sqrt(2 * middle * (1 - middle) / number)


def _is_chance_of_checkpoints(cell: CellContent) -> bool:
    """Return whether float32's perplexities on the own text differ by less than their blocks do.

    With the same weights nothing is left to chance: what differs is the configuration.
    """
    found = own_text_ratio(cell)
    if found is None or found.word not in ("may be chance", TOO_FEW) or found.value >= _NEVER_CHANCE:
        return False
    return not has_same_weights(cell)


def is_busy(subject: Subject | Recorded | None, name: str) -> bool:
    """Return whether a speed of this host is of a machine that did something else, or of runs that disagree."""
    details = None if subject is None else subject.details
    runs = () if details is None else details.speed
    return any(one.figure == name and (one.spread > _SPREAD or one.other_load >= _BUSY_PROCESSORS) for one in runs)


def _of_perplexities(cell: CellContent) -> float | None:
    """Return the standard error of the logarithm of one perplexity over the other.

    Of two distributions that are near to each other, the KL divergence is half the variance of the log of their ratio
    (its expansion to the second order). So each bundle's log-probability of a token varies by 2 KL around float32's.
    """
    sides = [None if one is None else one.evidence for one in (cell.before, cell.candidate)]
    spread = 0.0
    for one in sides:
        if one is None or "kl_mean" not in one.figures or (windows := _WINDOWS.search(one.text)) is None:
            return None
        spread += 2 * one.figures["kl_mean"].value / max(int(windows[1]) * int(windows[2]), 1)
    return math.sqrt(spread) if 0 <= spread < math.inf else None


def _samples(cell: CellContent, name: str) -> int | None:
    """Return how many answers or continuations a share is of: each counts between 0 and 1, whatever its tokens."""
    if name in SHARES:
        found = sample_of(cell.candidate.details, name)
        return None if found is None else found.answers
    if name != "greedy_match_share":
        return None
    evidence = cell.candidate.evidence
    windows = None if evidence is None else _WINDOWS.search(evidence.text)
    most = EvaluationSettings().greedy_prompts
    return most if windows is None else min(most, int(windows[1]))
