"""Greedy answers to users' questions: loops, empty answers and those that don't end, next to the reference's own.

The reference's answer is cut where it takes more walks over the layers than allowed. Whether it is empty or loops is
known of its beginning, and is compared over all answers; whether it ends is not, and is compared where both are known.
The more a bundle degenerates, the fewer of the reference's answers are known: few of them next to a bundle that hardly
ever ends are a failed check, where answers have room to end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from builders.validation.answers import answer_both, in_words, prompt_ids
from builders.validation.behaviour.findings import Findings
from builders.validation.behaviour.prompts import PROMPTS
from builders.validation.behaviour.subject import Subject
from targets.evidence_details import Answer

_LONGEST_PERIOD = 32  # tokens of what is repeated
_REPEATED_TOKENS = 48  # at the end of an answer that make it a loop; three quarters of a shorter one
_KINDS = ("empty", "endless", "loop")
_ROOM_TO_END = 128  # tokens, within which most answers to `PROMPTS` end
_MOST_ENDLESS = 0.75  # of all answers, where fewer than half of the reference's are known


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
    """What the answers show. `figures`: shares of all answers; `endless`: of those that are known of both."""

    findings: Findings
    figures: dict[str, float]
    answers: tuple[Answer, ...]


def check_degeneration(subject: Subject) -> Degeneration:
    """Let the bundle answer, find the reference's answers, and compare how many of either degenerate."""
    findings = Findings("degeneration")
    asked = PROMPTS[: subject.sample.answers]
    if not subject.session.is_own_runtime:
        reason = f"{subject.session.runtime} is not the format's own runtime, and too slow for {len(asked)} answers"
        findings.skip(f"{len(asked)} greedy answers", reason)
        return Degeneration(findings, {}, ())
    prompts = [prompt_ids(subject.bundle, subject.tokenizer, prompt) for prompt in asked]
    longest = _longest(subject, prompts)
    if longest < 1:
        findings.skip(f"{len(asked)} greedy answers", "the context has no room for a question and an answer")
        return Degeneration(findings, {}, ())
    stops = frozenset((*subject.truth.stop_ids, *subject.bundle.manifest.generation.stop_token_ids))
    found = answer_both(
        subject.session,
        subject.reference,
        prompts,
        longest,
        stops,
        most_walks=subject.sample.reference_walks,
    )
    pairs = [(_written(pair.bundle, stops), _written(pair.reference, stops)) for pair in found]
    known = [pair for pair in pairs if pair[1].ended or len(pair[1].tokens) == longest]
    if len(known) < len(pairs):
        reason = f"the reference's answer differs at more than {subject.sample.reference_walks} tokens"
        findings.skip(f"whether {len(pairs) - len(known)} of {len(pairs)} answers end as the reference's", reason)
    shown = tuple(in_words(subject.tokenizer, *one, stops) for one in zip(asked, found, strict=True))
    if longest >= _ROOM_TO_END and subject.truth.template is not None:
        _check_known(findings, pairs, len(known))
    return Degeneration(findings, _compared(findings, pairs, known, longest), shown)


def is_loop(tokens: Sequence[int], longest: int) -> bool:
    """Return whether an answer ends in the same tokens at least three times, over a stretch that is long enough."""
    stretch = min(_REPEATED_TOKENS, longest * 3 // 4)
    end = list(tokens[-stretch:])
    if not end or len(end) < stretch:
        return False
    return any(end[period:] == end[:-period] for period in range(1, min(_LONGEST_PERIOD, stretch // 3) + 1))


def _compared(findings: Findings, every: Pairs, known: Pairs, longest: int) -> dict[str, float]:
    """Check that no kind is more frequent than in the reference's answers, but for chance; return the shares."""
    figures: dict[str, float] = {}
    for kind in _KINDS:
        pairs = known if kind == "endless" else every
        if not pairs:
            continue
        share, own = (sum(kind in pair[side].kinds(longest) for pair in pairs) / len(pairs) for side in (0, 1))
        figures |= {f"{kind}_share": share, f"reference_{kind}_share": own}
        allowed = own + (1 + len(pairs) // 16) / len(pairs)
        numbers = [str(at) for at, pair in enumerate(every, 1) if pair in pairs and kind in pair[0].kinds(longest)]
        where = f"prompts {', '.join(numbers)}"
        findings.within(f"share of {len(pairs)} answers: {kind}", share, allowed, "share", where)
    return figures


def _check_known(findings: Findings, every: Pairs, known: int) -> None:
    """Check that the bundle's answers end, where too few of the reference's are known to compare their ends."""
    endless = sum(not ours.ended for ours, _ in every) / len(every)
    if known * 2 < len(every):
        name = f"share of {len(every)} answers: endless, {known} of the reference's known"
        findings.within(name, endless, _MOST_ENDLESS, "share")


def _longest(subject: Subject, prompts: Sequence[Sequence[int]]) -> int:
    """Return how many tokens an answer may have, such that all stay on one side of every limit."""
    model = subject.model
    limits = [model.context_length, *subject.edges.values()]
    exact = [length for length in limits if subject.is_exact(length)]
    return min(subject.sample.answer_tokens, min(exact, default=0) - max(map(len, prompts)))


def _written(tokens: Sequence[int], stops: frozenset[int]) -> Written:
    ended = bool(tokens) and tokens[-1] in stops
    return Written(tuple(tokens[:-1] if ended else tokens), ended)
