"""Prompts answered greedily by a bundle and by the float32 reference: once, for all that looks at the answers.

The built-in prompts were written for phipack. `texts/prompts.json`: facts, arithmetic, code, translation, rewriting, in
several languages. `texts/over_refusal.json`: harmless look-alikes of what should be refused. People read the answers
next to each other, the behaviour suite looks for loops and for empty and endless ones, and safety for refusals. Each
prompt is a user's turn in the bundle's own chat template. What the reference writes is cached by the checkpoint: the
first cell of a release pays for it, in as many walks as `builders/reference/answers.py` says.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from builders.reference import Ending, FloatReference, common_start, reference_answers
from builders.runtime.generation import bundled_template, render_prompt
from builders.runtime.session import Session
from builders.tokenizer import Tokenizer, stop_token_ids
from builders.validation.lengths import edges_of, first_limit
from builders.validation.text import read_built_in
from registry.bundle.folder import Bundle
from targets.errors import BundleError
from targets.evaluation import Suite
from targets.evidence_details import Answer
from targets.progress import Step


@dataclass(frozen=True)
class AnswerSample:
    """How many prompts of each of the two lists are answered, by at most so many tokens.

    `evaluated_tokens`: where the bundle does not run in its format's own runtime, and a token takes long.
    """

    prompts: int
    tokens: int
    evaluated_tokens: int


FULL = AnswerSample(prompts=16, tokens=256, evaluated_tokens=64)
QUICK = AnswerSample(prompts=4, tokens=32, evaluated_tokens=16)
_ROUND = 32  # tokens after which a bundle's answers are looked at
SAMPLES: dict[Suite, AnswerSample] = {"quick": QUICK, "behaviour": FULL, "full": FULL}


@dataclass(frozen=True)
class Pair:
    """One prompt's ids, continued by both. An answer ends with its stop id, where it has one."""

    prompt: tuple[int, ...]
    reference: tuple[int, ...]
    bundle: tuple[int, ...]

    @property
    def first_difference(self) -> int | None:
        """The number of tokens before the first that differs; None where all are the same."""
        return None if self.reference == self.bundle else common_start(self.reference, self.bundle)


class Asked(Protocol):
    """What prompts are put to: a bundle in its open session, and the reference."""

    @property
    def bundle(self) -> Bundle:
        """The bundle."""
        ...

    @property
    def session(self) -> Session:
        """The bundle's."""
        ...

    @property
    def reference(self) -> FloatReference:
        """Of its checkpoint."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's."""
        ...


@dataclass(frozen=True)
class Answered:
    """Built-in prompts and the answers of both. `longest`: the tokens that an answer might have.

    `harmless`: how many of the prompts, the last ones, look as if they should be refused.
    """

    prompts: tuple[str, ...] = ()
    pairs: tuple[Pair, ...] = ()
    longest: int = 0
    harmless: int = 0
    stops: frozenset[int] = frozenset()


def built_in_prompts() -> list[str]:
    """Return the plain prompts that come with phipack."""
    found: list[str] = json.loads(read_built_in("prompts.json"))
    return found


def harmless_prompts() -> list[str]:
    """Return the prompts that come with phipack and only look as if they should be refused."""
    found: list[str] = json.loads(read_built_in("over_refusal.json"))
    return found


def answer_built_in(using: Asked, sample: AnswerSample) -> Answered:
    """Put a sample of the built-in prompts to both; none where the context has no room for an answer to each.

    Answers are so short that all sequences stay on one side of every edge.
    """
    plain, harmless = built_in_prompts()[: sample.prompts], harmless_prompts()[: sample.prompts]
    prompts = [prompt_ids(using.bundle, using.tokenizer, prompt) for prompt in [*plain, *harmless]]
    model = using.bundle.manifest.model
    limit = first_limit(model, edges_of(using.reference.checkpoint.architecture, model.context_length))
    most = sample.tokens if using.session.is_own_runtime else sample.evaluated_tokens
    longest = min(most, limit - max(map(len, prompts)))
    if longest < 1:
        return Answered()
    generation = using.bundle.manifest.generation
    stops = frozenset((*stop_token_ids(using.reference.checkpoint), *generation.stop_token_ids))
    pairs = answer_both(using.session, using.reference, prompts, longest, Ending(stops))
    return Answered((*plain, *harmless), tuple(pairs), longest, len(harmless), stops)


def answer_for_suite(using: Asked, suite: Suite) -> Answered:
    """Put as many of the built-in prompts to both as a suite asks for; none for those that ask for none."""
    return answer_built_in(using, SAMPLES[suite]) if suite in SAMPLES else Answered()


def shown_answers(tokenizer: Tokenizer, answered: Answered) -> tuple[Answer, ...]:
    """Return answers as texts, for people to read next to each other."""
    every = zip(answered.prompts, answered.pairs, strict=True)
    return tuple(in_words(tokenizer, prompt, pair, answered.stops) for prompt, pair in every)


def answer(using: Asked, prompts: Sequence[Sequence[int]], count: int) -> list[Pair | None]:
    """Continue prompts by up to `count` tokens, by both; None for a prompt too long for that many (`has_room`).

    A stop id ends an answer, and is its last token.
    """
    ending = Ending(frozenset(using.bundle.manifest.generation.stop_token_ids))
    fitting = [ids for ids in prompts if has_room(using, ids, count)]
    pairs = iter(answer_both(using.session, using.reference, fitting, count, ending))
    return [next(pairs) if has_room(using, ids, count) else None for ids in prompts]


def has_room(using: Asked, prompt: Sequence[int], count: int) -> bool:
    """Return whether a prompt leaves room for so many tokens: in the exact context, and before longrope's edge."""
    model = using.bundle.manifest.model
    edge = using.reference.checkpoint.architecture.longrope_edge(model.context_length)
    crosses = edge is not None and len(prompt) <= edge < len(prompt) + count
    return 0 < len(prompt) <= model.exact_context_length - count and not crosses


def answer_both(
    session: Session,
    reference: FloatReference,
    prompts: Sequence[Sequence[int]],
    count: int,
    ending: Ending,
) -> list[Pair]:
    """Continue prompts by up to `count` tokens, by both. The bundle's answers are what the reference's begin with.

    Where the bundle is evaluated, it drafts no more than that: its token takes as long as one of the reference's walks.
    """
    if not prompts:
        return []

    def draft(sequences: Sequence[Sequence[int]], limits: Sequence[int]) -> list[list[int]]:
        found: dict[int, list[int]] = {}
        for most in sorted(set(limits)):  # no more than is asked for
            places = [place for place, limit in enumerate(limits) if limit == most]
            written = _continued(session, [sequences[place] for place in places], most, ending)
            found |= dict(zip(places, written, strict=True))
        return [found[place] for place in range(len(sequences))]

    reference.on_progress(Step("answer", 0, len(prompts), "prompts"))
    ours = _written(session, prompts, count, ending)
    reference.on_progress(Step("answer", len(prompts), len(prompts), "prompts"))
    drafting = draft if session.is_own_runtime else None
    theirs = reference_answers(reference, prompts, count, ending, ours, drafting)
    every = zip(prompts, theirs, ours, strict=True)
    return [Pair(tuple(ids), tuple(reference), tuple(bundle)) for ids, reference, bundle in every]


def _continued(session: Session, prompts: Sequence[Sequence[int]], most: int, ending: Ending) -> list[list[int]]:
    """Return what a bundle writes after each prompt, up to a stop id."""
    answers = session.continue_each([np.asarray(ids, np.int64) for ids in prompts], most, stops=ending.ids)
    return [tokens.tolist() for tokens in answers]


def _written(session: Session, prompts: Sequence[Sequence[int]], count: int, ending: Ending) -> list[list[int]]:
    """Return a bundle's answers up to where they end.

    Whether a text is over is asked every `_ROUND` tokens: runtimes know ids alone, and go on from what they have read.
    A Core ML program that is evaluated reads a prompt again each time, so it writes all tokens at once.
    """
    in_rounds = ending.is_over is not None and session.is_own_runtime
    found: list[list[int]] = [[] for _ in prompts]
    active = [*range(len(prompts))]
    while active:
        length = len(found[active[0]])  # the same of all
        most = min(_ROUND, count - length) if in_rounds else count
        asked = [[*prompts[number], *found[number]] for number in active]
        for number, new in zip(active, _continued(session, asked, most, ending), strict=True):
            found[number] = ending.cut(found[number] + new)
        active = [n for n in active if len(found[n]) == length + most < count and not ending.is_reached(found[n])]
    return found


def prompt_ids(bundle: Bundle, tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Return a user's turn as the model gets it: in the bundle's chat template, or plain where it has none.

    Plain, too, where the template fails: the behaviour suite reports what is wrong with it.
    """
    has_template = bundled_template(bundle) is not None
    try:
        text = render_prompt(bundle, prompt)
    except BundleError:
        text = prompt
    return tokenizer.encode(text, add_special_tokens=not has_template)


def in_words(tokenizer: Tokenizer, prompt: str, pair: Pair, stops: frozenset[int]) -> Answer:
    """Return a pair as texts, without their stop ids. Other special tokens are shown: an answer should have none."""
    sides = [[token for token in ids if token not in stops] for ids in (pair.reference, pair.bundle)]
    reference, bundle = (tokenizer.decode(ids, with_special_tokens=True) for ids in sides)
    added = sorted(tokenizer.added_tokens().intersection(sides[1]))
    special = [tokenizer.decode([token], with_special_tokens=True) for token in added if not tokenizer.decode([token])]
    return Answer(
        prompt=prompt,
        reference=reference,
        bundle=bundle,
        tokens=len(pair.bundle),
        first_difference=pair.first_difference,
        reference_ended=pair.reference[-1] in stops,
        bundle_ended=pair.bundle[-1] in stops,
        special_tokens=tuple(special),
    )
