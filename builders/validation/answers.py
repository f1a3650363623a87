"""The same prompts answered greedily by a bundle and by the float32 reference, for people to read next to each other.

The prompts (`texts/prompts.json`, written for phipack) are harmless and varied: facts, arithmetic, code, translation,
rewriting. Each is a user's turn in the bundle's own chat template. What the reference writes is cached by the
checkpoint: the first cell of a release pays for it, in as many walks as `builders/reference/answers.py` says.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from builders.reference import FloatReference, common_start, reference_answers
from builders.runtime.generation import bundled_template, render_prompt
from builders.runtime.session import Session
from builders.tokenizer import Tokenizer
from builders.validation.measurement import Measurement
from builders.validation.text import read_built_in
from registry.bundle.folder import Bundle
from targets.errors import BundleError
from targets.evaluation import Suite
from targets.evidence_details import Answer
from targets.progress import Step

_COUNTS: dict[Suite, tuple[int, int]] = {"quick": (4, 16), "full": (20, 48)}  # prompts, and tokens of each answer


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


def built_in_prompts() -> list[str]:
    """Return the prompts that come with phipack."""
    found: list[str] = json.loads(read_built_in("prompts.json"))
    return found


def compare_answers(using: Measurement, suite: Suite) -> tuple[Answer, ...]:
    """Return the answers of both to the first prompts, as the suite asks for; none for the suites that ask for none."""
    if suite not in _COUNTS:
        return ()
    number, tokens = _COUNTS[suite]
    prompts = built_in_prompts()[:number]
    pairs = answer(using, [prompt_ids(using.bundle, using.tokenizer, prompt) for prompt in prompts], tokens)
    found = zip(prompts, pairs, strict=True)
    stops = frozenset(using.bundle.manifest.generation.stop_token_ids)
    return tuple(in_words(using.tokenizer, prompt, pair, stops) for prompt, pair in found if pair is not None)


def answer(using: Measurement, prompts: Sequence[Sequence[int]], count: int) -> list[Pair | None]:
    """Continue prompts by up to `count` tokens, by both; None for a prompt too long for that many.

    A prompt whose answer could cross longrope's edge is too long, too. A stop id ends an answer, and is its last token.
    """
    stops = frozenset(using.bundle.manifest.generation.stop_token_ids)
    model = using.bundle.manifest.model
    edge = using.reference.checkpoint.architecture.longrope_edge(model.context_length)

    def fits(ids: Sequence[int]) -> bool:
        crosses = edge is not None and len(ids) <= edge < len(ids) + count
        return 0 < len(ids) <= model.exact_context_length - count and not crosses

    fitting = [ids for ids in prompts if fits(ids)]
    pairs = iter(answer_both(using.session, using.reference, fitting, count, stops))
    return [next(pairs) if fits(ids) else None for ids in prompts]


def answer_both(
    session: Session,
    reference: FloatReference,
    prompts: Sequence[Sequence[int]],
    count: int,
    stops: frozenset[int],
    *,
    most_walks: int | None = None,
) -> list[Pair]:
    """Continue prompts by up to `count` tokens, by both.

    The bundle drafts what the reference corrects, so that an answer which is the same takes one walk. With
    `most_walks`, an answer that takes more is cut where it is known to.
    """
    if not prompts:
        return []
    drafts: dict[tuple[int, ...], list[int]] = {}

    def draft(sequences: Sequence[Sequence[int]], limits: Sequence[int]) -> list[list[int]]:
        new = {tuple(ids): limit for ids, limit in zip(sequences, limits, strict=True) if tuple(ids) not in drafts}
        written = 0
        for most in sorted(set(new.values())):  # no more than is asked for
            some = [ids for ids, limit in new.items() if limit == most]
            answers = session.continue_each([np.asarray(ids, np.int64) for ids in some], most, stops=stops)
            for ids, tokens in zip(some, answers, strict=True):
                reference.on_progress(Step("answer", written, len(new), "prompts"))
                drafts[ids] = tokens.tolist()
                written += 1
        return [drafts[tuple(ids)][:limit] for ids, limit in zip(sequences, limits, strict=True)]

    ours = draft(prompts, [count] * len(prompts))
    reference.on_progress(Step("answer", len(prompts), len(prompts), "prompts"))
    theirs = reference_answers(reference, prompts, count, stops, draft, most_walks=most_walks)
    every = zip(prompts, theirs, ours, strict=True)
    return [Pair(tuple(ids), tuple(reference), tuple(bundle)) for ids, reference, bundle in every]


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
    """Return a pair as texts, without their stop ids."""
    reference, bundle = (
        tokenizer.decode([token for token in ids if token not in stops]) for ids in (pair.reference, pair.bundle)
    )
    return Answer(
        prompt=prompt,
        reference=reference,
        bundle=bundle,
        tokens=len(pair.bundle),
        first_difference=pair.first_difference,
        reference_ended=pair.reference[-1] in stops,
        bundle_ended=pair.bundle[-1] in stops,
    )
