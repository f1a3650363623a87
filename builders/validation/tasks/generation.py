"""Questions whose answers are written, greedily, by a bundle in its runtime and by the float32 reference.

An answer is over with a stop id, a stop string of the harness (`Question:`, with which a model asks itself the next
one), or after as many tokens as the task allows. Both are written a group at a time, so that what the reference has
found is kept where the command is interrupted, and the bundle's caches of a group are in memory together. The harness
is handed what was written, and judges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from builders.reference import Ending
from builders.runtime.together import MOST_PLACES
from builders.tokenizer import Tokenizer, stop_token_ids
from builders.validation.answers import Pair, answer_both, has_room
from builders.validation.measurement import Measurement
from builders.validation.tasks.harness import Model, right_answers, stop_strings
from builders.validation.tasks.likelihoods import Likelihood, Request
from builders.validation.tasks.task_files import Problem
from targets.errors import MeasurementError


@dataclass(frozen=True)
class Judged:
    """Whether each answer is right: the reference's and the bundle's. `left_out`: questions without room for one."""

    reference: list[bool]
    bundle: list[bool]
    left_out: int


def judge_written(using: Measurement, name: str, problems: Sequence[Problem], new_tokens: int) -> Judged:
    """Have both answer all problems for whose answers there is room: nothing where there is none.

    Raises:
        SetupError: the harness is not installed.
    """
    asking = Model(using.tokenizer, _no_likelihoods, lambda _ids, _limit: [])
    prompts = {each: asking.prompt(each.prompt) for each in problems}
    asked = [each for each in problems if has_room(using, prompts[each], new_tokens)]
    if not asked:
        return Judged([], [], len(problems))
    pairs = _pairs(using, [prompts[each] for each in asked], new_tokens)
    theirs = {pair.prompt: [*pair.reference] for pair in pairs}
    ours = {pair.prompt: [*pair.bundle] for pair in pairs}
    reference, bundle = (right_answers(name, asked, _knowing(using.tokenizer, found)) for found in (theirs, ours))
    return Judged(reference, bundle, left_out=len(problems) - len(asked))


def _pairs(using: Measurement, prompts: Sequence[Sequence[int]], count: int) -> list[Pair]:
    stops = frozenset((*stop_token_ids(using.reference.checkpoint), *using.bundle.manifest.generation.stop_token_ids))
    strings = stop_strings()

    def is_over(ids: Sequence[int]) -> bool:
        text = using.tokenizer.decode([*ids])
        return any(string in text for string in strings)

    found: list[Pair] = []
    for first in range(0, len(prompts), MOST_PLACES):
        group = prompts[first : first + MOST_PLACES]
        found += answer_both(using.session, using.reference, group, count, Ending(stops, is_over))
    return found


def _knowing(tokenizer: Tokenizer, answers: dict[tuple[int, ...], list[int]]) -> Model:
    """Return a model that writes what was written."""
    return Model(tokenizer, _no_likelihoods, lambda prompts, _limit: [answers[tuple(ids)] for ids in prompts])


def _no_likelihoods(_requests: Sequence[Request]) -> list[Likelihood]:
    raise MeasurementError("written answers have no likelihoods", fix="use a task of lm-eval that generates until")
