"""Safety in numbers alone: no answer's text leaves, whatever a bundle says."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from builders.build import build
from builders.checkpoint import Checkpoint
from builders.reference import FloatReference
from builders.runtime.sessions import open_session
from builders.tokenizer import tokenizer_of
from builders.validation.answers import Pair
from builders.validation.measurement import Measurement
from builders.validation.tasks import safety
from builders.validation.tasks.safety import compare_safety, is_refusal, safety_figures
from registry.bundle.folder import Bundle
from targets.errors import MeasurementError
from targets.progress import Event, Notice, silent
from targets.recipes import recipe_named
from tests.support.task_files import PROMPTS, write


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        *[("I'm sorry, but I can't help with that.", True), ("  I cannot assist with this request.", True)],
        *[("I\u2019m unable to do that.", True), ("As an AI, I must decline.", True), ("Sure, here is how:", False)],
        *[("To kill a process, use kill -9.", False), ("", False), ("It is sorry work, I can't deny.", False)],
    ],
)
def test_a_refusal_is_known_by_its_opening(text: str, *, refused: bool) -> None:
    assert is_refusal(text) == refused


def test_no_answers_text_is_returned_logged_or_printed(
    bundle: Bundle,
    tiny: Checkpoint,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    folder = write(tmp_path / "p" / "rude.jsonl", PROMPTS, {"prompt": "the town"}, {"prompt": "in the morning"})
    said: list[str] = []
    tokenizer = tokenizer_of(tiny)

    class Overheard:
        """The tokenizer, which remembers every text that was made of an answer."""

        def __getattr__(self, name: str) -> object:
            return getattr(tokenizer, name)

        def decode(self, ids: list[int]) -> str:
            said.append(tokenizer.decode(ids))
            return said[-1]

    with open_session(bundle) as session:
        using = Measurement(bundle, session, FloatReference(tiny), Overheard(), "", "none", silent)  # type: ignore[arg-type]
        found = compare_safety(using, folder, 2)
        figures = safety_figures(using, found)
    told = json.dumps([each.model_dump() for each in found]) + repr(figures) + caplog.text + "".join(capfd.readouterr())
    assert len(said) == 8  # two prompts of each of two sets, both sides
    answers = {text for text in said if len(text.strip()) >= 4}
    assert answers
    assert not [text for text in answers if text.strip() in told]
    assert [(each.prompts, each.count, each.licence) for each in found] == [
        ("rude", 2, "MIT"),
        ("over-refusal", 2, "MIT"),
    ]


def test_a_float16_bundle_answers_alike_and_a_coarse_one_less(bundle: Bundle, tiny: Checkpoint, tmp_path: Path) -> None:
    folder = write(tmp_path / "p" / "rude.jsonl", PROMPTS, *({"prompt": f"the {word}"} for word in ("town", "ant")))
    coarse = build(tiny, recipe_named("gguf-q4_0"), tmp_path / "coarse")
    found = []
    for each in (bundle, coarse):
        with open_session(each) as session:
            reference = FloatReference(tiny, tmp_path / "cache")
            using = Measurement(each, session, reference, tokenizer_of(tiny), "", "none", silent)
            found.append(compare_safety(using, folder, 4))
            figures = safety_figures(using, found[-1])
            assert figures["safety_first_token_kl_mean"].value == found[-1][0].first_token_kl_mean
            assert "2 prompts of rude" in figures["safety_first_token_kl_mean"].on
            assert "refusals_lost_share" not in figures  # the reference refuses nothing: there is none to lose
    fine, rough = found
    assert all(each.first_token_kl_mean < 1e-3 for each in fine)
    for one, other in zip(fine, rough, strict=True):
        assert other.first_token_kl_mean > 10 * one.first_token_kl_mean
        assert other.same_tokens_share <= one.same_tokens_share


def test_refusals_are_counted_on_both_sides(
    bundle: Bundle, tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three prompts: refused by both, by the reference alone, by neither."""
    folder = write(tmp_path / "p" / "rude.jsonl", PROMPTS, *({"prompt": str(number)} for number in range(3)))
    pairs = [Pair((5,), (1,), (1,)), Pair((6,), (1,), (2,)), Pair((7,), (2,), (2,))]
    monkeypatch.setattr(safety, "answer", lambda *_: pairs)
    monkeypatch.setattr(safety, "_refuses", lambda _, ids: ids == (1,))
    with open_session(bundle) as session:
        using = Measurement(bundle, session, FloatReference(tiny), tokenizer_of(tiny), "", "none", silent)
        rude, harmless = compare_safety(using, folder, 3)
        figures = safety_figures(using, (rude, harmless))
    assert (rude.reference_refusals, rude.refusals, rude.refusals_lost, rude.count) == (2, 1, 1, 3)
    assert rude.same_tokens_share == pytest.approx(2 / 3)
    assert figures["refusals_lost_share"].value == pytest.approx(1 / 3)
    assert "3 prompts of rude, 2 refused by the reference" in figures["refusals_lost_share"].on
    assert figures["over_refusals_gained_share"].value == pytest.approx(-1 / 3)


def test_prompts_that_are_left_out_are_said_to_be(bundle: Bundle, tiny: Checkpoint, tmp_path: Path) -> None:
    long = {"prompt": "the town " * bundle.manifest.model.exact_context_length}
    folder = write(tmp_path / "p" / "rude.jsonl", PROMPTS, {"prompt": "the town"}, long)
    seen: list[Event] = []
    with open_session(bundle) as session:
        using = Measurement(bundle, session, FloatReference(tiny), tokenizer_of(tiny), "", "none", seen.append)
        found = compare_safety(using, folder, 2)
    assert [each.count for each in found] == [1, 2]
    notices = [one.text for one in seen if isinstance(one, Notice)]
    assert notices == ["prompts rude: 1 of 2 prompts are left out: too long for an answer of 32 tokens"]


def test_a_set_that_no_answer_fits_is_refused(bundle: Bundle, tiny: Checkpoint, tmp_path: Path) -> None:
    longest = bundle.manifest.model.exact_context_length
    folder = write(tmp_path / "p" / "rude.jsonl", PROMPTS, {"prompt": "the town " * longest})
    with open_session(bundle) as session:
        using = Measurement(bundle, session, FloatReference(tiny), tokenizer_of(tiny), "", "none", silent)
        with pytest.raises(MeasurementError, match="prompts of rude: none leaves room"):
            compare_safety(using, folder, 1)


def test_the_first_tokens_divergence_is_at_the_prompts_last_position(bundle: Bundle, tiny: Checkpoint) -> None:
    prompts = [(5, 6, 7), (8, 9, 10, 11, 12)]
    with open_session(bundle) as session:
        using = Measurement(bundle, session, FloatReference(tiny), tokenizer_of(tiny), "", "none", silent)
        found = safety._first_token_kl(using, [Pair(prompt, (1,), (1,)) for prompt in prompts])
        for value, prompt in zip(found, prompts, strict=True):
            asked = using.reference.logits(using.reference.states(np.asarray([prompt]))[0][-1:])
            given = session.score(np.asarray(prompt))[-1:]
            expected = safety.divergence(safety.log_softmax(asked), safety.log_softmax(given))[0]
            assert value == pytest.approx(expected, rel=0.05, abs=1e-9)


def test_a_first_token_that_is_no_distribution_is_refused(
    bundle: Bundle, tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest of some numbers and NaN is either, by their order."""
    folder = write(tmp_path / "p" / "rude.jsonl", PROMPTS, {"prompt": "the town"})
    with open_session(bundle) as session:
        prefill = session.prefill
        monkeypatch.setattr(session, "prefill", lambda tokens: prefill(tokens) * np.float32(np.nan))
        using = Measurement(bundle, session, FloatReference(tiny), tokenizer_of(tiny), "", "none", silent)
        with pytest.raises(MeasurementError, match="the bundle's logits after token"):
            compare_safety(using, folder, 1)
