"""A calibration text that has passages of the evaluation's is refused, however they are wrapped."""

from __future__ import annotations

import textwrap

import numpy as np
import pytest

from builders.quantization.calibration.overlap import BOUND, require_unseen, shared_share
from builders.quantization.calibration.text import CalibrationText, read_calibration_text
from builders.validation.sampled_texts import plain_texts
from targets.calibration import CalibrationSettings
from targets.errors import CalibrationError
from targets.evaluation import EvaluationSettings


def words(seed: int, count: int) -> str:
    rng = np.random.default_rng(seed)
    return " ".join("".join(map(chr, rng.integers(97, 123, 7))) for _ in range(count))


def test_the_built_in_texts_share_nothing() -> None:
    evaluation = plain_texts(EvaluationSettings(suite="full"))
    assert next(iter(evaluation)) == "the built-in text"
    assert len(evaluation) == 5
    for text in evaluation.values():
        assert shared_share(read_calibration_text(CalibrationSettings()).plain, text) == 0


def test_the_same_text_is_shared_whole_and_another_not_at_all() -> None:
    text = words(0, 500)
    assert shared_share(text, text) == 1
    assert shared_share(text, words(1, 500)) == 0


def test_wrapping_and_case_change_nothing() -> None:
    text = words(0, 500)
    assert shared_share(text, "\n".join(textwrap.wrap(text, 40)).upper()) == 1


def test_the_share_is_of_the_shorter_one() -> None:
    """An evaluation's excerpt of a long calibration text is a share of 1, not of a thousandth."""
    excerpt = words(0, 100)
    assert shared_share(words(1, 5000) + excerpt + words(2, 5000), excerpt) == 1
    assert shared_share(excerpt, words(1, 5000) + excerpt) == 1


def test_texts_shorter_than_a_window_share_nothing() -> None:
    assert shared_share("short", "short") == 0
    assert shared_share("", words(0, 100)) == 0


@pytest.mark.parametrize(("own_words", "refused"), [(30, True), (3, False)])
def test_a_paragraph_is_refused_and_a_phrase_is_not(own_words: int, *, refused: bool) -> None:
    """A window has 64 letters, nine of these words: a phrase of three has none, a paragraph of 30 some 150 of 7,000."""
    evaluation = words(0, 1000)
    text = CalibrationText("mine.txt", (words(1, 1000) + " ".join(evaluation.split()[200 : 200 + own_words]),))
    share = shared_share(text.plain, evaluation)
    assert (share > BOUND) == refused
    if not refused:
        require_unseen(text, evaluation, "held-out.txt")
        return
    with pytest.raises(
        CalibrationError, match=r"mine.txt and held-out.txt, .* share passages: 2 % of the shorter"
    ) as error:
        require_unseen(text, evaluation, "held-out.txt")
    assert "[calibration] text" in error.value.fix
