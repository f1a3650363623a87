"""The yardstick's weights: whole numbers of a few bits in blocks of 32, each with a scale of its own."""

from __future__ import annotations

import numpy as np
import pytest

from builders.checkpoint import Checkpoint
from builders.reference import FloatReference, rounded
from builders.reference.rounded import rounded_logits


@pytest.mark.parametrize("bits", [4, 8])
def test_the_pieces_that_are_rounded_at_a_time_change_no_number(
    tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch, bits: int
) -> None:
    tokens = np.arange(5, 17)
    whole = rounded_logits(tiny, tokens, bits)
    monkeypatch.setattr(rounded, "_PIECE_ELEMENTS", 100)
    np.testing.assert_array_equal(rounded_logits(tiny, tokens, bits), whole)


def test_a_block_is_whole_numbers_of_its_own_step(tiny: Checkpoint) -> None:
    name = tiny.architecture.head_tensor
    source = rounded._RoundedSource(tiny.open_tensors(), 4)
    blocks = source.tensor(name).reshape(-1, 32)
    steps = np.abs(tiny.open_tensors().tensor(name).reshape(-1, 32)).max(-1, keepdims=True) / 7
    codes = blocks / steps
    np.testing.assert_allclose(codes, np.rint(codes), atol=1e-4)
    assert np.abs(codes).max() == pytest.approx(7)
    assert source.tensor("model.norm.weight") == pytest.approx(tiny.open_tensors().tensor("model.norm.weight"))


def test_with_8_bits_what_a_matrix_is_multiplied_with_is_rounded_too(tiny: Checkpoint) -> None:
    """As llama.cpp multiplies: both sides in blocks of 32. Where inputs are large, that is most of the distance."""
    tokens = np.arange(5, 17)
    reference = FloatReference(tiny)
    exact = reference.logits(reference.states(tokens[None])[0])
    apart = {bits: np.abs(rounded_logits(tiny, tokens, bits) - exact).max() for bits in (8, 9, 16)}
    assert apart[8] > 2 * apart[9] > 2 * apart[16]
