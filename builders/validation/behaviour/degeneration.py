"""Greedy answers to users' questions: loops, empty answers and those that don't end, next to the reference's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from builders.validation.answers import Answered
from builders.validation.behaviour.findings import Findings

_LONGEST_PERIOD = 32  # tokens of what is repeated
_REPEATED_TOKENS = 48  # at the end of an answer that make it a loop; three quarters of a shorter one
_KINDS = ("empty", "endless", "loop")


@dataclass(frozen=True)
class Written:
    """An answer: its tokens, without the stop id that ended it."""

    tokens: tuple[int, ...]
    ended: bool

    def kinds(self, longest: int) -> set[str]:
        """Return what is wrong with it. `longest`: tokens that were allowed."""
        found = set()
        if self.ended and not self.tokens:
            found.add("empty")
        if not self.ended:
            found.add("endless")
        if is_loop(self.tokens, longest):
            found.add("loop")
        return found


Pairs = Sequence[tuple[Written, Written]]  # the bundle's answer and the reference's, to each prompt


@dataclass(frozen=True)
class Degeneration:
    """What the answers show. `figures`: shares of all answers."""

    findings: Findings
    figures: dict[str, float]


def check_degeneration(answered: Answered) -> Degeneration:
    """Compare how many answers of the bundle and of the reference degenerate."""
    findings = Findings("degeneration")
    if not answered.pairs:
        findings.skip("greedy answers", "the context has no room for a question and an answer")
        return Degeneration(findings, {})
    pairs = [
        (_written(pair.bundle, answered.stops), _written(pair.reference, answered.stops)) for pair in answered.pairs
    ]
    return Degeneration(findings, _compared(findings, pairs, answered.longest))


def is_loop(tokens: Sequence[int], longest: int) -> bool:
    """Return whether an answer ends in the same tokens at least three times, over a stretch that is long enough."""
    stretch = min(_REPEATED_TOKENS, longest * 3 // 4)
    end = list(tokens[-stretch:])
    if not end or len(end) < stretch:
        return False
    return any(end[period:] == end[:-period] for period in range(1, min(_LONGEST_PERIOD, stretch // 3) + 1))


def _compared(findings: Findings, pairs: Pairs, longest: int) -> dict[str, float]:
    """Check that no kind is more frequent than in the reference's answers, but for chance; return the shares."""
    figures: dict[str, float] = {}
    for kind in _KINDS:
        share, own = (sum(kind in pair[side].kinds(longest) for pair in pairs) / len(pairs) for side in (0, 1))
        figures |= {f"{kind}_share": share, f"reference_{kind}_share": own}
        allowed = own + (1 + len(pairs) // 16) / len(pairs)
        numbers = [str(at) for at, pair in enumerate(pairs, 1) if kind in pair[0].kinds(longest)]
        where = f"prompts {', '.join(numbers)}"
        name = f"share of {len(pairs)} answers: {kind}"
        if allowed >= 1:  # no share would be more
            findings.skip(
                name, f"{own:.0%} of float32's own are so, too; {len(pairs)} answers are too few to tell more"
            )
        else:
            findings.within(name, share, allowed, "share", where)
    return figures


def _written(tokens: Sequence[int], stops: frozenset[int]) -> Written:
    ended = bool(tokens) and tokens[-1] in stops
    return Written(tuple(tokens[:-1] if ended else tokens), ended)
