"""Prompts answered by both: where they part, how they end, and what is left out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from builders.build import build
from builders.checkpoint import Checkpoint, open_checkpoint
from builders.reference import Ending, FloatReference
from builders.runtime.sessions import open_session
from builders.tokenizer import tokenizer_of
from builders.validation.answers import (
    QUICK,
    Pair,
    answer,
    answer_both,
    answer_built_in,
    answer_for_suite,
    built_in_prompts,
    harmless_prompts,
    prompt_ids,
    shown_answers,
)
from builders.validation.measurement import Measurement
from registry.bundle.folder import Bundle
from targets.errors import BundleError
from targets.progress import silent
from targets.recipes import recipe_named
from tests.support.checkpoints import write_tiny

Measuring = Callable[..., Measurement]


@pytest.fixture
def measuring() -> Iterator[Measuring]:
    """Open bundles in this process, and close them."""
    with ExitStack() as opened:

        def of(bundle: Bundle, checkpoint: Checkpoint, cache: Path | None = None) -> Measurement:
            session, reference = opened.enter_context(open_session(bundle)), FloatReference(checkpoint, cache)
            return Measurement(bundle, session, reference, tokenizer_of(checkpoint), "", "none", silent)

        yield of


@pytest.mark.parametrize(
    ("reference", "bundle", "expected"),
    [
        *[((1, 2, 3), (1, 2, 3), None), ((1, 2, 3), (1, 9, 3), 1), ((1, 2), (1, 2, 3), 2), ((9, 2), (1, 2), 0)],
        ((1, 2, 3), (1, 2), 2),
    ],
)
def test_where_two_answers_part(reference: tuple[int, ...], bundle: tuple[int, ...], expected: int | None) -> None:
    assert Pair((), reference, bundle).first_difference == expected


SHORT = replace(QUICK, tokens=16, evaluated_tokens=5)


def test_both_answer_alike_in_float16_and_the_texts_are_the_tokens(
    bundle: Bundle, tiny: Checkpoint, measuring: Measuring
) -> None:
    using = measuring(bundle, tiny)
    answered = answer_built_in(using, SHORT)
    answers = shown_answers(using.tokenizer, answered)
    assert [each.prompt for each in answers] == [*built_in_prompts()[:4], *harmless_prompts()[:4]]
    assert (answered.harmless, answered.longest) == (4, 16)
    pair = answered.pairs[0]
    assert list(pair.prompt) == prompt_ids(bundle, using.tokenizer, answers[0].prompt)
    expected = FloatReference(tiny).greedy(np.asarray([pair.prompt]), len(pair.reference))[0]
    assert pair.reference == tuple(expected)
    assert answers[0].bundle.startswith(using.tokenizer.decode(list(pair.bundle[:-1])))
    assert answers[0].tokens == len(pair.bundle) <= 16
    assert sum(each.first_difference is None for each in answers) >= len(answers) / 2


def test_a_coarse_bundle_parts_and_the_reference_keeps_its_own_words(
    bundle: Bundle, tiny: Checkpoint, tmp_path: Path, measuring: Measuring
) -> None:
    coarse = build(tiny, recipe_named("gguf-q4_0"), tmp_path / "coarse")
    used = [measuring(each, tiny, tmp_path / "cache") for each in (bundle, coarse)]
    fine, rough = (shown_answers(using.tokenizer, answer_built_in(using, SHORT)) for using in used)
    assert [each.reference for each in fine] == [each.reference for each in rough]
    assert any(each.first_difference is not None for each in rough)


def test_answers_are_shorter_where_the_context_ends_and_where_a_program_is_evaluated(
    tmp_path: Path, measuring: Measuring
) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "c", context=96, dtype="F16"))
    longest = 96 - max(len(tokenizer_of(checkpoint).encode(text)) for text in built_in_prompts()[:1])
    one = replace(SHORT, prompts=1, tokens=500)
    bundles = {
        recipe: build(checkpoint, recipe_named(recipe), tmp_path / recipe) for recipe in ("onnx-fp16", "coreml-fp16")
    }
    found = {recipe: answer_built_in(measuring(each, checkpoint), one) for recipe, each in bundles.items()}
    assert 0 < found["onnx-fp16"].longest < longest
    if sys.platform != "darwin":
        assert found["coreml-fp16"].longest == 5
        assert answer_for_suite(measuring(bundles["coreml-fp16"], checkpoint), "behaviour").pairs == ()
    cramped = build(checkpoint, recipe_named("onnx-fp16"), tmp_path / "cramped", context_length=32)
    assert answer_built_in(measuring(cramped, checkpoint), SHORT).pairs == ()


def test_a_prompt_too_long_for_an_answer_is_left_out(bundle: Bundle, tiny: Checkpoint, measuring: Measuring) -> None:
    longest = bundle.manifest.model.exact_context_length
    found = answer(measuring(bundle, tiny), [[5] * (longest - 3), [5] * (longest - 4), []], 4)
    assert [each is None for each in found] == [True, False, True]


def test_a_prompt_whose_answer_could_cross_longropes_edge_is_left_out(tmp_path: Path, measuring: Measuring) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "c", original_context=48, context=120, dtype="F16"))
    using = measuring(build(checkpoint, recipe_named("onnx-fp16"), tmp_path / "b"), checkpoint)
    found = answer(using, [[5] * length for length in (44, 45, 48, 49)], 4)
    assert [each is None for each in found] == [False, True, True, False]


def test_suites_without_answers_have_none(bundle: Bundle, tiny: Checkpoint, measuring: Measuring) -> None:
    assert answer_for_suite(measuring(bundle, tiny), "accuracy").pairs == ()
    every = [*built_in_prompts(), *harmless_prompts()]
    assert len(every) == len(set(every)) == 32


def test_a_template_that_fails_does_not_end_the_validation(
    bundle: Bundle, tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> str:
        raise BundleError("the chat template fails", fix="build it again")

    monkeypatch.setattr("builders.validation.answers.render_prompt", fails)
    tokenizer = tokenizer_of(tiny)
    assert prompt_ids(bundle, tokenizer, "the town") == tokenizer.encode("the town", add_special_tokens=False)


@pytest.mark.parametrize("is_own", [True, False])
def test_a_bundle_drafts_in_its_own_runtime_where_the_references_weights_are_read_in_each_walk(
    tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_own: bool
) -> None:
    monkeypatch.setattr("builders.reference.sequences.RESIDENT_BYTES", 0)
    asked: list[tuple[int, int]] = []
    coarse = build(tiny, recipe_named("gguf-q4_0"), tmp_path / "coarse")
    with open_session(coarse) as session:

        class Overheard:
            is_own_runtime = is_own

            def continue_each(
                self, prompts: Sequence[np.ndarray], count: int, **options: object
            ) -> Iterator[np.ndarray]:
                asked.extend((len(ids), count) for ids in prompts)
                return session.continue_each(prompts, count, **options)  # type: ignore[arg-type]

        prompts = [[5, 6, 7], [8, 9, 10]]
        found = answer_both(Overheard(), FloatReference(tiny), prompts, 24, Ending())  # type: ignore[arg-type]
    assert asked[:2] == [(3, 24), (3, 24)]
    assert (len({length for length, _ in asked}) > 2) == is_own  # some answers were corrected, at different places
    assert all(count <= 16 and length + count < 27 for length, count in asked[2:])
    for prompt, pair in zip(prompts, found, strict=True):
        assert list(pair.reference) == FloatReference(tiny).greedy(np.asarray([prompt]), 24)[0].tolist()
