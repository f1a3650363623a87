"""Greedy answers: what counts as a loop, and that the reference's answers are those that it would write itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from builders.runtime.session import Session
from builders.validation.answers import (
    SAMPLES,
    Answered,
    AnswerSample,
    Pair,
    answer_built_in,
    built_in_prompts,
    shown_answers,
)
from builders.validation.behaviour.degeneration import Written, check_degeneration, is_loop
from targets.evaluation import Suite
from tests.support.mutants import Nursery, subject_of

SAMPLE = AnswerSample(prompts=3, tokens=8, evaluated_tokens=6)
KINDS = ("empty_share", "endless_share", "loop_share")


@pytest.mark.parametrize(
    ("tokens", "longest", "expected"),
    [
        ([1] * 60, 256, True),
        ([1] * 47, 256, False),  # too short a stretch
        ([*range(100), *[5, 6, 7] * 16], 256, True),
        ([*range(16)] * 3, 256, True),
        ([*range(17)] * 3, 256, False),  # the stretch holds it less than three times
        ([*range(100)], 256, False),
        ([*[5] * 60, 6], 256, False),  # it found its way out
        ([1] * 24, 32, True),
        ([], 32, False),
    ],
)
def test_a_loop_is_an_end_that_repeats(tokens: list[int], longest: int, expected: bool) -> None:
    assert is_loop(tokens, longest) == expected


def test_what_is_wrong_with_an_answer() -> None:
    assert Written((), ended=True).kinds(32) == {"empty"}
    assert Written((1, 2), ended=True).kinds(32) == set()
    assert Written((1,) * 32, ended=False).kinds(32) == {"endless", "loop"}


def test_the_references_answers_are_its_own(nursery: Nursery) -> None:
    """A bundle of 4 bits strays at once; its answers must not show in the reference's."""
    sound = nursery.sound("llama, long")
    with subject_of(nursery.bundle("llama, long", "onnx-int4"), sound) as subject:
        answered = answer_built_in(subject, SAMPLE)
        found = shown_answers(subject.tokenizer, answered)
        assert any(answer.first_difference is not None for answer in found)
        for prompt, answer in zip(built_in_prompts(), found, strict=False):
            ids = subject.tokenizer.encode(f"<|user|>\n{prompt}<|end|>\n<|assistant|>\n")
            own = sound.reference.greedy(np.asarray([ids]), SAMPLE.tokens)[0].tolist()
            stop = next((place for place, token in enumerate(own) if token in {310, 311, 312}), len(own))
            if answer.prompt == prompt:
                assert answer.reference == subject.tokenizer.decode(own[:stop])
                assert answer.reference_ended == (stop < len(own))


class Parrot(Session):
    """A session that writes one token for ever, or ends at once."""

    runtime, is_own_runtime = "parrot", True

    def __init__(self, token: int) -> None:
        self._logits = np.zeros(320, np.float32)
        self._logits[token] = 1

    def prefill(self, tokens: object) -> np.ndarray:
        return self._logits

    step = extend = prefill


@pytest.mark.parametrize(("token", "kind"), [(65, "loop"), (65, "endless"), (310, "empty")])
def test_answers_that_degenerate_are_caught(token: int, kind: str, nursery: Nursery) -> None:
    sound = nursery.sound("llama, long")
    sample = replace(SAMPLE, prompts=4)
    with subject_of(nursery.bundle("llama, long", "onnx-fp16"), sound) as subject:
        other = replace(subject, session=Parrot(token))
        pairs = [replace(pair, reference=(65, 66, 312)) for pair in answer_built_in(other, sample).pairs]
        found = check_degeneration(replace(answer_built_in(other, sample), pairs=tuple(pairs)))
    failed = {check.name: check for check in found.findings.checks if not check.passed}
    assert failed[f"share of 8 answers: {kind}"].detail.endswith("prompts 1, 2, 3, 4, 5, 6, 7, 8")
    assert found.figures[f"{kind}_share"] == 1
    assert found.figures[f"reference_{kind}_share"] == 0


def test_answers_that_degenerate_as_the_references_do_are_no_alarm(nursery: Nursery) -> None:
    with subject_of(nursery.bundle("llama, long", "onnx-fp16"), nursery.sound("llama, long")) as subject:
        other = replace(subject, session=Parrot(65))
        pairs = [replace(pair, reference=pair.bundle) for pair in answer_built_in(other, SAMPLE).pairs]
        found = check_degeneration(replace(answer_built_in(other, SAMPLE), pairs=tuple(pairs)))
    assert (found.figures["endless_share"], found.figures["reference_endless_share"]) == (1, 1)
    assert all(check.passed for check in found.findings.checks)


@pytest.mark.parametrize(("ended", "is_run"), [(2, True), (1, False), (0, False)])
def test_a_check_that_could_not_fail_is_not_run(ended: int, *, is_run: bool) -> None:
    """Of 4 answers one may be as bad by chance: where 3 of the reference's are, all of the bundle's may be."""
    ends, runs_on = (65, 312), (65, 66)
    pairs = [Pair((1,), ends if number < ended else runs_on, runs_on) for number in range(4)]
    answered = Answered(("?",) * 4, tuple(pairs), longest=2, stops=frozenset((312,)))
    found = check_degeneration(answered)
    endless = "share of 4 answers: endless"
    assert (endless in [check.name for check in found.findings.checks]) == is_run
    reasons = [one.reason for one in found.findings.not_run if one.name == endless]
    assert reasons == (
        [] if is_run else [f"{1 - ended / 4:.0%} of float32's own are so, too; 4 answers are too few to tell more"]
    )
    assert found.figures["endless_share"] == 1


def test_what_is_not_answered_is_said() -> None:
    found = check_degeneration(Answered())
    assert "no room" in found.findings.not_run[0].reason


def test_the_answers_of_an_evaluated_program_are_looked_at(nursery: Nursery) -> None:
    with subject_of(nursery.bundle("llama, long", "coreml-fp16"), nursery.sound("llama, long")) as subject:
        assert not subject.session.is_own_runtime
        answered = answer_built_in(subject, SAMPLE)
        found = check_degeneration(answered)
    assert answered.longest == SAMPLE.evaluated_tokens
    assert len(answered.pairs) == 2 * SAMPLE.prompts
    assert all(found.figures[kind] == found.figures[f"reference_{kind}"] for kind in KINDS)
    assert found.findings.checks
    assert all(check.passed for check in found.findings.checks)


@pytest.mark.parametrize("suite", ["quick", "behaviour", "full"])
def test_answers_of_evaluated_programs_are_long_enough_for_a_loop(suite: Suite) -> None:
    longest = SAMPLES[suite].evaluated_tokens
    assert is_loop([*range(longest // 4), *[7, 8] * (longest * 3 // 8)], longest)
