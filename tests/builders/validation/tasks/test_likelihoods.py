"""Likelihoods of continuations against plain sums over a whole forward pass, by both sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_softmax

from builders.checkpoint import Checkpoint, open_checkpoint
from builders.reference import FloatReference
from builders.runtime.sessions import open_session
from builders.validation.tasks import likelihoods
from builders.validation.tasks.likelihoods import Request, reference_likelihoods, session_likelihoods
from registry.bundle.folder import Bundle
from targets.errors import MeasurementError
from tests.support.checkpoints import write_tiny

REQUESTS = [
    Request((5, 6, 7), (8,)),
    Request((5, 6, 7), (9,)),
    Request((5, 6, 7), (8, 10, 11)),
    Request((5, 6, 7, 8, 10), (11,)),  # the same sequence as the one before, at another place
    Request((3,), (4, 5)),
    Request((12,) * 40, (13,)),
]


def plain(reference: FloatReference, request: Request) -> tuple[float, bool]:
    """Return a likelihood from the logits of all positions of one sequence."""
    tokens = (*request.context, *request.continuation)
    rows = log_softmax(reference.logits(reference.states(np.asarray([tokens]))[0]).astype(np.float64), axis=-1)
    places = range(len(request.context), len(tokens))
    total = sum(rows[place - 1, tokens[place]] for place in places)
    return total, all(rows[place - 1].argmax() == tokens[place] for place in places)


def test_the_references_are_those_of_each_sequence_alone(tiny: Checkpoint) -> None:
    reference = FloatReference(tiny)
    found = reference_likelihoods(reference, REQUESTS)
    for each, request in zip(found, REQUESTS, strict=True):
        total, is_greedy = plain(reference, request)
        assert each.log_probability == pytest.approx(total, abs=1e-4)
        assert each.is_greedy == is_greedy


def test_greedy_is_what_the_reference_writes(tiny: Checkpoint) -> None:
    reference = FloatReference(tiny)
    written = tuple(reference.greedy(np.asarray([[5, 6, 7]]), 3)[0].tolist())
    right, wrong = reference_likelihoods(
        reference, [Request((5, 6, 7), written), Request((5, 6, 7), (*written[:2], (written[2] + 1) % 300))]
    )
    assert right.is_greedy
    assert not wrong.is_greedy


def test_what_is_kept_is_of_these_continuations_and_of_no_longer_ones(tiny: Checkpoint, tmp_path: Path) -> None:
    """Token 0 is a token, and not only what rows are filled up with."""
    reference, other = FloatReference(tiny, tmp_path), Request((3,), (4, 5))
    for continuation in ((7,), (7, 0)):
        request = Request((5,), continuation)
        found, _ = reference_likelihoods(reference, [request, other])
        assert found.log_probability == pytest.approx(plain(reference, request)[0], abs=1e-4)


def test_batches_change_nothing(tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = reference_likelihoods(FloatReference(tiny), REQUESTS)
    monkeypatch.setattr(likelihoods, "_TOKENS", 8)
    for one, other in zip(whole, reference_likelihoods(FloatReference(tiny), REQUESTS), strict=True):
        assert one.log_probability == pytest.approx(other.log_probability, abs=1e-4)


def test_a_bundle_in_float16_agrees(tiny: Checkpoint, bundle: Bundle) -> None:
    with open_session(bundle) as session:
        found = session_likelihoods(session, REQUESTS)
    for ours, theirs in zip(found, reference_likelihoods(FloatReference(tiny), REQUESTS), strict=True):
        assert ours.log_probability == pytest.approx(theirs.log_probability, abs=0.02)


def test_letters_after_one_question_are_computed_once(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    with open_session(bundle) as session:
        prefill = session.prefill

        def counted(tokens: np.ndarray) -> np.ndarray:
            asked.append(len(tokens))
            return prefill(tokens)

        monkeypatch.setattr(session, "prefill", counted)
        session_likelihoods(session, [Request((5, 6, 7), (letter,)) for letter in range(20, 24)])
    assert asked == [3]


def test_the_references_are_cached(tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = FloatReference(tiny, tmp_path / "cache")
    first = reference_likelihoods(reference, REQUESTS)
    monkeypatch.setattr(FloatReference, "states", lambda *_: pytest.fail("walked again"))
    again = reference_likelihoods(reference, REQUESTS)
    assert [each.is_greedy for each in again] == [each.is_greedy for each in first]
    assert [each.log_probability for each in again] == pytest.approx([each.log_probability for each in first])


def test_a_batch_across_longropes_edge_changes_nothing(tmp_path: Path) -> None:
    reference = FloatReference(
        open_checkpoint(write_tiny(tmp_path / "c", original_context=16, context=64, dtype="F16"))
    )
    for each, request in zip(reference_likelihoods(reference, REQUESTS), REQUESTS, strict=True):
        assert each.log_probability == pytest.approx(plain(reference, request)[0], abs=1e-4)


@pytest.mark.parametrize("continuation", [(8,), (8, 10)])
def test_logits_that_are_no_distribution_are_refused(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, continuation: tuple[int, ...]
) -> None:
    """NaN has no likeliest choice: the first one would be it, which is right in one question of four."""
    with open_session(bundle) as session:
        for method in ("prefill", "score"):
            found = getattr(session, method)
            monkeypatch.setattr(session, method, lambda tokens, found=found: found(tokens) * np.float32(np.nan))
        with pytest.raises(MeasurementError, match="the bundle's logits after token 2 are not a distribution"):
            session_likelihoods(session, [Request((5, 6, 7), continuation)])
