"""Greedy answers to users' questions: loops, empty answers and those that don't end, next to the reference's own.

The reference's answers would take one walk over all layers for each token. Here it checks the bundle's answer in one
walk, as a large model checks the draft of a small one: up to the first difference the two are the same; there the
reference's own token is taken, and the bundle writes the rest of the draft. All prompts go together, so the walks are
as many as the differences in the longest of them. An answer that takes more walks than allowed counts on neither side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from builders.runtime.generation import render_prompt
from builders.validation.behaviour.findings import Findings
from builders.validation.behaviour.prompts import PROMPTS
from builders.validation.behaviour.subject import Subject
from targets.errors import BundleError
from targets.evidence_details import Answer
from targets.progress import Step

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


@dataclass
class _Reference:
    """The reference's answer as far as it is known, and the bundle's draft of what follows."""

    prompt: tuple[int, ...]
    draft: Written
    known: list[int] = field(default_factory=list)
    ended: bool | None = None  # None: not known to its end yet

    @property
    def is_open(self) -> bool:
        return self.ended is None


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
    stops = _stops(subject)
    written = []
    for number, prompt in enumerate(prompts):
        subject.on_progress(Step("generate", number, len(prompts)))
        written.append(_continue(subject, prompt, longest, stops))
    own = _reference_answers(subject, prompts, written, longest, stops)
    subject.on_progress(Step("generate", len(prompts), len(prompts)))
    pairs = [
        (mine, Written(tuple(their.known), their.ended))
        for mine, their in zip(written, own, strict=True)
        if their.ended is not None
    ]
    if len(pairs) < len(own):
        reason = f"the reference's answer differs at more than {subject.sample.reference_walks} tokens"
        findings.skip(f"{len(own) - len(pairs)} of {len(own)} answers against the reference's", reason)
    return Degeneration(findings, _compared(findings, pairs, longest), _shown(subject, asked, written, own))


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


def _stops(subject: Subject) -> frozenset[int]:
    return frozenset((*subject.truth.stop_ids, *subject.bundle.manifest.generation.stop_token_ids))


def _continue(subject: Subject, tokens: Sequence[int], most: int, stops: frozenset[int]) -> Written:
    """Continue tokens by the likeliest ones in the bundle's session, at most so many."""
    written: list[int] = []
    if most < 1:
        return Written((), ended=False)
    logits = subject.session.prefill(np.asarray(tokens, dtype=np.int64))
    while True:
        token = int(logits.argmax())
        if token in stops:
            return Written(tuple(written), ended=True)
        written.append(token)
        if len(written) == most:
            return Written(tuple(written), ended=False)
        logits = subject.session.step(token)


def _reference_answers(
    subject: Subject,
    prompts: Sequence[tuple[int, ...]],
    written: Sequence[Written],
    longest: int,
    stops: frozenset[int],
) -> list[_Reference]:
    """Return the reference's own answers, with the bundle's as drafts."""
    answers = [_Reference(prompt, draft) for prompt, draft in zip(prompts, written, strict=True)]
    for walk in range(subject.sample.reference_walks):
        is_open = [answer for answer in answers if answer.is_open]
        if not is_open:
            break
        for answer in is_open if walk else ():
            so_far = (*answer.prompt, *answer.known)
            answer.draft = _continue(subject, so_far, longest - len(answer.known), stops)
        _verify(subject, is_open, longest, stops)
    return answers


def _verify(subject: Subject, answers: Sequence[_Reference], longest: int, stops: frozenset[int]) -> None:
    """Read all drafts in one walk, and take what the reference itself would have written."""
    sequences = [[*answer.prompt, *answer.known, *answer.draft.tokens] for answer in answers]
    width = max(map(len, sequences))
    padded = np.asarray([sequence + [0] * (width - len(sequence)) for sequence in sequences], dtype=np.int64)
    likeliest = subject.reference.likeliest(padded)
    for row, answer in enumerate(answers):
        start = len(answer.prompt) + len(answer.known) - 1
        for place in range(len(answer.draft.tokens) + 1):
            token = int(likeliest[row, start + place])
            if token in stops:
                answer.ended = True
                break
            answer.known.append(token)
            if len(answer.known) == longest:
                answer.ended = False
                break
            if place == len(answer.draft.tokens) or token != answer.draft.tokens[place]:
                break


def _shown(
    subject: Subject, asked: Sequence[str], written: Sequence[Written], own: Sequence[_Reference]
) -> tuple[Answer, ...]:
    """Return the answers as texts; the reference's as far as it is known."""
    decode = subject.tokenizer.decode
    shown = []
    for prompt, mine, their in zip(asked, written, own, strict=True):
        pairs = enumerate(zip(mine.tokens, their.known, strict=False))
        shorter = min(len(mine.tokens), len(their.known))
        same = next((place for place, (one, other) in pairs if one != other), shorter)
        is_same = same == len(mine.tokens) == len(their.known) and mine.ended == their.ended
        shown.append(
            Answer(
                prompt=prompt,
                reference=decode(their.known),
                bundle=decode(list(mine.tokens)),
                tokens=len(mine.tokens),
                first_difference=None if is_same else same,
                reference_ended=bool(their.ended),
                bundle_ended=mine.ended,
            )
        )
    return tuple(shown)
