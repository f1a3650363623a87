"""Greedy answers to users' questions: loops, empty answers and those that don't end, next to the reference's own.

An answer of the reference that takes more walks over the layers than allowed counts on neither side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from builders.runtime.generation import render_prompt
from builders.validation.answers import answer_both
from builders.validation.behaviour.findings import Findings
from builders.validation.behaviour.prompts import PROMPTS
from builders.validation.behaviour.subject import Subject
from targets.errors import BundleError
from targets.evidence_details import Answer

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


@dataclass(frozen=True)
class Degeneration:
    """What the answers show. `figures`: shares of the answers that are known of both."""

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
    prompts = [_ids(subject, prompt) for prompt in asked]
    longest = _longest(subject, prompts)
    if longest < 1:
        findings.skip(f"{len(asked)} greedy answers", "the context has no room for a question and an answer")
        return Degeneration(findings, {}, ())
    stops = frozenset((*subject.truth.stop_ids, *subject.bundle.manifest.generation.stop_token_ids))
    both = answer_both(
        subject.session,
        subject.reference,
        prompts,
        longest,
        stops,
        most_walks=subject.sample.reference_walks,
    )
    pairs = [(_written(ours, stops), _written(theirs, stops)) for ours, theirs in both]
    known = [pair for pair in pairs if pair[1].ended or len(pair[1].tokens) == longest]
    if len(known) < len(pairs):
        reason = f"the reference's answer differs at more than {subject.sample.reference_walks} tokens"
        findings.skip(f"{len(pairs) - len(known)} of {len(pairs)} answers against the reference's", reason)
    shown = tuple(_shown(subject, prompt, *pair) for prompt, pair in zip(asked, pairs, strict=True))
    return Degeneration(findings, _compared(findings, known, longest), shown)


def is_loop(tokens: Sequence[int], longest: int) -> bool:
    """Return whether an answer ends in the same tokens at least three times, over a stretch that is long enough."""
    stretch = min(_REPEATED_TOKENS, longest * 3 // 4)
    end = list(tokens[-stretch:])
    if not end or len(end) < stretch:
        return False
    return any(end[period:] == end[:-period] for period in range(1, min(_LONGEST_PERIOD, stretch // 3) + 1))


def _compared(findings: Findings, pairs: Sequence[tuple[Written, Written]], longest: int) -> dict[str, float]:
    """Check that no kind is more frequent than in the reference's answers, but for chance; return the shares."""
    figures: dict[str, float] = {}
    if not pairs:
        return figures
    for kind in _KINDS:
        mine, theirs = (sum(kind in pair[side].kinds(longest) for pair in pairs) for side in (0, 1))
        share, own = mine / len(pairs), theirs / len(pairs)
        figures |= {f"{kind}_share": share, f"reference_{kind}_share": own}
        allowed = own + (1 + len(pairs) // 16) / len(pairs)
        findings.within(f"share of {len(pairs)} answers: {kind}", share, allowed, "share")
    return figures


def _ids(subject: Subject, prompt: str) -> tuple[int, ...]:
    try:
        text = render_prompt(subject.bundle, prompt)
    except BundleError:
        text = prompt  # template.py says what is wrong with the template
    ids = subject.tokenizer.encode(text, add_special_tokens=subject.truth.template is None)
    return tuple(ids)


def _longest(subject: Subject, prompts: Sequence[tuple[int, ...]]) -> int:
    """Return how many tokens an answer may have, such that all stay on one side of every limit."""
    model = subject.model
    limits = [model.context_length, *subject.edges.values()]
    exact = [length for length in limits if subject.is_exact(length)]
    return min(subject.sample.answer_tokens, min(exact, default=0) - max(map(len, prompts)))


def _written(tokens: Sequence[int], stops: frozenset[int]) -> Written:
    ended = bool(tokens) and tokens[-1] in stops
    return Written(tuple(tokens[:-1] if ended else tokens), ended)


def _shown(subject: Subject, prompt: str, ours: Written, theirs: Written) -> Answer:
    """Return the answers as texts; the reference's as far as it is known."""
    shorter = min(len(ours.tokens), len(theirs.tokens))
    both = enumerate(zip(ours.tokens, theirs.tokens, strict=False))
    same = next((place for place, (one, other) in both if one != other), shorter)
    return Answer(
        prompt=prompt,
        reference=subject.tokenizer.decode(list(theirs.tokens)),
        bundle=subject.tokenizer.decode(list(ours.tokens)),
        tokens=len(ours.tokens),
        first_difference=None if ours == theirs else same,
        reference_ended=theirs.ended,
        bundle_ended=ours.ended,
    )
