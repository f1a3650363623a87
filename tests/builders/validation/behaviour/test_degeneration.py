"""Greedy answers: what counts as a loop, and that the reference's answers are those that it would write itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from builders.runtime.session import Session
from builders.validation.behaviour.degeneration import Written, check_degeneration, is_loop
from builders.validation.behaviour.prompts import PROMPTS
from builders.validation.behaviour.subject import Sample
from tests.support.mutants import Nursery, subject_of

SAMPLE = Sample(edge_tokens=200, answers=3, answer_tokens=8, reference_walks=8)


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
    """A bundle of 4 bits strays at once; its drafts must not show in the reference's answers."""
    sound = nursery.sound("llama, long")
    with subject_of(nursery.bundle("llama, long", "onnx-int4"), sound, SAMPLE) as subject:
        found = check_degeneration(subject)
        assert any(answer.first_difference is not None for answer in found.answers)
        for prompt, answer in zip(PROMPTS, found.answers, strict=False):
            ids = subject.tokenizer.encode(f"<|user|>\n{prompt}<|end|>\n<|assistant|>\n")
            own = sound.reference.greedy(np.asarray([ids]), SAMPLE.answer_tokens)[0].tolist()
            stop = next((place for place, token in enumerate(own) if token in {310, 311, 312}), len(own))
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
def test_answers_that_degenerate_are_caught(token: int, kind: str, nursery: Nursery, tmp_path: Path) -> None:
    sound = nursery.sound("llama, long")
    with subject_of(nursery.bundle("llama, long", "onnx-fp16"), sound, replace(SAMPLE, answers=8)) as subject:
        other = replace(subject, session=Parrot(token), reference=Ending(sound.reference))  # type: ignore[arg-type]
        found = check_degeneration(other)
    failed = {check.name: check for check in found.findings.checks if not check.passed}
    assert failed[f"share of 8 answers: {kind}"].detail.endswith("prompts 1, 2, 3, 4, 5, 6, 7, 8")
    assert found.figures[f"{kind}_share"] == 1
    assert found.figures[f"reference_{kind}_share"] == 0


class Ending:
    """A reference that writes 65, 66 and a stop id, whatever it is asked."""

    def __init__(self, sound: object) -> None:
        self._sound = sound

    def __getattr__(self, name: str) -> object:
        return getattr(self._sound, name)

    def likeliest(self, sequences: np.ndarray) -> np.ndarray:
        found = np.full_like(sequences, 65)
        found[sequences == 65] = 66
        found[sequences == 66] = 312
        return found


class Counting:
    """A reference that writes 65, 66, 67, … and, after some more tokens than can be read in its walks, a stop id."""

    def __init__(self, sound: object) -> None:
        self._sound = sound

    def __getattr__(self, name: str) -> object:
        return getattr(self._sound, name)

    def likeliest(self, sequences: np.ndarray) -> np.ndarray:
        return np.where((sequences >= 65) & (sequences < 90), sequences + 1, 65)


class Restless(Parrot):
    """A session that never ends and never repeats itself."""

    def __init__(self) -> None:
        super().__init__(65)
        self._random = np.random.default_rng(0)

    def prefill(self, tokens: object) -> np.ndarray:
        return self._random.random(320, np.float32) * (np.arange(320) < 300)

    step = extend = prefill


@pytest.mark.parametrize(
    ("session", "failed"),
    [
        (Parrot(65), "share of 8 answers: loop"),
        (Restless(), "share of 8 answers: endless, 0 of the reference's known"),
    ],
)
def test_the_worst_answers_are_caught_where_no_walk_reaches_the_references_end(
    session: Session, failed: str, nursery: Nursery
) -> None:
    sound = nursery.sound("longrope at 256")
    sample = replace(SAMPLE, answers=8, answer_tokens=130, reference_walks=4)
    with subject_of(nursery.bundle("longrope at 256", "onnx-fp16"), sound, sample) as subject:
        other = replace(subject, session=session, reference=Counting(sound.reference))  # type: ignore[arg-type]
        found = check_degeneration(other)
    assert failed in {check.name for check in found.findings.checks if not check.passed}
    assert "8 of 8" in found.findings.not_run[0].name


def test_an_evaluated_program_writes_no_answers(nursery: Nursery) -> None:
    with subject_of(nursery.bundle("llama", "coreml-fp16"), nursery.sound("llama"), SAMPLE) as subject:
        found = check_degeneration(subject)
    assert found.figures == {}
    assert "is not the format's own runtime" in found.findings.not_run[0].reason
